"""Which training pictures an epoch shows: all of them, or the hardest and some of the rest."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

HARDEST = 0.5  # of an epoch's pictures; the others are drawn from the rest


class Selection:
    """Online batch selection (Loshchilov & Hutter, arXiv 1511.06343), an epoch at a time.

    A picture that the network is sure of has little to teach. Half of an epoch's pictures are those with the largest loss
    when they were last shown (never shown counts as largest), half are drawn from all others: a picture that has been
    forgotten since is found again. The losses are those of training, which are there anyway.

    Every process keeps the losses of all pictures, so that all choose alike.

    Args:
        count: pictures in the training set.
        share: pictures of an epoch, as a share of `count`; at 1 each of them is shown in every epoch.
        seed: of what is drawn.
        device: where losses are kept.
    """

    def __init__(self, count: int, share: float, seed: int, device: torch.device) -> None:
        self.size = max(1, round(share * count))
        self.everything = self.size == count
        self.seed = seed
        self.losses = torch.full((count,), torch.inf, device=device)  # of each picture, in nats, when it was last shown
        self.shown = torch.zeros(count, dtype=torch.int64)  # how many epochs before this one had each picture
        self.epoch = -1  # the one that `chosen` is for
        self.chosen = torch.arange(count if self.everything else 0)

    def choose(self, epoch: int) -> Tensor:
        """The indices (size,) of the pictures of `epoch`, the same however often they are asked for."""
        if self.everything:
            self.shown.fill_(epoch)
        elif epoch != self.epoch:
            self.shown[self.chosen] += 1
            self.epoch, self.chosen = epoch, self._hardest_and_some(epoch)
        return self.chosen

    def _hardest_and_some(self, epoch: int) -> Tensor:
        ranked = self.losses.argsort(descending=True, stable=True).cpu()
        hardest, rest = ranked.tensor_split([int(HARDEST * self.size)])
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        drawn = torch.randperm(len(rest), generator=generator)[: self.size - len(hardest)]
        return torch.cat([hardest, rest[drawn]])

    def report(self, index: Tensor, losses: Tensor) -> None:
        """Takes down the losses (batch,) of the pictures `index` (batch,), this process's and all others'."""
        if self.everything:
            return
        new = torch.full_like(self.losses, -torch.inf)
        new[index] = losses.detach().to(new.dtype)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(new, dist.ReduceOp.MAX)
        self.losses = torch.where(new > -torch.inf, new, self.losses)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on with the same pictures; empty where every epoch has all of them."""
        if self.everything:
            return {}
        return {"losses": self.losses, "shown": self.shown, "epoch": self.epoch, "chosen": self.chosen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it back."""
        self.losses = state["losses"].to(self.losses.device)
        self.shown, self.epoch, self.chosen = state["shown"], state["epoch"], state["chosen"]
