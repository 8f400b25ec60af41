"""Labeled images: pixels, class labels and class names of a split."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.data.labels import match_classes
from common.data.sources import Source


@dataclass
class LabeledImages:
    """Images with class labels.

    Args:
        images: Pixels, (n, 3, size, size) uint8.
        labels: Class indices, (n,) int64.
        class_names: Name of each class.
        encoding: Lossy encoding in which the pixels were stored, such as `jpeg75`; empty for lossless formats.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    encoding: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> LabeledImages:
        """The same images on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def __getitem__(self, index: Tensor) -> LabeledImages:
        """Copies of the images of `index`."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def relabel(self, class_names: list[str], source: Source) -> LabeledImages:
        """The same with labels that index `class_names`. Raises UserError for an image of another class."""
        present = self.labels.unique()
        index = torch.zeros(len(self.class_names), dtype=torch.long)
        index[present] = torch.tensor(match_classes(source, [self.class_names[i] for i in present], class_names))
        return replace(self, labels=index[self.labels], class_names=class_names)

    def joined_with(self, other: LabeledImages) -> LabeledImages:
        """Concatenation with `other`, whose labels mean the same."""
        images, labels = torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels])
        return replace(self, images=images, labels=labels)
