"""Dataset: images of an array, labels of a CSV file

A dataset is an object with a length and an item for each index; loaders need nothing else.
"""

import csv
from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset


class ImageDataset(Dataset):
    """Labeled images.

    The CSV file begins with the header `image,label`. Each line after it is a sample: the row of the array, and the name of
    the class. The lines stand in any order, and need not name every row.

    Args:
        images: (N, H, W, 3) uint8. They are never changed.
        csv_path: The file.
        transform: Called with a sample's image, (3, H, W) float32 in [0, 1], at each access; gives the sample's image. It
            may change its argument.

    Attributes:
        classes: Names of the classes in the file, sorted; a label is a position in this list.

    Example:
        The lines `image,label`, `2,dog`, `0,cat` make two samples: row 2 with the label 1, and row 0 with the label 0.
    """

    def __init__(self, images: Tensor, csv_path: Path, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        self.images, self.transform = images, transform
        table = csv.DictReader(csv_path.read_text().splitlines())
        lines = [(int(line["image"]), line["label"]) for line in table]
        self.classes = sorted({label for _, label in lines})
        self.samples = [(row, self.classes.index(label)) for row, label in lines]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Sample at a position from 0 to len - 1.

        Returns:
            Image (3, H, W) float32, and label; a loader makes int64 (B,) of the labels.

        Raises:
            IndexError: There is no such sample, so that `for image, label in dataset` ends.
        """
        row, label = self.samples[index]  # a list raises IndexError by itself
        image = self.images[row].permute(2, 0, 1).float() / 255  # a new tensor: a transform may write into it
        return (image if self.transform is None else self.transform(image)), label
