"""Export command: `python -m projects.bert_sentiment.export FOLDER --checkpoint PATH [--onnx]`.

The folder has the layout of `save_pretrained`: `transformers.pipeline("text-classification", "FOLDER")` loads it as it is.
Its logits are divided by the fitted temperature already: their softmax is what `predict` prints.
With `--onnx` there is a `model.onnx` too, for any number of texts of any length, checked against torch before it is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.command import OneLineParser, add_checkpoint, report_errors
from common.errors import UserError, one_line
from common.io.disk import named

if TYPE_CHECKING:
    from projects.bert_sentiment.inference import TextClassifier

ONNX_TOLERANCE = 1e-4  # between torch's logits and those of the ONNX runtime


def new_parser() -> OneLineParser:
    """Parser of the command's flags; imports no torch, so that `--help` answers at once."""
    parser = OneLineParser(
        prog="python -m projects.bert_sentiment.export",
        description="Writes a run's classifier in the layout of transformers' save_pretrained, and as ONNX if asked to.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="Folder to write; a new or an empty one.")
    add_checkpoint(parser)
    parser.add_argument("--onnx", action="store_true", help="Write model.onnx too (needs the extra `onnx`).")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    return report_errors(lambda: export(options))


def export(options: argparse.Namespace) -> None:
    """Writes the folder. Raises UserError if it is not empty, or transformers has no class for the network."""
    from projects.bert_sentiment.inference import load
    from projects.bert_sentiment.networks import SequenceClassifier, fold_temperature

    folder: Path = options.folder
    if (exists := folder.exists()) and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not an empty folder; choose another")
    if options.onnx:
        import_onnx()  # before anything is written
    classifier = load(options.checkpoint)
    if not isinstance(classifier.net, SequenceClassifier) and not options.onnx:
        raise UserError("--model.pooling mean: transformers has no class for it; export it with --onnx, or train with cls")
    try:
        fold_temperature(classifier.net, classifier.temperature, len(classifier.class_names))
    except ValueError as error:
        raise UserError(f"checkpoint {options.checkpoint}: its temperature cannot be exported: {error}") from error
    classifier.temperature = 1.0
    try:
        write_folder(classifier, folder, options.onnx)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # half of a folder would look like a whole one
        if exists:
            folder.mkdir()
        raise
    print(f"written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def write_folder(classifier: TextClassifier, folder: Path, onnx: bool) -> None:
    """Writes configuration, which has the class names, weights if transformers has a class for them, tokenizer and ONNX.

    The tokenizer truncates to what the classifier reads. Raises UserError if the folder cannot be written (see `save_onnx`).
    """
    from projects.bert_sentiment.networks import SequenceClassifier

    net = classifier.net
    try:
        with named(folder):
            folder.mkdir(parents=True, exist_ok=True)
            saved = net.model if isinstance(net, SequenceClassifier) else net.encoder.config
            saved.save_pretrained(folder)  # type: ignore[operator, union-attr]
            classifier.tokenizer.model_max_length = classifier.max_length
            classifier.tokenizer.save_pretrained(folder)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error
    if onnx:
        save_onnx(classifier, folder / "model.onnx")


def import_onnx() -> Any:
    """Module `onnxruntime`. Raises UserError if it or what torch's exporter needs is not installed."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401, what torch's exporter needs
    except ModuleNotFoundError as error:
        raise UserError('--onnx: run `pip install "lightning-capstones[onnx]"`') from error
    return onnxruntime


def save_onnx(classifier: TextClassifier, path: Path) -> None:
    """Writes the network with inputs input_ids and attention_mask (batch, time) and output logits (batch, classes).

    The class names are in its metadata, as `id2label` in JSON.

    Raises UserError if torch cannot export the encoder, or the runtime's logits are not torch's.
    """
    import torch

    from projects.bert_sentiment.data import pad

    def encode(*texts: str) -> tuple[torch.Tensor, torch.Tensor]:
        return pad(classifier.tokenize(texts), classifier.tokenizer.pad_token_id)

    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    long = "word " * classifier.max_length
    batches = [encode("one", "another text, of another length", "and a third; three, where there were two"), encode(long)]
    try:
        program = torch.onnx.export(
            classifier.net,
            encode("a short text", "a text that is a good deal longer than the other"),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes=(any_size, any_size),
            dynamo=True,
            verbose=False,
        )
        assert program is not None, "it is None for the exporter by TorchScript alone"
        program.model.metadata_props["id2label"] = json.dumps(dict(enumerate(classifier.class_names)))
        program.save(path)
        session = import_onnx().InferenceSession(path, providers=["CPUExecutionProvider"])
        difference = 0.0
        for ids, mask in batches:
            (logits,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
            with torch.no_grad():
                difference = max(difference, float((torch.from_numpy(logits) - classifier.net(ids, mask)).abs().max()))
    except Exception as error:  # the exporter and the runtime have exceptions of their own
        reason = one_line(error, 200)
        raise UserError(f"--onnx: torch cannot export this encoder for texts of any length: {reason}") from error
    if not difference <= ONNX_TOLERANCE:
        raise UserError(f"--onnx: its logits are {difference:.2g} off torch's; not written")


if __name__ == "__main__":
    sys.exit(main())
