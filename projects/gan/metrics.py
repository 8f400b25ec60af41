"""How good generated samples are, from the features of generated and of real ones.

Fréchet distance and kernel distance say how far the two sets are apart; precision and density how many fakes lie where real
ones are, recall and coverage how much of the real ones the fakes reach: a collapsed generator has high precision and low
recall.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

NEIGHBOURS = 5
KEPT = 10_000  # features of each side that are held in memory, for the measures that compare samples one by one
SUBSET = 1000  # of the kernel distance


class GivenFeatures(nn.Module):
    """What torchmetrics takes for a feature extractor where the features are already there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        """The features themselves."""
        return features


class FeatureComparison:
    """Gathers features of both sides batch by batch, and compares the two sets.

    The Fréchet distance needs sums alone, in float64: memory does not grow with the number of samples. All other measures
    look at the first `KEPT` samples of each side.

    Args:
        width: of the features.
        device: where the sums are.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.frechet = FrechetInceptionDistance(feature=GivenFeatures(width)).to(device)
        self.kept: dict[bool, list[Tensor]] = {True: [], False: []}
        self.count = {True: 0, False: 0}

    def update(self, features: Tensor, real: bool) -> None:
        """Adds features (batch, width) of real or of generated samples."""
        self.frechet.update(features, real=real)
        if (room := KEPT - self.count[real]) > 0:
            # a copy: a view would hold on to all of its batch
            self.kept[real].append(features[:room].to("cpu", torch.float32, copy=True))
        self.count[real] += len(features)

    def compute(self) -> dict[str, float]:
        """All measures; at least two samples of each side are needed. The same in every process."""
        real, fake = (gather(torch.cat(self.kept[side]))[:KEPT] for side in (True, False))
        with torch.random.fork_rng(devices=[]):  # the kernel distance draws its subsets
            torch.default_generator.manual_seed(0)
            return {
                "frechet": float(self.frechet.compute()),
                "kernel": kernel_distance(real, fake),
                **neighbourhoods(real, fake),
            }


def gather(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all processes, on the CPU: in turn one of each, as samples are shared out."""
    rows = rows.cpu()  # from a GPU they would arrive on their sender's
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts: list[Tensor] = [rows] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, rows)
    shortest = min(map(len, parts))
    dealt = torch.stack([part[:shortest] for part in parts], 1).flatten(0, 1)
    return torch.cat([dealt, *(part[shortest:] for part in parts)])


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy under a cubic kernel (Bińkowski et al., arXiv 1801.01401, section 4).

    Args:
        real: features (n, width).
        fake: features (m, width).
    """
    size = min(len(real), len(fake), SUBSET)
    subsets = 1 if size == len(real) == len(fake) else 20
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features")
        metric = KernelInceptionDistance(
            feature=GivenFeatures(real.shape[1]),
            subsets=subsets,
            subset_size=size,
            distributed_available_fn=lambda: False,  # every process has all features already
        )
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute()[0])


def neighbourhoods(real: Tensor, fake: Tensor, neighbours: int = NEIGHBOURS) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al., arXiv 1904.06991), density and coverage (Naeem et al., arXiv 2002.09797).

    Around every sample is a ball that reaches to its `neighbours`-th nearest of its own side, itself not counted.

    Args:
        real: features (n, width), n above `neighbours`; with fewer samples, that many fewer neighbours.
        fake: features (m, width).
        neighbours: k of the papers.

    Returns:
        precision: share of fakes in at least one real sample's ball.
        recall: share of real samples in at least one fake's ball.
        density: how many real samples' balls a fake is in, on average, over `neighbours`; it may exceed 1.
        coverage: share of real samples whose ball has at least one fake.
    """
    neighbours = min(neighbours, len(real) - 1, len(fake) - 1)
    real_radius = kth_distance(real, neighbours)  # (n,)
    fake_radius = kth_distance(fake, neighbours)  # (m,)
    in_real = torch.zeros(len(fake), dtype=torch.int64)  # how many real balls each fake is in
    recalled, covered = [], []
    for rows, radius in zip(real.split(1000), real_radius.split(1000), strict=True):
        distance = torch.cdist(rows, fake)  # (rows, m)
        inside = distance <= radius[:, None]
        in_real += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((distance <= fake_radius).any(1))
    return {
        "precision": float((in_real > 0).double().mean()),
        "recall": float(torch.cat(recalled).double().mean()),
        "density": float(in_real.double().mean() / neighbours),
        "coverage": float(torch.cat(covered).double().mean()),
    }


def kth_distance(features: Tensor, k: int) -> Tensor:
    """The distance (n,) from each of `features` (n, width) to the k-th nearest of the others."""
    parts = [torch.cdist(rows, features).kthvalue(k + 1, dim=1).values for rows in features.split(1000)]
    return torch.cat(parts)  # the nearest of all is the sample itself


def nearest(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """For each fake (m, width) the distance (m,) and index (m,) of the nearest of `real` (n, width)."""
    distance, index = zip(*(torch.cdist(rows, real).min(1) for rows in fake.split(1000)), strict=True)
    return torch.cat(distance), torch.cat(index)
