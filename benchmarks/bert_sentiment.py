"""BERT fine-tuning and prediction compared to `transformers`, alternately in one process.

`python -m benchmarks.bert_sentiment --data FOLDER` writes `results/bert_sentiment-benchmark.json`:

1. fine-tuning in a Trainer run with all its callbacks and loggers, and by `transformers.Trainer` with its default collator,
   and the same with `group_by_length`;
2. prediction of the validation split, and by `pipeline("text-classification", batch_size=32)`: both in the precision of
   training, the default of `predict`, and both in float32, the default of `pipeline`.

All sides have the same checkpoint, precision, batch size, AdamW with gradient clipping, and train all weights. Run it on an
otherwise idle machine.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks.plain_loop import train
from benchmarks.results import write_result
from benchmarks.timing import interleave, speedup, timed
from common.cli.command import OneLineParser, positive
from common.nn.allocator import keep_freed_memory
from common.nn.device import default_precision, device_name
from projects.bert_sentiment.data import TextData
from projects.bert_sentiment.inference import TextClassifier
from projects.bert_sentiment.networks import SequenceClassifier
from projects.bert_sentiment.pretrained import load_model, quiet_transformers
from projects.bert_sentiment.train import PROJECT

BATCH_SIZE = 32
WARMUP_STEPS = 10  # first steps of each run, which are not timed
LR = 2e-5


class StepClock(Callback):
    """Times at which training steps end."""

    def __init__(self) -> None:
        self.step_ends: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.step_ends.append(time.perf_counter())


def step_seconds(step_ends: list[float]) -> float:
    """Mean time of a step after the warm-up."""
    return (step_ends[-1] - step_ends[WARMUP_STEPS - 1]) / (len(step_ends) - WARMUP_STEPS)


def our_run(source: str, checkpoint: str, steps: int) -> float:
    """Seconds of a step of a run from the command line."""
    clock = StepClock()
    flags = ["--data.source", source, "--model.checkpoint", checkpoint, "--accelerator", "cpu", "--max_epochs", "1"]
    flags += ["--data.batch_size", str(BATCH_SIZE), "--data.val_size", "0", "--max_steps", str(steps)]
    flags += ["--checkpoint_every", "0", "--model.pooling", "cls", "--model.lr", str(LR)]
    train(PROJECT, [*flags, "--trainer.gradient_clip_val", "1.0"], clock)
    return step_seconds(clock.step_ends)


def transformers_run(data: TextData, checkpoint: str, steps: int, sampling: str) -> float:
    """Seconds of a step of `transformers.Trainer`; `sampling` is its `train_sampling_strategy`."""
    import transformers

    step_ends: list[float] = []

    class TransformersClock(transformers.TrainerCallback):
        """Times at which training steps end."""

        def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
            step_ends.append(time.perf_counter())

    rows = [
        {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": label}
        for ids, label in zip(data.input_ids["train"], data.splits["train"].labels, strict=True)
    ]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, quiet_transformers(), redirect_stdout(StringIO()):
        training_arguments = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH_SIZE,
            max_steps=steps,
            learning_rate=LR,
            bf16=default_precision("cpu") == "bf16-mixed",
            use_cpu=True,
            train_sampling_strategy=sampling,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        transformers.Trainer(
            load_model(checkpoint, data.class_names, data.vocab_size),
            training_arguments,
            train_dataset=rows,
            processing_class=data.tokenizer,
            callbacks=[TransformersClock()],
        ).train()
    return step_seconds(step_ends)


def fine_tuning(data: TextData, source: str, checkpoint: str, steps: int, repeats: int) -> dict[str, float]:
    """Sentences per second in fine-tuning, and speedups."""
    sides: list[Callable[[], float]] = [
        lambda: our_run(source, checkpoint, steps),
        lambda: transformers_run(data, checkpoint, steps, "random"),
        lambda: transformers_run(data, checkpoint, steps, "group_by_length"),
    ]
    ours, plain, grouped = interleave(sides, repeats)
    return {
        "ours_sentences_per_second": BATCH_SIZE / statistics.median(ours),
        "trainer_sentences_per_second": BATCH_SIZE / statistics.median(plain),
        "group_by_length_sentences_per_second": BATCH_SIZE / statistics.median(grouped),
        "ratio": speedup(ours, plain),
        "ratio_to_group_by_length": speedup(ours, grouped),
    }


def prediction(data: TextData, checkpoint: str, precision: str, repeats: int) -> dict[str, float]:
    """Sentences per second of both on the validation split, and the largest difference of their probabilities."""
    import transformers

    texts = data.splits["test"].texts  # SST-2's validation split: its test split has no public labels
    model = load_model(checkpoint, data.class_names, data.vocab_size).eval()
    classifier = TextClassifier(SequenceClassifier(model), data.tokenizer, data.class_names, 1.0, 512)
    pipeline_model = load_model(checkpoint, data.class_names, data.vocab_size).eval()
    pipeline_model.load_state_dict(model.state_dict())  # the same head
    if precision == "bf16-mixed":
        pipeline_model.bfloat16()
    with quiet_transformers():
        new_pipeline: Any = transformers.pipeline  # its overloads do not take every model
        pipeline = new_pipeline("text-classification", pipeline_model, tokenizer=data.tokenizer, device="cpu")
    probabilities: dict[str, torch.Tensor] = {}

    def ours() -> None:
        probabilities["ours"] = classifier(texts, precision).amax(1)

    def theirs() -> None:
        probabilities["theirs"] = torch.tensor([row["score"] for row in pipeline(texts, batch_size=32)])

    measured = interleave([timed(ours), timed(theirs)], repeats)
    return {
        "sentences": len(texts),
        "ours_sentences_per_second": len(texts) / statistics.median(measured[0]),
        "pipeline_sentences_per_second": len(texts) / statistics.median(measured[1]),
        "ratio": speedup(*measured),
        "largest_difference": float((probabilities["ours"] - probabilities["theirs"]).abs().max()),
    }


def main() -> None:
    """Measures and writes the result."""
    parser = OneLineParser(description="BERT fine-tuning and prediction compared to transformers.")
    parser.add_argument("--data", required=True, help="Folder of SST-2.")
    parser.add_argument("--checkpoint", default="minilm", help="As train's --model.checkpoint (default: minilm).")
    parser.add_argument("--steps", type=positive, default=110, help="Training steps of each run.")
    parser.add_argument("--repeats", type=positive, default=3, help="Runs of each side.")
    arguments = parser.parse_args()
    keep_freed_memory()
    source, checkpoint = str(Path(arguments.data).resolve()), arguments.checkpoint
    data = TextData(source, checkpoint, val_size=0)
    data.setup("fit")
    lengths = [len(ids) for ids in data.tokenizer(data.splits["train"].texts, verbose=False)["input_ids"]]
    precision = default_precision("cpu")
    result = {
        "device": device_name(torch.device("cpu")),
        "data_source": data.source_label,
        "checkpoint": checkpoint,
        "precision": precision,
        "batch_size": BATCH_SIZE,
        "mean_tokens": statistics.mean(lengths),
        "fine_tuning": fine_tuning(data, source, checkpoint, arguments.steps, arguments.repeats),
        "prediction": prediction(data, checkpoint, precision, 2 * arguments.repeats + 1),
        "prediction_float32": prediction(data, checkpoint, "32-true", 2 * arguments.repeats + 1),
    }
    print(write_result("bert_sentiment-benchmark", result))


if __name__ == "__main__":
    main()
