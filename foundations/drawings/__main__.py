"""Draws the lessons' drawings anew: `python -m foundations.drawings [CHAPTER ...]`, into docs/foundations/."""

import importlib
import sys
from pathlib import Path

from foundations.catalog import ROOT

FOLDER = ROOT.parent / "docs" / "foundations"


def main(names: list[str]) -> None:
    """Draws the chapters of `names`, or all that have a drawing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        if not names or path.stem in names:
            importlib.import_module(f"foundations.drawings.{path.stem}").draw(FOLDER / f"{path.stem}.png")
            print(FOLDER / f"{path.stem}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
