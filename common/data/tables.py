"""Tables in files: CSV, TSV, JSON, JSON lines, Parquet, and text, which is one column of lines or several between tabs.

An empty cell alone is a missing value: `null`, `None`, `NA` and `nan` are words. The type of a column follows from all of
its cells.
"""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.data.image_files import split_of, walk_files
from common.errors import UserError, one_line
from common.io.ranks import print_rank_zero
from common.io.text import read_lines

if TYPE_CHECKING:
    import pyarrow as pa

MAX_CELL = 2**31 - 1  # letters; csv's own limit is 131,072
MAX_NAME_WORDS = 3  # a first row with longer cells is no header
Row = tuple[int, list[str]]  # number of its first line, and cells


def read_tables(paths: Sequence[Path]) -> pa.Table:
    """Rows of several tables, one after the other. Raises UserError for a file that cannot be read, with the line."""
    import pyarrow as pa

    tables = []
    for path in paths:
        try:
            tables.append(READERS[path.suffix.lower()](path))
        except (OSError, ValueError) as error:  # of pyarrow
            raise UserError(f"{path}: {one_line(error)}") from error
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")


def find_tables(root: Path) -> dict[str, list[Path]]:
    """Tables in and below a folder by the split that a folder or the file is named after; all of "train" if none is.

    Text files count only where there is nothing else, and without names of splits the files of the most frequent type.
    """
    found = [path for path in sorted(walk_files(root)) if path.suffix.lower() in READERS and not is_hidden(path, root)]
    found = [path for path in found if path.suffix.lower() != ".txt"] or found
    splits: dict[str, list[Path]] = {}
    for path in found:
        if split := split_of_path(path, root):
            splits.setdefault(split, []).append(path)
    if found and not splits:
        most = Counter(path.suffix.lower() for path in found).most_common(1)[0][0]
        splits["train"] = [path for path in found if path.suffix.lower() == most]
    used = {path for paths in splits.values() for path in paths}
    if rest := [str(path.relative_to(root)) for path in found if path not in used]:
        print_rank_zero(f"data source {root}: passed over, not named after a split: {', '.join(rest)}")
    return splits


def split_of_path(path: Path, root: Path) -> str | None:
    """Split that the first folder below `root` names that names one, or the file; None if none does."""
    return next(filter(None, map(split_of, path.relative_to(root).parts)), None)


def is_hidden(path: Path, root: Path) -> bool:
    """Whether `path` or a folder between it and `root` is hidden."""
    return any(part.startswith((".", "__")) for part in path.relative_to(root).parts)


def read_csv(path: Path) -> pa.Table:
    """CSV with a header, separated by commas, or by what its header has in place of them: semicolons, tabs or bars."""
    lines = filled_lines(path)
    header = re.sub(r'"[^"]*"', "", next(filter(None, lines)))
    separator = "," if "," in header else max(",;\t|", key=header.count)
    rows = list(quoted_rows(path, lines, separator))
    names = [name.strip() or f"column {i}" for i, name in enumerate(rows[0][1], 1)]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{path}: two columns are called {repeated[0]}")
    return to_table(path, names, rows[1:])


def quoted_rows(path: Path, lines: Sequence[str], separator: str) -> Iterator[Row]:
    """Rows of a CSV file without blank lines; a cell in quotes may hold separators and line ends."""
    csv.field_size_limit(MAX_CELL)
    reader, number = csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=True), 1
    try:
        for cells in reader:
            if cells:
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}: line {number}: {error}; a quote is left open, or single inside of a cell") from error


def read_tsv(path: Path) -> pa.Table:
    """Cells between tabs, a row in each line, so that no quote swallows a line; without a header, columns are 1, 2, 3."""
    lines = enumerate(filled_lines(path), 1)
    rows = [(number, [unquote(cell) for cell in line.split("\t")]) for number, line in lines if line]
    first = rows[0][1]
    if is_header(first):
        return to_table(path, [name or f"column {i}" for i, name in enumerate(first, 1)], rows[1:])
    return to_table(path, [str(i) for i in range(1, len(first) + 1)], rows)


def unquote(cell: str) -> str:
    """Cell without the quotes around it, if all quotes inside are doubled."""
    if len(cell) < 2 or not cell[0] == cell[-1] == '"' or '"' in cell[1:-1].replace('""', ""):
        return cell
    return cell[1:-1].replace('""', '"')


def is_header(cells: Sequence[str]) -> bool:
    """Whether the first row of a table names its columns: has no sentence, no number, and nothing twice."""
    names = [name.strip() for name in (cells[1:] if len(cells) > 1 and not cells[0] else cells)]  # pandas' index has none
    return len(set(names)) == len(names) and all(
        name and not name.isdecimal() and len(name.split()) <= MAX_NAME_WORDS and unicodedata.category(name[-1]) != "Po"
        for name in names
    )


def read_text(path: Path) -> pa.Table:
    """Lines as the column `text`; with tabs in the first of them, the columns that `read_tsv` finds."""
    import pyarrow as pa

    lines = filled_lines(path)
    return read_tsv(path) if "\t" in lines[0] else pa.table({"text": lines})


def read_json(path: Path) -> pa.Table:
    """Objects, one in each line; in a file `.json` also a list of objects, which may be the one value of an object."""
    import pyarrow as pa

    lines, records = filled_lines(path), list[Any]()
    if path.suffix.lower() == ".json":
        with suppress(json.JSONDecodeError):
            whole = json.loads("\n".join(lines))
            lists = [value for value in whole.values() if isinstance(value, list)] if isinstance(whole, dict) else [whole]
            records = lists[0] if len(lists) == 1 else [whole]
    for number, line in enumerate([] if records else lines, 1):
        try:
            if line.strip():
                records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {number} is not JSON: {error}") from error
    if odd := [record for record in records if not isinstance(record, dict)]:
        raise UserError(f"{path}: {str(odd[0])[:40]!r} is no object with a name for each value")
    names = dict.fromkeys(name for record in records for name in record)
    return pa.table({name: mixed_column([record.get(name) for record in records]) for name in names})


def read_parquet(path: Path) -> pa.Table:
    """Parquet, with the features that `datasets` wrote into it."""
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path).read()


def filled_lines(path: Path) -> list[str]:
    """Lines of a text file. Raises UserError if it is empty or not UTF-8."""
    if not any(lines := read_lines(path)):
        raise UserError(f"{path} is empty")
    return lines


def to_table(path: Path, names: list[str], rows: Sequence[Row]) -> pa.Table:
    """Table of rows of cells. Raises UserError for the first row with more or fewer cells than there are names."""
    import pyarrow as pa

    cells = []
    for number, row in rows:
        if len(row) != len(names) and (len(row) < len(names) or any(row[len(names) :])):
            reason = f"line {number} has {len(row)} cells, the first row {len(names)}"
            raise UserError(f"{path}: {reason}; in CSV put a cell with a separator or a line end into quotes")
        cells.append(row[: len(names)])
    columns = zip(*cells, strict=True) if cells else ([] for _ in names)
    return pa.table({name: typed_column(column) for name, column in zip(names, columns, strict=True)})


def typed_column(cells: Sequence[str]) -> Any:
    """Column of whole numbers, numbers, truth values or text: the first that all cells are which are not empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.array([cell if cell.strip() else None for cell in cells], pa.string())
    if text.null_count == len(text):
        return pa.nulls(len(text))
    for kind in (pa.int64(), pa.float64(), pa.bool_()):
        with suppress(pa.ArrowInvalid):
            return pc.utf8_trim_whitespace(text).cast(kind)
    return text


def mixed_column(values: Sequence[Any]) -> Any:
    """Column of values of any type; of values of several types, such as 1 and "1", all become text."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (ValueError, TypeError, OverflowError):
        whole = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
        return pa.array(
            [value if value is None or isinstance(value, str) else json.dumps(value) for value in whole], pa.string()
        )


READERS: dict[str, Callable[[Path], Any]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".json": read_json,
    ".jsonl": read_json,
    ".parquet": read_parquet,
    ".txt": read_text,
}
