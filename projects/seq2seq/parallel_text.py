"""Parallel text: sentence pairs from two text files, from two columns of a table, or from a column of translations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.data.held_out import complete_splits, hold_out_indices
from common.data.image_files import walk_files
from common.data.sources import Source, evaluated_splits, load_splits, read_column
from common.data.tables import split_of_path
from common.errors import UserError
from common.io.ranks import print_rank_zero
from common.io.text import read_lines

TRANSLATION = "translation"  # column of OPUS and WMT at the hub: a dict from languages to sentences

SPLITS = ("train", "validation", "test")

Texts = tuple[list[str], list[str]]  # source and target sentences, pair by pair


def read_splits(source: Source, direction: str, val_size: int | None = None) -> tuple[dict[str, Texts], tuple[str, str]]:
    """Splits "train", "val" (if there is validation) and "test" of a source, and the languages that `direction` names.

    For what is held out of train see `complete_splits`. Missing values, as a CSV file's empty cells, are empty sentences.

    Raises:
        UserError: A language is missing, a column is not text, two text files have different numbers of lines, there is no
            training pair or too few, or a file cannot be read.
    """
    found = read_text_files(Path(source.name), direction) if source.kind == "folder" else None
    texts, languages = found or read_columns(source, direction)
    texts = evaluated_splits(source, texts)
    return complete_splits(source, texts, lambda pairs: len(pairs[0]), hold_out, val_size), languages


def read_text_files(root: Path, direction: str) -> tuple[dict[str, Texts], tuple[str, str]] | None:
    """Pairs of text files, line by line: `train.en` and `train.de`, or `en.txt` and `de.txt`; None if there is no pair."""
    files = {str(path.relative_to(root)): path for path in sorted(walk_files(root))}
    for languages in possible_directions(direction):
        texts: dict[str, Texts] = {}
        for name, path in files.items():
            ending = ".txt" if name.endswith(".txt") else ""
            stem = name.removesuffix(ending).removesuffix(languages[0])
            other = files.get(f"{stem}{languages[1]}{ending}")
            if stem + languages[0] + ending != name or stem[-1:] not in ("", "/", ".", "_", "-") or other in (None, path):
                continue
            source, target = read_lines(path), read_lines(other)
            if len(source) != len(target):
                raise UserError(f"{path} has {len(source)} lines and {other} {len(target)}: they are no translations")
            before = texts.setdefault(split_of_path(path, root) or "train", ([], []))
            before[0].extend(source)
            before[1].extend(target)
        if texts:
            return texts, languages
    return None


def read_columns(source: Source, direction: str) -> tuple[dict[str, Texts], tuple[str, str]]:
    """Pairs from two columns of tables, or from their column of translations."""
    tables = load_splits(source)
    splits = {name: unfold(tables[name]) for name in SPLITS if name in tables and len(tables[name])}
    if not splits:
        raise UserError(f"data source {source.name}: it has no rows for training")
    columns, languages = choose_columns(source, direction, next(iter(splits.values())))
    texts: dict[str, Texts] = {}
    for name, split in splits.items():
        for column in columns:
            feature = split.features.get(column, "missing")
            kind = getattr(feature, "dtype", feature)
            if kind not in ("string", "large_string"):
                raise UserError(f"data source {source.name}: column {column} of {name} is not text but {kind}")
        first, second = ([line or "" for line in read_column(source, split, column)] for column in columns)
        texts[name] = first, second
    return texts, languages


def unfold(table: Any) -> Any:
    """Table with a column for each language of `translation`, which OPUS and WMT have: a dict from language to sentence."""
    feature = table.features.get(TRANSLATION)
    if not isinstance(feature, dict) and type(feature).__name__ != "Translation":
        return table
    flat = table.select_columns([TRANSLATION]).flatten()
    return flat.rename_columns({name: name.removeprefix(f"{TRANSLATION}.") for name in flat.column_names})


def choose_columns(source: Source, direction: str, table: Any) -> tuple[tuple[str, str], tuple[str, str]]:
    """The two columns to read, and their languages; a file without a header has the languages in the order of `direction`.

    Tatoeba's pairs are of this kind, with the attribution in a third column.
    """
    names = table.column_names
    if names in (["1", "2"], ["1", "2", "3"]) and not set(direction) <= set("123-"):
        for languages in possible_directions(direction):
            first, second = (str(table[0][column])[:40] for column in names[:2])
            pair = f"{first!r} is {languages[0]} and {second!r} {languages[1]}"
            print_rank_zero(f"data source {source.name}: no header, so {pair}; --data.direction 2-1 exchanges them")
            return ("1", "2"), languages
    columns = split_direction(direction, names)
    return columns, columns


def possible_directions(direction: str) -> Iterator[tuple[str, str]]:
    """Source and target of a direction `source-target`, whose names may hold hyphens too."""
    parts = direction.split("-")
    for i in range(1, len(parts)):
        source, target = "-".join(parts[:i]), "-".join(parts[i:])
        if source and target and source != target:
            yield source, target


def split_direction(direction: str, columns: Sequence[str]) -> tuple[str, str]:
    """Source and target column of a direction `source-target`. Raises UserError if there are no such columns."""
    for source, target in possible_directions(direction):
        if source in columns and target in columns:
            return source, target
    raise UserError(
        f"--data.direction {direction}: not two columns joined by a hyphen; the columns are {', '.join(sorted(columns))}"
    )


def hold_out(texts: Texts, size: int) -> tuple[Texts, Texts]:
    """Random split into train and `size` held-out pairs; pairs of the same source sentence stay together."""
    train, held_out = hold_out_indices(texts[0], size)
    return select(texts, train), select(texts, held_out)


def select(texts: Texts, index: Sequence[int]) -> Texts:
    """Pairs `index` of `texts`."""
    return [texts[0][i] for i in index], [texts[1][i] for i in index]
