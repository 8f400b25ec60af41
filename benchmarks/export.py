"""Exported networks compared with torch: the largest difference of their outputs, and speed, measured alternately.

`python -m benchmarks.export runs/cifar10/NAME runs/seq2seq/NAME ...` exports the best checkpoint of each finished run, in
float32 and in int8 where there is such a version, and writes `results/export.json`. Every engine has as many threads as
torch. Run it on an otherwise idle machine; `--quick` writes nothing, and only shows that it works.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import write_result
from benchmarks.timing import interleave, speedup, timed
from common.cli.command import OneLineParser, positive, report_errors
from common.errors import UserError
from common.export.command import write_engine
from common.export.graph import Graph
from common.export.validation import validation_data
from common.nn.device import device_name

BATCH_SIZE = 64
SECONDS = 0.3  # of a measurement at least
Side = Callable[[], object]


def measure_run(run_dir: Path, repeats: int) -> dict[str, Any]:
    """Exports the best checkpoint of a run, and measures each format."""
    summary = json.loads((run_dir / "summary.json").read_text())
    name, checkpoint = summary["project"], run_dir / "checkpoints" / summary["checkpoint"]
    capstone = importlib.import_module(f"projects.{name}.export")
    project, made = capstone.new_export(Namespace(checkpoint=checkpoint, weights_only=False, source=None))
    result = {"project": name, **{key: summary[key] for key in ("data_source", "seed", "parameters")}}
    result["train_command"] = summary["command"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        result["safetensors"] = {"difference": made.write_weights(folder).difference}
        written = {"onnx" if made.graph is not None else "ctranslate2": write_engine(made, folder)}
        data = validation_data(project, checkpoint, None) if made.write_int8 is not None or made.graph is None else None
        if made.write_int8 is not None:
            written["int8"], test = made.write_int8(folder, data)
            result["test"] = {**vars(test), "kept": test.kept}
        paths = {key: folder / file.name for key, file in written.items()}
        if made.graph is not None:
            speeds = onnx_speeds(made.graph, paths, repeats)
        else:
            speeds = translation_speeds(checkpoint, data, paths, repeats)
        for key, file in written.items():
            result[key] = {"difference": file.difference, **speeds[key]}
    return result


def onnx_speeds(graph: Graph, paths: dict[str, Path], repeats: int) -> dict[str, dict[str, Any]]:
    """Examples per second of each file and of torch, one by one and in batches: by the file's key."""
    found: dict[str, dict[str, Any]] = {key: {} for key in paths}
    for size in (1, BATCH_SIZE):
        inputs = {name: tensor[:1].repeat(size, *[1] * (tensor.dim() - 1)) for name, tensor in graph.batches[0].items()}
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        sides: list[Side] = [torch_side(graph, inputs)]
        sides += [onnx_side(path, arrays) for path in paths.values()]
        for key, speed in zip(paths, compare(sides, size, repeats), strict=True):
            found[key][f"batch_{size}"] = speed
    return found


def torch_side(graph: Graph, inputs: dict[str, torch.Tensor]) -> Side:
    """Call of the network by torch."""

    @torch.inference_mode()
    def call() -> object:
        return graph.network(*inputs.values())

    return call


def onnx_side(path: Path, arrays: dict[str, Any]) -> Side:
    """Call of a file by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, arrays)


def translation_speeds(checkpoint: Path, data: Any, paths: dict[str, Path], repeats: int) -> dict[str, dict[str, Any]]:
    """Sentences per second of CTranslate2 and of this suite's search, of the validation split: by the model's key."""
    import ctranslate2

    from projects.seq2seq.inference import load

    pipeline = load(checkpoint)
    sources = pipeline.encode(data.texts["val"][0])
    tokens = [[str(pipeline.source_tokenizer.id_to_token(token)) for token in ids] for ids in sources]
    generation, threads = pipeline.generation, torch.get_num_threads()
    options = {"beam_size": generation.num_beams, "length_penalty": generation.length_penalty, "max_batch_size": 100}

    def engine_side(path: Path) -> Side:
        """Translation of all sentences; a batch for each core, as this suite has it."""
        translator = ctranslate2.Translator(str(path), device="cpu", inter_threads=threads, intra_threads=1)
        return lambda: translator.translate_batch(tokens, max_decoding_length=generation.max_length, **options)

    sides: list[Side] = [lambda: pipeline.hypotheses(sources), *map(engine_side, paths.values())]
    return dict(zip(paths, ({"batch_100": speed} for speed in compare(sides, len(sources), repeats)), strict=True))


def compare(sides: list[Side], count: int, repeats: int) -> list[dict[str, float]]:
    """Examples per second of each side but the first, which is torch's, beside torch's; a call is for `count` examples."""
    once = [min(timed(side)() for _ in range(3)) for side in sides]
    calls = [max(1, round(SECONDS / seconds)) for seconds in once]

    def repeated(side: Side, number: int) -> Callable[[], float]:
        def call() -> None:
            for _ in range(number):
                side()

        measure = timed(call)
        return lambda: measure() / number

    measured = interleave([repeated(*pair) for pair in zip(sides, calls, strict=True)], repeats)
    torch_speed = count / statistics.median(measured[0])
    return [
        {
            "torch_per_second": torch_speed,
            "per_second": count / statistics.median(seconds),
            "ratio": speedup(seconds, measured[0]),
        }
        for seconds in measured[1:]
    ]


def main() -> None:
    """Measures and writes the result."""
    parser = OneLineParser(description="Exported networks compared with torch.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="Finished runs, each a row of the table.")
    parser.add_argument("--repeats", type=positive, default=9, help="Measurements of each side (default: 9).")
    parser.add_argument("--quick", action="store_true", help="Two measurements, nothing is written.")
    arguments = parser.parse_args()
    for run_dir in arguments.runs:
        if not (run_dir / "summary.json").is_file():
            raise UserError(f"{run_dir}: no finished run; summary.json is missing")
    device = device_name(torch.device("cpu"))
    rows = []
    for run_dir in arguments.runs:
        rows.append(measure_run(run_dir, 2 if arguments.quick else arguments.repeats))
        print(json.dumps(rows[-1]), flush=True)
    if not arguments.quick:
        settings = {"batch_size": BATCH_SIZE, "repeats": arguments.repeats, "seeds": [row["seed"] for row in rows]}
        print(write_result("export", {"device": device, **settings, "rows": rows}))


if __name__ == "__main__":
    sys.exit(report_errors(main))
