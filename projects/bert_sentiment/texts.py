"""Labelled texts: read from any text and label columns, cleaned, and split so that no held-out text leaks into training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from common.data.sources import Source, load_splits, read_column
from common.errors import UserError
from common.io.ranks import print_rank_zero

UNLABELLED = -1  # how data sets with a class feature mark what nobody may see
VAL_NAMES = ("validation", "val", "valid", "dev")
HOLD_OUT_SEED = 1234  # the held-out texts are the same for every run, whatever its seed


@dataclass
class Texts:
    """Texts and the number of each one's class."""

    texts: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def __add__(self, other: Texts) -> Texts:
        return Texts(self.texts + other.texts, self.labels + other.labels)

    def select(self, index: Sequence[int]) -> Texts:
        """The texts `index`, in that order."""
        return Texts([self.texts[i] for i in index], [self.labels[i] for i in index])


def read(source: Source, text_column: str, label_column: str, val_size: int) -> tuple[dict[str, Texts], list[str]]:
    """The splits "train", "val" (if there is validation) and "test" of a source, and the names of the classes.

    A test split that nobody has labelled is left out. Without a labelled one the source's validation split becomes the test,
    as is usual for GLUE, and validation is held out of train. Of a source with neither, as a single file, both are held out.

    Args:
        source: where the texts are.
        text_column: the column of the texts.
        label_column: the column of the classes: names, whole numbers, or a class feature.
        val_size: texts to hold out for validation where the source has none, but at most a tenth of train; 0 for none.

    Raises:
        UserError: no training text, a column that is missing or of another kind, fewer than two classes, a label outside of
            the training labels.
    """
    columns: dict[str, Column] = {}
    for name, split in load_splits(source).items():
        column = read_split(source, name, split, text_column, label_column)
        if column is not None:
            columns[name] = column
    if "train" not in columns:
        others = ", ".join(columns) or "none"
        raise UserError(f"data source {source.name}: no split train with texts and labels; with both there is {others}")
    class_names = columns["train"].class_names
    if len(class_names) < 2:
        raise UserError(f"--data.label_column {label_column}: every text in train of {source.name} is {class_names[0]!r}")
    splits = {name: column.numbered(class_names, source, name) for name, column in columns.items()}
    train, test = splits["train"], splits.get("test")
    val = next((splits[name] for name in VAL_NAMES if name in splits), None)
    if test is None and val is not None:
        val, test = None, val
    size = min(val_size, len(train) // 10)
    if test is None and not size:
        raise UserError(f"data source {source.name}: no test split; hold texts out of train with --data.val_size 1000")
    if test is None:
        train, test = hold_out(train, size)
    if val is None and size:
        train, val = hold_out(train, size)
    return {"train": train, **({} if val is None else {"val": val}), "test": test}, class_names


@dataclass
class Column:
    """A split as it is read: texts, and the name of each one's class."""

    texts: list[str]
    names: list[str]
    class_names: list[str]  # of its class feature, or else the names that occur, in order

    def numbered(self, class_names: Sequence[str], source: Source, split: str) -> Texts:
        """The same with the number of each class in `class_names`. Raises UserError for a name that is not there."""
        numbers = {name: number for number, name in enumerate(class_names)}
        if strange := sorted(set(self.names) - set(numbers)):
            known = ", ".join(class_names)
            raise UserError(f"data source {source.name}: the label {strange[0]!r} of {split} is none of train's ({known})")
        return Texts(self.texts, [numbers[name] for name in self.names])


def read_split(source: Source, name: str, split: Any, text_column: str, label_column: str) -> Column | None:
    """A split's texts and class names; None if no row has a label. Rows without a text or a label are left out, with a word.

    Raises:
        UserError: a column is missing, the texts are no text, or the labels are neither names nor whole numbers.
    """
    for option, column in [("text", text_column), ("label", label_column)]:
        if column not in split.column_names:
            raise UserError(
                f"--data.{option}_column {column}: {name} of {source.name} has the columns {', '.join(split.column_names)}"
            )
    if not len(split):
        return None
    kinds = [getattr(split.features[column], "dtype", "?") for column in (text_column, label_column)]
    if kinds[0] not in ("string", "large_string"):
        raise UserError(f"--data.text_column {text_column}: not text but {kinds[0]}, in {name} of {source.name}")
    if kinds[1] == "null":
        return None
    if not kinds[1].startswith(("string", "large_string", "int", "uint", "bool")):
        raise UserError(f"--data.label_column {label_column}: {kinds[1]} is neither a name nor a whole number, in {name}")
    texts = read_column(source, split, text_column)
    labels = read_column(source, split, label_column)
    feature = getattr(split.features[label_column], "names", None)  # of a class feature: the names of 0, 1, ...
    blanks = (None, "") if feature is None else (None, UNLABELLED)
    rows = enumerate(zip(texts, labels, strict=True))
    kept = [i for i, (text, label) in rows if text and text.strip() and label not in blanks]
    if not kept:
        return None
    if len(kept) < len(texts):
        print_rank_zero(f"{name}: {len(texts) - len(kept)} rows without a text or a label are left out")
    found = [labels[i] for i in kept]
    names = [str(label) if feature is None else feature[label] for label in found]
    return Column([texts[i] for i in kept], names, feature or [str(label) for label in sorted(set(found))])


def hold_out(texts: Texts, size: int) -> tuple[Texts, Texts]:
    """`texts` without, and only, `size` of them at random; what is part of a held-out text leaves the others too.

    Data sets such as SST-2 hold every phrase of a sentence beside the sentence. Held-out phrases whose sentences were
    trained on would show how well a network remembers. So only whole texts are held out, which are part of no other, and
    with them goes everything that they contain.
    """
    holders = containing(texts.texts)
    whole = [i for i in range(len(texts)) if all(i in holders[j] for j in holders[i])]  # part of none but its own copies
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(HOLD_OUT_SEED)).tolist()
    out = {whole[i] for i in order[:size]}
    kept = [i for i in range(len(texts)) if i not in out and not out & holders[i]]
    return texts.select(kept), texts.select(sorted(out))


def containing(texts: Sequence[str]) -> list[set[int]]:
    """For each text the others that contain it, word by word, whatever the case; copies contain each other.

    Only texts with the rarest of a text's words can contain it, and those are few.
    """
    plain = [f" {' '.join(text.lower().split())} " for text in texts]
    where: defaultdict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(plain):
        for word in set(text.split()):
            where[word].append(i)
    rarest = [min((where[word] for word in text.split()), key=len, default=[]) for text in plain]
    return [{j for j in rarest[i] if j != i and text in plain[j]} for i, text in enumerate(plain)]
