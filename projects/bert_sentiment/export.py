"""A run's classifier for others: `python -m projects.bert_sentiment.export FOLDER --checkpoint PATH [--onnx]`.

The folder has the layout of `save_pretrained`: `transformers.pipeline("text-classification", "FOLDER")` loads it as it is.
With `--onnx` there is a `model.onnx` too, for any number of texts of any length, checked against torch before it is kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import OneLineParser
from common.errors import UserError

if TYPE_CHECKING:
    from projects.bert_sentiment.inference import TextClassifier

TOLERANCE = 1e-4  # between torch's logits and those of the ONNX runtime


def new_parser() -> OneLineParser:
    """The command line's flags; needs no torch, so `--help` answers at once."""
    parser = OneLineParser(
        prog="python -m projects.bert_sentiment.export",
        description="Writes a run's classifier in the layout of transformers' save_pretrained, and as ONNX if asked to.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="Where to; made if it is not there, and else empty.")
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="PATH", help="A checkpoint of a run.")
    parser.add_argument("--onnx", action="store_true", help="Write model.onnx too (needs the extra `onnx`).")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code (see `common.errors`)."""
    options = new_parser().parse_args(args)
    from common.cli.command import report_errors  # after the parser has answered --help

    return report_errors(lambda: export(options))


def export(options: argparse.Namespace) -> None:
    """Does what the parsed command line asks for.

    Raises:
        UserError: the folder holds something, or the network has no place in that layout.
    """
    from projects.bert_sentiment.inference import load_classifier

    folder: Path = options.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not an empty folder; choose another")
    classifier = load_classifier(options.checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    save_pretrained(classifier, folder, options.onnx)
    if options.onnx:
        save_onnx(classifier, folder / "model.onnx")
    print(f"written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def save_pretrained(classifier: TextClassifier, folder: Path, onnx: bool) -> None:
    """Writes configuration, weights and tokenizer.

    Raises:
        UserError: the network takes the mean of its tokens, for which `transformers` has no class of this encoder, and ONNX,
            which can hold it, was not asked for.
    """
    from projects.bert_sentiment.networks import OwnHead

    if isinstance(classifier.net, OwnHead):
        classifier.net.model.save_pretrained(folder)  # type: ignore[operator]
    elif not onnx:
        raise UserError("--model.pooling mean: transformers has no class for it; export it with --onnx, or train with cls")
    classifier.tokenizer.save_pretrained(folder)


def save_onnx(classifier: TextClassifier, path: Path) -> None:
    """Writes the network with the inputs input_ids and attention_mask (batch, time) and the output logits (batch, classes).

    Raises:
        UserError: the extra is not installed, or the runtime's logits are not torch's.
    """
    import torch

    from projects.bert_sentiment.data import pad

    try:
        import onnxruntime
        import onnxscript  # noqa: F401, what torch's exporter needs
    except ModuleNotFoundError as error:
        raise UserError('--onnx: run `pip install "lightning-capstones[onnx]"`') from error
    rows = classifier.encode(["a short text", "a text that is a good deal longer than the other"])
    ids, mask = pad(rows, classifier.tokenizer.pad_token_id)
    any_size = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        classifier.net,
        (ids, mask),
        path,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes=({0: any_size, 1: any_size}, {0: any_size, 1: any_size}),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    rows = classifier.encode(["one", "another text, of another length", "and a third; three, where there were two"])
    ids, mask = pad(rows, classifier.tokenizer.pad_token_id)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    with torch.no_grad():
        off = float((torch.from_numpy(found) - classifier.net(ids, mask)).abs().max())
    if not off <= TOLERANCE:
        path.unlink()
        raise UserError(f"--onnx: its logits are {off:.2g} off torch's; not written")


if __name__ == "__main__":
    sys.exit(main())
