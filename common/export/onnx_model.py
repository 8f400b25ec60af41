"""ONNX: a network as `model.onnx`, compared with torch in a process that has the ONNX runtime alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError, one_line
from common.export.clean_process import run_clean
from common.export.graph import Graph, Written

FILE = "model.onnx"
TOLERANCE = 1e-4  # of the largest difference to torch, relative to the largest output where that is above 1
RUN = """
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
arrays = np.load(sys.argv[2])
result = []
for i in range(int(arrays["count"])):
    outputs = session.run(None, {node.name: arrays[f"{i} {node.name}"] for node in session.get_inputs()})
    expected = [arrays[f"{i} output {j}"] for j in range(len(outputs))]
    assert all(a.shape == b.shape for a, b in zip(outputs, expected)), "an output has another shape"
    result += [float(np.abs(a - b).max()) for a, b in zip(outputs, expected)]
"""


def write_onnx(graph: Graph, folder: Path) -> Written:
    """Writes `model.onnx`. Raises UserError if torch cannot export the network, or the runtime's outputs are not torch's."""
    export_onnx(graph, folder / FILE)
    difference = largest_difference(graph, folder / FILE)
    scale = max(1.0, *(float(output.abs().max()) for batch in graph.batches for output in graph.reference(batch)))
    if not difference <= TOLERANCE * scale:
        raise UserError(f"ONNX: its outputs are {difference:.2g} off torch's; not written; add --weights_only")
    sizes = ", ".join(str(len(next(iter(batch.values())))) for batch in graph.batches)
    check = f"largest difference to torch: {difference:.2g}, in batches of {sizes}, by onnxruntime without torch"
    return Written(FILE, onnx_usage(graph, FILE), check, difference)


def export_onnx(graph: Graph, path: Path) -> None:
    """Exports the network with torch's exporter by `torch.export`. Raises UserError if it cannot."""
    any_size = dict.fromkeys(graph.dynamic_dims, torch.export.Dim.DYNAMIC)
    try:
        program = torch.onnx.export(
            graph.network,
            tuple(graph.batches[0].values()),
            input_names=list(graph.batches[0]),
            output_names=list(graph.outputs),
            dynamic_shapes=tuple(any_size for _ in graph.batches[0]),
            dynamo=True,
            verbose=False,
        )
        assert program is not None, "it is None for the exporter by TorchScript alone"
        program.model.metadata_props.update(graph.metadata)
        program.save(path)
    except Exception as error:  # the exporter has many exceptions of its own
        if isinstance(error, OSError):
            raise
        reason = one_line(error.__cause__ or error, 200)
        raise UserError(f"ONNX: torch cannot export this network: {reason}; add --weights_only") from error


def largest_difference(graph: Graph, path: Path) -> float:
    """Largest absolute difference between the file's outputs and torch's, over all batches and outputs."""
    arrays: dict[str, np.ndarray] = {"count": np.array(len(graph.batches))}
    for i, batch in enumerate(graph.batches):
        arrays |= {f"{i} {name}": tensor.numpy() for name, tensor in batch.items()}
        arrays |= {f"{i} output {j}": output.numpy() for j, output in enumerate(graph.reference(batch))}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "arrays.npz"
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes names for further parameters
        return max(run_clean(RUN, path, file))


def onnx_usage(graph: Graph, name: str) -> str:
    """Lines that run the file with onnxruntime."""
    inputs = ", ".join(f'"{name}": {name}' for name in graph.batches[0])
    return (
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{name}")\n'
        f"{', '.join(graph.outputs)}{',' * (len(graph.outputs) == 1)} = session.run(None, {{{inputs}}})  # NumPy arrays"
    )
