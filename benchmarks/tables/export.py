"""Table of exported networks beside torch."""

from __future__ import annotations

from typing import Any

from benchmarks import results
from benchmarks.tables.cells import hardware, markdown_table

NAME = "export"
FORMATS = ("safetensors", "onnx", "ctranslate2", "int8")


def export_table() -> str:
    """Results of `benchmarks/export.py`: of each format the largest difference to torch, and its speed beside torch."""
    if not (results.RESULTS / f"{NAME}.json").is_file():
        return "Not measured yet: `python -m benchmarks.export RUN_DIR`.\n"
    result = results.read_result(NAME)
    header = [f"on {hardware(result)}", "data", "safetensors", "ONNX", "CTranslate2", "int8", "int8, validation"]
    body = []
    for row in result["rows"]:
        cells = [cell(row[key]) if key in row else "–" for key in FORMATS]
        body.append([f"`{row['project']}`", f"`{row['data_source']}`", *cells, quality(row)])
    return markdown_table(header, body)


def cell(measured: dict[str, Any]) -> str:
    """Largest difference; speeds beside torch, of one example and of a batch."""
    speeds = [f"{speed['ratio']:.1f}×" for speed in measured.values() if isinstance(speed, dict)]
    return "; ".join([f"{measured['difference']:.1g}", ", ".join(speeds)] if speeds else [f"{measured['difference']:.1g}"])


def quality(row: dict[str, Any]) -> str:
    """Metric in int8 and in float32."""
    if "test" not in row:
        return "–"
    test = row["test"]
    note = "" if test["kept"] else ", not written"
    return f"{test['metric']} {test['int8']:.1f}, float32 {test['float32']:.1f} (p = {test['p_value']:.2f}){note}"
