"""Configuration dataclasses: options of the speed network and of data augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt, restricted_number_type

from common.options import PositiveFraction

IMAGE_SIZE = 32  # height and width in pixels
MIN_IMAGE_SIZE = 9  # the speed network halves height and width three times

if TYPE_CHECKING:
    ImageSize = int
else:
    ImageSize = restricted_number_type("ImageSize", int, [(">=", MIN_IMAGE_SIZE)])


@dataclass(frozen=True)
class SpeedNetConfig:
    """Network of the 94 % speed record.

    Args:
        block_channels: Output channels of the three blocks.
        convs_per_block: Convolutions in each block, 2 or 3; a third one gets a residual connection.
        bn_momentum: Batch-norm momentum: weight of the newest batch in the running statistics.
    """

    block_channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (64, 256, 256)
    convs_per_block: tuple[Literal[2, 3], Literal[2, 3], Literal[2, 3]] = (2, 2, 3)
    bn_momentum: PositiveFraction = 0.4


@dataclass(frozen=True)
class AugmentationConfig:
    """Augmentation of training images.

    Args:
        flip: Horizontal flip: "alternating" flips each image in every other epoch (arXiv 2404.00498, section 3.6),
            "random" with probability 0.5 in each epoch, "none" never.
        pad: Random crop: pixels of reflection padding on each side, out of which a crop of the original size is taken.
        cutout: Cutout: side in pixels of a box set to the mean color (DeVries & Taylor, arXiv 1708.04552); 0 for none.
    """

    flip: Literal["alternating", "random", "none"] = "alternating"
    pad: NonNegativeInt = 2
    cutout: NonNegativeInt = 0
