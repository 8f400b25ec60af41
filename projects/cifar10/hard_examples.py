"""Online hard-example selection: an epoch trains on a subset, half of it the images with the largest losses."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

HARD_FRACTION = 0.5  # of an epoch's images; the others are sampled from the rest


class HardExampleSelection:
    """Online batch selection (Loshchilov & Hutter, arXiv 1511.06343), an epoch at a time.

    An image that the network is sure of has little to teach. Half of an epoch's images are those with the largest loss
    when they were last trained on (never counts as largest), half are sampled from all others: an image that has been
    forgotten since is found again. The losses are those of training, which are there anyway.

    Every process keeps the losses of all images, so that all select alike.

    Args:
        num_samples: Images in the training set.
        subset_fraction: Images of an epoch as a fraction of `num_samples`; with 1, every epoch has all of them.
        seed: Seed of the sampling.
        device: Device that the losses are kept on.
    """

    def __init__(self, num_samples: int, subset_fraction: float, seed: int, device: torch.device) -> None:
        self.subset_size = max(1, round(subset_fraction * num_samples))
        self.uses_all = self.subset_size == num_samples
        self.seed = seed
        self.losses = torch.full((num_samples,), torch.inf, device=device)  # in nats, when last trained on
        self.times_sampled = torch.zeros(num_samples, dtype=torch.int64)  # in how many epochs before this one
        self.epoch = -1  # the one that `subset` is for
        self.subset = torch.arange(num_samples if self.uses_all else 0)

    def select(self, epoch: int) -> Tensor:
        """Indices (subset_size,) of the images of `epoch`, the same however often they are asked for."""
        if self.uses_all:
            self.times_sampled.fill_(epoch)
        elif epoch != self.epoch:
            self.times_sampled[self.subset] += 1
            self.epoch, self.subset = epoch, self._hard_and_random(epoch)
        return self.subset

    def _hard_and_random(self, epoch: int) -> Tensor:
        ranked = self.losses.argsort(descending=True, stable=True).cpu()
        hard, rest = ranked.tensor_split([int(HARD_FRACTION * self.subset_size)])
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        random = torch.randperm(len(rest), generator=rng)[: self.subset_size - len(hard)]
        return torch.cat([hard, rest[random]])

    def update(self, index: Tensor, losses: Tensor, num_samples: int | None = None) -> None:
        """Records the losses (batch,) of the images `index` (batch,), of this process and of all others.

        `num_samples` are those of the step in all processes together; None for those of this one.
        """
        if self.uses_all:
            return
        losses = losses.detach().to(self.losses.dtype)
        if dist.is_available() and dist.is_initialized():
            # shards differ by one sample: the shorter ones repeat their first
            repeats = -(-(num_samples or len(index)) // dist.get_world_size()) - len(index)
            pairs = torch.stack([index.double(), losses.double()])  # float64 holds every index
            pairs = torch.cat([pairs, pairs[:, :1].expand(-1, repeats)], 1)
            shards = [torch.empty_like(pairs) for _ in range(dist.get_world_size())]
            dist.all_gather(shards, pairs)
            gathered = torch.cat(shards, 1)
            index, losses = gathered[0].long(), gathered[1].to(losses.dtype)
        self.losses[index] = losses

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs to continue with the same images; empty where every epoch has all of them."""
        if self.uses_all:
            return {}
        return {"losses": self.losses, "times_sampled": self.times_sampled, "epoch": self.epoch, "subset": self.subset}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = state["losses"].to(self.losses.device)
        self.times_sampled, self.epoch, self.subset = state["times_sampled"], state["epoch"], state["subset"]
