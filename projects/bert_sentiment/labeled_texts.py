"""Labeled texts: read from any text and label columns, cleaned, and split without leakage into held-out texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from common.data.held_out import SPLIT_SEED, complete_splits, hold_out_indices
from common.data.labels import read_labels
from common.data.sources import Source, evaluated_splits, load_splits, read_column
from common.errors import UserError
from common.io.ranks import print_rank_zero

UNLABELED = "-1"  # where the labels of a split are not public


@dataclass
class LabeledTexts:
    """Texts with their labels, which are indices into `class_names`."""

    texts: list[str]
    labels: list[int]
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Sequence[int]) -> LabeledTexts:
        """The texts `indices`, in that order."""
        return LabeledTexts([self.texts[i] for i in indices], [self.labels[i] for i in indices], self.class_names)

    def relabel(self, class_names: list[str], source: Source, split: str, whose: str = "train") -> LabeledTexts:
        """The same with labels that index `class_names`, those of `whose`. Raises UserError for another label."""
        index = {name: i for i, name in enumerate(class_names)}
        if unknown := sorted({self.class_names[label] for label in self.labels} - index.keys()):
            known = ", ".join(class_names)
            raise UserError(f"data source {source.name}: the label {unknown[0]!r} of {split} is none of {whose}'s ({known})")
        return LabeledTexts(self.texts, [index[self.class_names[label]] for label in self.labels], class_names)


def read_splits(source: Source, text_column: str, label_column: str, val_size: int | None) -> dict[str, LabeledTexts]:
    """The splits "train", "val" (if there is validation) and "test" of a source, all with the class names of train.

    A split without labels is left out; for those that are then missing see `complete_splits`.

    Raises UserError if there is no training text, a column is missing or of another type, there are fewer than two classes,
    or a label is none of the training labels.
    """
    found: dict[str, LabeledTexts] = {}
    tables = load_splits(source)
    for name in sorted(tables, key=lambda name: name != "train"):  # train first
        known = found["train"].class_names if "train" in found else None
        texts = read_split(source, name, tables[name], text_column, label_column, known)
        if texts is not None:
            found[name] = texts
    found = evaluated_splits(source, found)
    if "train" not in found:
        rest = ", ".join(found) or "none"
        raise UserError(f"data source {source.name}: no split train with texts and labels; with both there is {rest}")
    train = found["train"]
    if len(train.class_names) < 2:
        raise UserError(
            f"--data.label_column {label_column}: every text in train of {source.name} is {train.class_names[0]!r}"
        )
    found = {name: texts.relabel(train.class_names, source, name) for name, texts in found.items()}
    return complete_splits(source, found, len, hold_out, val_size)


def read_split(
    source: Source, name: str, split: Any, text_column: str, label_column: str, known: Sequence[str] | None = None
) -> LabeledTexts | None:
    """Labeled texts of a split; None if it has no label. Rows without a text or a label are left out, and counted.

    Args:
        source: Data source.
        name: Name of the split.
        split: Table of `datasets`.
        text_column: Name of the column of texts.
        label_column: Name of the column of labels; a split other than train may lack it.
        known: Classes of train, for another split: -1 is no label there unless train has it.

    Raises UserError if a column is missing, the texts are no strings, or the labels are neither text nor whole numbers.
    """
    for option, column in [("text", text_column), ("label", label_column)]:
        if column not in split.column_names and (option == "text" or known is None):
            columns = ", ".join(split.column_names)
            raise UserError(f"--data.{option}_column {column}: {name} of {source.name} has the columns {columns}")
    text_type = getattr(split.features[text_column], "dtype", "?")
    if text_type not in ("string", "large_string", "null"):
        raise UserError(f"--data.text_column {text_column}: not text but {text_type}, in {name} of {source.name}")
    labels, class_names = list[str | None](), list[str]()
    if label_column in split.column_names:
        labels, class_names = read_labels(source, split, label_column)
    missing = {None, UNLABELED} - set(known or [UNLABELED])
    rows = zip(read_column(source, split, text_column), labels or [None] * len(split), strict=True)
    kept = [(text, label) for text, label in rows if text and text.strip() and label not in missing]
    if len(kept) < len(split):
        print_rank_zero(f"{name}: {len(split) - len(kept)} rows without a text or a label are left out")
    index = {label: i for i, label in enumerate(name for name in class_names if name not in missing)}
    return LabeledTexts([text for text, _ in kept], [index[str(label)] for _, label in kept], list(index)) if kept else None


def hold_out(texts: LabeledTexts, size: int) -> tuple[LabeledTexts, LabeledTexts]:
    """Random split into train and `size` held-out texts, of which none is part of the other or contains a part of it.

    Data sets such as SST-2 hold every phrase of a sentence beside the sentence. Held-out phrases whose sentences were
    trained on would measure what a network memorizes. So only whole texts are held out, which are part of no other, and
    with them everything that they contain leaves train, and is counted. Where that would be more than half of the texts,
    copies alone stay together.
    """
    normalized = [f" {' '.join(text.lower().split())} " for text in texts.texts]
    different = dict.fromkeys(normalized)
    parts = contained_in(different, different)
    whole = [i for i, text in enumerate(normalized) if text not in parts]
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
    held_out = sorted(whole[i] for i in order[:size])
    wholes = dict.fromkeys(normalized[i] for i in held_out)
    leaving = contained_in(different, wholes) | wholes.keys()
    train = [i for i, text in enumerate(normalized) if text not in leaving]
    if len(held_out) < size or len(train) < len(texts) // 2:
        train, held_out = hold_out_indices(normalized, size)
        print_rank_zero("most texts are parts of others: held-out texts may be parts of training texts, or contain some")
    elif left_out := len(texts) - len(train) - len(held_out):
        print_rank_zero(f"train: {left_out} copies and parts of held-out texts are left out")
    return texts.select(train), texts.select(held_out)


def contained_in(texts: Collection[str], others: Collection[str]) -> set[str]:
    """Those of `texts` that another one of `others` contains, word by word, all with single spaces between and around.

    An inverted index of words: only texts with the rarest of a text's words can contain it, and those are few.
    """
    index: dict[str, list[str]] = defaultdict(list)
    for other in others:
        for word in set(other.split()):
            index[word].append(other)

    def is_contained(text: str) -> bool:
        rarest = min((index.get(word, []) for word in text.split()), key=len, default=[])
        return any(text in other and text != other for other in rarest)

    return set(filter(is_contained, texts))
