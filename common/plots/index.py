"""Page of a run's plots, `plots/index.html`: all of them, the test table and the command; no script, no other host."""

from __future__ import annotations

import html
import urllib.parse
from pathlib import Path
from typing import Any

from common.io.files import write_text_atomically

FIRST = ("curves", "samples", "gallery")  # plots that come before the others
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }}
body {{ overflow-wrap: anywhere; }}
img {{ background: white; height: auto; max-width: 100%; }}
figure {{ margin: 2rem 0; }}
pre {{ white-space: pre-wrap; }}
td, th {{ border-bottom: 1px solid #8a8f9855; padding: 0.2rem 0.8rem; text-align: left; }}
td.number {{ font-variant-numeric: tabular-nums; text-align: right; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def write_index(folder: Path, summary: dict[str, Any], data: str) -> Path:
    """Writes `index.html` for the plots in `folder`; returns its path.

    Args:
        folder: Folder of the run's plots.
        summary: What `summary.json` holds.
        data: Name of the data, as `SourceDataModule.source_description` says it.
    """
    texts = [path for path in sorted(folder.glob("*")) if path.suffix in (".md", ".csv")]
    plots = [path for path in folder.glob("*") if path.suffix in (".png", ".gif")]
    order = sorted(plots, key=lambda path: (*(path.stem != name for name in FIRST), path.name))
    best = summary["best_validation"]
    rows = [("data", data), ("recipe", summary["recipe"]), ("seed", summary["seed"])]
    rows += [(name, value) for name, value in summary["test"].items()]
    rows += [(name, value) for name, value in best.items() if name == summary["monitor"]]
    rows += [("epochs", summary["epochs"]), ("training seconds", round(summary["train_seconds"]))]
    rows += [("device", summary["device"])]
    title = f"{summary['project']}/{summary['name']}"
    parts = [f"<table>\n{''.join(_row(name, value) for name, value in rows)}</table>"]
    parts.append(f"<h2>Command</h2>\n<pre>{html.escape(summary['command'])}</pre>")
    if texts:
        parts.append(f"<p>Tables: {', '.join(_link(path) for path in texts)}</p>")
    parts += [_figure(path) for path in order]
    path = folder / "index.html"
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, PAGE.format(title=html.escape(title), body="\n".join(parts)))
    return path


def _row(name: str, value: Any) -> str:
    kind = ' class="number"' if isinstance(value, int | float) else ""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return f"<tr><th>{html.escape(name)}</th><td{kind}>{html.escape(text)}</td></tr>\n"


def _link(path: Path) -> str:
    return f'<a href="{urllib.parse.quote(path.name)}">{html.escape(path.name)}</a>'


def _figure(path: Path) -> str:
    source, name = urllib.parse.quote(path.name), html.escape(path.name)
    return f'<figure><figcaption>{name}</figcaption><a href="{source}"><img src="{source}" alt="{name}"></a></figure>'
