"""Our fine-tuning beside `transformers.Trainer`, our prediction beside its pipeline; all sides in turn, in one process.

`python -m benchmarks.bert_sentiment --data FOLDER` measures, and writes `results/bert_sentiment-benchmark.json`:

1. steps of a whole run of ours, with every callback and logger that `train` has, against `transformers.Trainer` with its
   default collator, and against the same with `group_by_length`;
2. prediction of the validation split against `pipeline("text-classification", batch_size=32)`: both in the precision of
   training, as `predict` does it, and both in float32, which is the pipeline's own choice.

Every side has the same checkpoint, precision and batch size, AdamW with clipping, and learns all weights. Run it on an
otherwise idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.results import write_result
from benchmarks.timing import interleave, ratio, seconds
from common.cli.parser import CapstoneCLI
from common.nn.device import default_precision, device_name, keep_freed_memory
from common.run.run import run
from projects.bert_sentiment.data import TextData, encode
from projects.bert_sentiment.inference import TextClassifier
from projects.bert_sentiment.networks import OwnHead
from projects.bert_sentiment.pretrained import load_model, quiet_transformers
from projects.bert_sentiment.train import PROJECT

BATCH = 32
WARMUP = 10  # steps of each run that are not timed
LR = 2e-5


class Clock(Callback):
    """The moments at which steps end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the time."""
        self.ends.append(time.perf_counter())


def step_seconds(ends: list[float]) -> float:
    """The mean time of a step behind the first ones."""
    return (ends[-1] - ends[WARMUP - 1]) / (len(ends) - WARMUP)


def our_run(data: str, checkpoint: str, steps: int) -> float:
    """Seconds of a step of a run as the command line makes it."""
    clock = Clock()
    flags = ["--data.source", data, "--model.checkpoint", checkpoint, "--accelerator", "cpu", "--max_epochs", "1"]
    flags += ["--data.batch_size", str(BATCH), "--data.val_size", "0", "--max_steps", str(steps), "--checkpoint_every", "0"]
    flags += ["--model.pooling", "cls", "--model.lr", str(LR), "--trainer.gradient_clip_val", "1.0"]
    flags += ["--trainer.limit_test_batches", "0"]
    with tempfile.TemporaryDirectory() as folder, chdir(folder), redirect_stdout(StringIO()):
        run(CapstoneCLI(PROJECT, ["--name", "benchmark", *flags]), [clock])
    return step_seconds(clock.ends)


def their_run(data: TextData, checkpoint: str, steps: int, strategy: str) -> float:
    """Seconds of a step of `transformers.Trainer`; `strategy` is its `train_sampling_strategy`."""
    import transformers

    ends: list[float] = []

    class TheirClock(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
            ends.append(time.perf_counter())

    rows = [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": label}
        for ids, label in zip(data.ids["train"], data.splits["train"].labels, strict=True)
    ]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, quiet_transformers(), redirect_stdout(StringIO()):
        settings = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=LR,
            bf16=default_precision("cpu") == "bf16-mixed",
            use_cpu=True,
            train_sampling_strategy=strategy,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        model = load_model(checkpoint, data.class_names, 0)
        transformers.Trainer(
            model, settings, train_dataset=rows, processing_class=data.tokenizer, callbacks=[TheirClock()]
        ).train()
    return step_seconds(ends)


def fine_tuning(data: TextData, source: str, checkpoint: str, steps: int, rounds: int) -> dict[str, float]:
    """Sentences a second of all three."""
    sides: list[Callable[[], float]] = [
        lambda: our_run(source, checkpoint, steps),
        lambda: their_run(data, checkpoint, steps, "random"),
        lambda: their_run(data, checkpoint, steps, "group_by_length"),
    ]
    ours, plain, grouped = interleave(sides, rounds)
    return {
        "ours_sentences_per_second": BATCH / statistics.median(ours),
        "trainer_sentences_per_second": BATCH / statistics.median(plain),
        "group_by_length_sentences_per_second": BATCH / statistics.median(grouped),
        "ratio": ratio(ours, plain),
        "ratio_to_group_by_length": ratio(ours, grouped),
    }


def prediction(data: TextData, checkpoint: str, precision: str, rounds: int) -> dict[str, float]:
    """Sentences a second of both on the validation split, and how far their probabilities are apart."""
    import transformers

    texts = data.splits["test"].texts  # SST-2's validation split: nobody has labelled its test
    classifier = TextClassifier(
        OwnHead(load_model(checkpoint, data.class_names, 0).eval()), data.tokenizer, data.class_names, 1.0, 512
    )
    theirs_model = load_model(checkpoint, data.class_names, 0).eval()
    theirs_model.load_state_dict(classifier.net.model.state_dict())  # the same head
    if precision == "bf16-mixed":
        theirs_model.bfloat16()
    with quiet_transformers():
        pipeline = transformers.pipeline("text-classification", model=theirs_model, tokenizer=data.tokenizer, device="cpu")
    found: dict[str, Any] = {}

    def ours() -> None:
        found["ours"] = classifier.probabilities(texts, torch.device("cpu"), precision).max(1).values

    def theirs() -> None:
        found["theirs"] = torch.tensor([row["score"] for row in pipeline(texts, batch_size=32)])

    measured = interleave([seconds(ours), seconds(theirs)], rounds)
    return {
        "sentences": len(texts),
        "ours_sentences_per_second": len(texts) / statistics.median(measured[0]),
        "pipeline_sentences_per_second": len(texts) / statistics.median(measured[1]),
        "ratio": ratio(*measured),
        "largest_difference": float((found["ours"] - found["theirs"]).abs().max()),
    }


def main() -> None:
    """Measures everything and writes the result."""
    parser = argparse.ArgumentParser(description="Measure our fine-tuning and prediction beside transformers' own.")
    parser.add_argument("--data", required=True, help="folder of SST-2")
    parser.add_argument("--checkpoint", default="minilm", help="as --model.checkpoint (default: minilm)")
    parser.add_argument("--steps", type=int, default=110, help="of each run in a round")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs")
    arguments = parser.parse_args()
    keep_freed_memory()
    source = str(Path(arguments.data).resolve())
    data = TextData(source, arguments.checkpoint, val_size=0)
    data.setup("fit")
    lengths = [len(ids) for ids in encode(data.tokenizer, data.splits["train"].texts, None)]
    figures = {
        "device": device_name(torch.device("cpu")),
        "data_source": data.source_label,
        "checkpoint": arguments.checkpoint,
        "precision": default_precision("cpu"),
        "batch_size": BATCH,
        "mean_tokens": statistics.mean(lengths),
        "fine_tuning": fine_tuning(data, source, arguments.checkpoint, arguments.steps, arguments.rounds),
        "prediction": prediction(data, arguments.checkpoint, default_precision("cpu"), 2 * arguments.rounds + 1),
        "prediction_float32": prediction(data, arguments.checkpoint, "32-true", 2 * arguments.rounds + 1),
    }
    print(write_result("bert_sentiment-benchmark", figures))


if __name__ == "__main__":
    main()
