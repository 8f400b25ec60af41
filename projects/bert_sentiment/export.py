"""Export command: `python -m projects.bert_sentiment.export --checkpoint PATH --to FOLDER`.

The folder has the layout of `save_pretrained`: `transformers.pipeline("text-classification", "FOLDER")` loads it as it is.
Its logits, and those of ONNX, are divided by the fitted temperature already: their softmax is what `predict` prints.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.command import report_errors
from common.errors import UserError
from common.export.command import ONNX, export, new_parser

if TYPE_CHECKING:
    from torch import Tensor

    from common.export.graph import Export, Graph, Int8, Written
    from common.project import Project
    from projects.bert_sentiment.inference import TextClassifier

TOLERANCE = 1e-5  # between the logits of the network and those of the folder, loaded again
TEXTS = ("one", "another text, of another length", "and a third; three, where there were two")


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options = new_parser("bert_sentiment", ONNX, int8=True).parse_args(args)
    return report_errors(lambda: export(options, new_export))


def new_export(options: argparse.Namespace) -> tuple[Project, Export]:
    """The classifier of a checkpoint, as it is exported: the temperature is folded into its weights."""
    from common.export.graph import Export
    from common.io.checkpoints import read_checkpoint
    from projects.bert_sentiment.inference import load
    from projects.bert_sentiment.networks import fold_temperature
    from projects.bert_sentiment.train import PROJECT

    checkpoint, classifier = read_checkpoint(options.checkpoint), load(options.checkpoint)
    try:
        fold_temperature(classifier.net, classifier.temperature, len(classifier.class_names))
    except ValueError as error:
        raise UserError(f"checkpoint {options.checkpoint}: its temperature cannot be exported: {error}") from error
    classifier.temperature = 1.0
    graph = new_graph(classifier)
    names, encoder = ", ".join(classifier.class_names), checkpoint["hyper_parameters"].get("checkpoint")
    made = Export(
        title=f"Text classifier, {len(classifier.class_names)} classes",
        description=f"Logits of texts of at most {classifier.max_length} tokens, from the tokenizer in this folder. Their "
        f"softmax are calibrated probabilities: the logits are divided by the temperature already. Classes: {names}. "
        f"Encoder, as `train --model.checkpoint` names it: `{encoder}`.",
        tags=("text-classification",),
        metrics={"accuracy": "test/accuracy", "f1": "test/f1"},
        checkpoint=checkpoint,
        write_weights=functools.partial(write_weights, classifier, checkpoint),
        graph=graph,
        write_int8=functools.partial(write_int8, graph),
    )
    return PROJECT, made


def encode(classifier: TextClassifier, *texts: str) -> dict[str, Tensor]:
    """Inputs of the network for texts."""
    from projects.bert_sentiment.data import pad

    ids, mask = pad(classifier.tokenize(texts), classifier.tokenizer.pad_token_id)
    return {"input_ids": ids, "attention_mask": mask}


def new_graph(classifier: TextClassifier) -> Graph:
    """The network for ONNX, for any number of texts of any length; its class names are in the metadata, as `id2label`."""
    from common.export.graph import Graph

    long = "word " * classifier.max_length
    batches = [
        encode(classifier, TEXTS[0], TEXTS[1] + " than the other"),
        encode(classifier, long),
        encode(classifier, *TEXTS),
    ]
    names = json.dumps(dict(enumerate(classifier.class_names)))
    return Graph(classifier.net, batches, ("logits",), (0, 1), {"id2label": names})


def write_weights(classifier: TextClassifier, checkpoint: dict[str, Any], folder: Path) -> Written:
    """Writes configuration, weights and tokenizer as `save_pretrained` does, and compares what is loaded again.

    `transformers` has no class for mean pooling: there the weights have names that this suite alone reads. The tokenizer
    truncates to what the classifier reads. Raises UserError if the logits differ.
    """
    import torch
    from safetensors.torch import save_model

    from common.export.graph import Written
    from common.export.weights import load_usage
    from common.io.exported import ENTRY, WEIGHTS, checkpoint_config
    from projects.bert_sentiment.inference import load
    from projects.bert_sentiment.networks import SequenceClassifier
    from projects.bert_sentiment.pretrained import quiet_transformers

    net = classifier.net
    saved: Any = net.model if isinstance(net, SequenceClassifier) else net.encoder
    setattr(saved.config, ENTRY, checkpoint_config(checkpoint, ())[ENTRY])
    with quiet_transformers():
        (saved if isinstance(net, SequenceClassifier) else saved.config).save_pretrained(folder)
    if not isinstance(net, SequenceClassifier):
        save_model(net, str(folder / WEIGHTS), {"format": "pt"})
    classifier.tokenizer.model_max_length = classifier.max_length
    classifier.tokenizer.save_pretrained(folder)
    inputs = encode(classifier, *TEXTS)
    with torch.no_grad():
        difference = float((load(folder).net(**inputs) - net(**inputs)).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(f"{WEIGHTS}: the logits of what is loaded again are {difference:.2g} off; not written")
    usage = load_usage("bert_sentiment", "probabilities = model(texts)")
    if isinstance(net, SequenceClassifier):
        usage += '\n\nimport transformers\n\nclassify = transformers.pipeline("text-classification", "FOLDER")'
    return Written(WEIGHTS, usage, f"largest difference to torch of what is loaded again: {difference:.2g}", difference)


def write_int8(graph: Graph, folder: Path, data: Any) -> tuple[Written, Int8]:
    """Writes the int8 version, its matrix products quantized; see `write_int8_classifier`."""
    from common.export.quantize import write_int8_classifier

    batches = data.val_dataloader()
    labeled = (({"input_ids": b.input_ids, "attention_mask": b.attention_mask}, b.labels) for b in batches)
    return write_int8_classifier(graph, folder, labeled)


if __name__ == "__main__":
    sys.exit(main())
