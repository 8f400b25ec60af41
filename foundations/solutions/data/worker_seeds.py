"""Random numbers in workers: augmentation that repeats by seed

Each worker of a DataLoader has a copy of the dataset. Randomness that is a function of seed, epoch and sample is the same in
every copy; randomness that lives in an object is not.
"""

import random

import torch
from torch import Tensor
from torch.utils.data import Dataset


class NoisyDataset(Dataset):
    """Dataset whose samples get normal noise, anew in each epoch.

    The noise of a sample depends on seed, epoch and index alone: not on the order in which samples are read, how often, by
    how many workers, or on what else draws random numbers. The noises of any two samples, of any two epochs and of any two
    seeds are independent. Reading a sample leaves the global random states alone.

    Args:
        x: (N, ...) float.
        std: Standard deviation of the noise.
        seed: Random seed.

    Example:
        data = NoisyDataset(torch.zeros(9, 2), 0.1, seed=0); data[4] is the same whenever it is read, until set_epoch(1).
    """

    def __init__(self, x: Tensor, std: float, seed: int) -> None:
        self.x, self.std, self.seed, self.epoch = x, std, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Begins an epoch, from 0; a new dataset is in epoch 0. Called before the workers start."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        """Sample with its noise, (...) in the dtype of x."""
        sample = self.x[index]
        key = random.Random(f"{self.seed} {self.epoch} {index}").getrandbits(63)  # a text cannot be equal for two samples
        rng = torch.Generator().manual_seed(key)
        return sample + self.std * torch.randn(sample.shape, generator=rng, dtype=sample.dtype)
