"""int8 versions of `model.onnx`, and the paired test that decides whether one is kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from common.errors import UserError, one_line
from common.export.graph import Graph, Int8, Written
from common.export.onnx_model import FILE, largest_difference, onnx_usage

INT8_FILE = "model-int8.onnx"
Batches = Iterable[dict[str, Tensor]]
LabeledBatches = Iterable[tuple[dict[str, Tensor], Tensor]]


def write_int8_classifier(
    graph: Graph, folder: Path, labeled: LabeledBatches, calibration: Batches | None = None
) -> tuple[Written, Int8]:
    """Quantizes `model.onnx` of a classifier, and compares its predictions on validation data with those in float32.

    Args:
        graph: What `model.onnx` was made of; the first output has a column for each class.
        folder: Where `model.onnx` is.
        labeled: Inputs and labels of the validation split.
        calibration: Inputs of the training split, from which the ranges of activations are taken (static quantization,
            which convolutions need); None for ranges of each batch (dynamic, for matrix products).
    """
    quantize(folder / FILE, folder / INT8_FILE, calibration)
    difference = largest_difference(graph, folder / INT8_FILE)
    correct: dict[str, list[np.ndarray]] = {FILE: [], INT8_FILE: []}
    sessions = {name: new_session(folder / name) for name in correct}
    for inputs, labels in labeled:
        for name, session in sessions.items():
            scores = session.run(None, {key: tensor.numpy() for key, tensor in inputs.items()})[0]
            correct[name].append(scores.argmax(1) == labels.numpy())
    float32, int8 = (np.concatenate(correct[name]) for name in (FILE, INT8_FILE))
    p_value = mcnemar_worse(int((float32 & ~int8).sum()), int((int8 & ~float32).sum()))
    scores = float(100 * float32.mean()), float(100 * int8.mean())
    test = Int8("accuracy", *scores, p_value, len(float32), "McNemar's exact test")
    return Written(INT8_FILE, onnx_usage(graph, INT8_FILE), str(test), difference), test


def new_session(path: Path) -> Any:
    """Session of onnxruntime on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def quantize(path: Path, target: Path, calibration: Batches | None) -> None:
    """Writes the int8 version of an ONNX file, see `write_int8_classifier`. Raises UserError if onnxruntime cannot."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        """Calibration data."""

        def __init__(self, batches: Batches) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: tensor.numpy() for name, tensor in batch.items()}

    logging.disable(logging.WARNING)  # advice that is of no use to who exports
    try:
        if calibration is None:
            quantization.quantize_dynamic(path, target, weight_type=quantization.QuantType.QInt8)
        else:
            quantization.quantize_static(path, target, Reader(calibration), per_channel=True)
    except OSError:
        raise
    except Exception as error:  # it has exceptions of its own
        raise UserError(f"--int8: onnxruntime cannot quantize this network: {one_line(error, 200)}") from error
    finally:
        logging.disable(logging.NOTSET)


def mcnemar_worse(only_first: int, only_second: int) -> float:
    """McNemar's exact test, one-sided: p-value of the second classifier being worse (McNemar, Psychometrika 12, 1947).

    If both were equally good, each of the examples on which one alone is right would be either's with probability 1/2.

    Args:
        only_first: Number of examples that the first alone classifies correctly.
        only_second: Number of those that the second alone does.
    """
    n = only_first + only_second
    return sum(math.comb(n, k) for k in range(only_first, n + 1)) / 2**n
