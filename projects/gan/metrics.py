"""Metrics of generated samples.

Of points: mode coverage, spread within modes, sliced Wasserstein distance. Of image features: Fréchet distance, kernel
distance and PRDC.

Fréchet and kernel distance measure how far the two sets are apart; precision and density how many fakes lie where real
samples are, recall and coverage how many of the real samples the fakes reach: a collapsed generator has high precision and
low recall.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from common.errors import UserError
from projects.gan.synthetic import GaussianMixture

HIGH_QUALITY_STDS = 3.0  # a point within so many standard deviations of its nearest mode is of high quality
NUM_PROJECTIONS = 64  # of the sliced Wasserstein distance
NUM_DATA_SAMPLES = 10  # that points are compared with
DATA_SEED = 20_003
NUM_NEIGHBORS = 5
MAX_KEPT_FEATURES = 10_000  # of each side in memory, for the metrics that compare samples one by one
KERNEL_SUBSET_SIZE = 1000


def discriminator_metrics(real: Tensor, fake: Tensor, boundary: float | None) -> dict[str, Tensor]:
    """Accuracy of the discriminator on real samples and on fakes, and the gap of the mean logits, from logits (batch,).

    Without a `boundary` the midpoint between the two means stands for it. Accuracies near 1 are a discriminator that leaves
    the generator nothing to learn from; near 0.5, one that has learned nothing itself.
    """
    threshold = 0.5 * (real.mean() + fake.mean()) if boundary is None else boundary
    return {
        "accuracy_real": (real > threshold).float().mean(),
        "accuracy_fake": (fake <= threshold).float().mean(),
        "logit_gap": real.mean() - fake.mean(),
    }


def nearest_modes(points: Tensor, mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Distance (n,) of points (n, 2) from the nearest mode, in its standard deviations, and the mode's index (n,)."""
    distance, nearest = torch.cdist(points.double(), mixture.modes.double().to(points.device)).min(1)
    return distance / mixture.mode_std, nearest


def fraction_within(stds: float) -> float:
    """Fraction of a Gaussian in the plane within so many standard deviations of its center."""
    return 1 - math.exp(-0.5 * stds**2)


# half of a mode's high-quality points are within so many standard deviations
MEDIAN_STDS = math.sqrt(-2 * math.log(1 - 0.5 * fraction_within(HIGH_QUALITY_STDS)))


def mode_counts(points: Tensor, mixture: GaussianMixture, stds: float = HIGH_QUALITY_STDS) -> Tensor:
    """Points of `points` (n, 2) within so many standard deviations of their nearest mode, by that mode: (modes,) int64."""
    distance, nearest = nearest_modes(points, mixture)
    return torch.bincount(nearest[distance <= stds], minlength=len(mixture.modes))


def mode_coverage(points: Tensor, mixture: GaussianMixture) -> dict[str, float]:
    """Mode coverage of generated points (n, 2), n at least 1, by PacGAN's protocol (arXiv 1712.04086, section 4.1).

    Returns:
        modes: Covered modes: those that at least one high-quality point is nearest to.
        high_quality: Fraction of high-quality points, within three standard deviations of their nearest mode.
        reverse_kl: KL divergence, in nats, of the high-quality points' distribution over the modes from the uniform one; it
            is log(modes) for points at a single mode, and for none at all.
        total_variation: Total variation distance between the points and the mixture, over an inner and an outer half of
            each mode and one bin for all that is near none: 0 is perfect, 1 the worst. Quality, balance and spread count.
    """
    counts = mode_counts(points, mixture).double()
    inner = mode_counts(points, mixture, MEDIAN_STDS).double()
    num_modes, total = len(counts), float(counts.sum())
    fraction = counts / max(total, 1.0)
    near = fraction_within(HIGH_QUALITY_STDS)  # of the mixture's own points: 98.9 %
    halves = torch.cat([inner, counts - inner]) / len(points)  # (2 modes,)
    difference = (halves - 0.5 * near / num_modes).abs().sum() + abs((1 - total / len(points)) - (1 - near))
    return {
        "modes": float((counts > 0).sum()),
        "high_quality": total / len(points),
        "reverse_kl": float(torch.xlogy(fraction, fraction * num_modes).sum()) if total else math.log(num_modes),
        "total_variation": float(0.5 * difference),
    }


def mode_spread(points: Tensor, mixture: GaussianMixture) -> dict[str, float]:
    """Spread of generated points (n, 2) within the modes, which mode coverage does not see: 1 is the data's.

    The spread of a mode is the median distance from its center of the high-quality points that are nearest to it, over
    the same of the mixture's own points. It is 0 where all lie at the center, and for a mode without points.

    Returns:
        spread_median: Median over the modes.
        spread_min: That of the worst mode.
    """
    distance, nearest = nearest_modes(points, mixture)
    near = distance <= HIGH_QUALITY_STDS
    groups = [distance[near & (nearest == mode)] for mode in range(len(mixture.modes))]
    radius = torch.stack([group.quantile(0.5) if len(group) else group.new_zeros(()) for group in groups])
    spread = radius / MEDIAN_STDS
    return {"spread_median": float(spread.quantile(0.5)), "spread_min": float(spread.min())}


def sliced_wasserstein_distance(a: Tensor, b: Tensor) -> float:
    """Sliced Wasserstein distance of two sets of points (n, 2): mean 1-Wasserstein distance of their projections on lines.

    Between two sets on a line the optimal transport pairs the points in their order (Rabin et al., 2011, "Wasserstein
    barycenter and its application to texture mixing"). The lines' directions are evenly spaced over a half-turn.
    """
    angles = torch.arange(NUM_PROJECTIONS, dtype=a.dtype, device=a.device) * (math.pi / NUM_PROJECTIONS)
    lines = torch.stack([angles.cos(), angles.sin()])  # (2, projections)
    return float(((a @ lines).sort(0).values - (b.to(a) @ lines).sort(0).values).abs().mean())


def distance_to_mixture(points: Tensor, mixture: GaussianMixture) -> dict[str, float]:
    """Sliced Wasserstein distance of generated points (n, 2) from fresh samples of the mixture, and that of such samples.

    Returns:
        sliced_wasserstein: Mean distance from `NUM_DATA_SAMPLES` samples of n points.
        sliced_wasserstein_data: Mean distance between two such samples: what a perfect generator has.
    """
    rng = torch.Generator().manual_seed(DATA_SEED)
    data = [mixture.sample(len(points), rng)[0].to(points.device) for _ in range(NUM_DATA_SAMPLES)]
    distances = [sliced_wasserstein_distance(points, sample) for sample in data]
    pairs = [sliced_wasserstein_distance(a, b) for a, b in zip(data, data[1:] + data[:1], strict=True)]
    return {
        "sliced_wasserstein": sum(distances) / len(distances),
        "sliced_wasserstein_data": sum(pairs) / len(pairs),
    }


class PrecomputedFeatures(nn.Module):
    """Feature extractor for torchmetrics where the features are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class FeatureMetrics:
    """Fréchet distance, kernel distance and PRDC of two sets of features, gathered batch by batch.

    The Fréchet distance needs sums alone, in float64: memory does not grow with the number of samples. All other metrics
    use the first `MAX_KEPT_FEATURES` samples of each side.

    Args:
        num_features: Dimension of the features.
        device: Device of the sums.
    """

    def __init__(self, num_features: int, device: torch.device) -> None:
        self.frechet = FrechetInceptionDistance(feature=PrecomputedFeatures(num_features)).to(device)
        self.kept: dict[bool, list[Tensor]] = {True: [], False: []}
        self.count = {True: 0, False: 0}
        self.finite = {side: torch.ones((), dtype=torch.bool, device=device) for side in (True, False)}

    def update(self, features: Tensor, real: bool) -> None:
        """Adds features (batch, num_features), of any dtype, of real or of generated samples."""
        if not features.dtype.is_floating_point or features.dtype in (torch.float16, torch.bfloat16):
            features = features.float()
        self.finite[real] &= features.isfinite().all()
        self.frechet.update(features, real=real)
        if (num_missing := MAX_KEPT_FEATURES - self.count[real]) > 0:
            # a copy: a view would hold on to all of its batch
            self.kept[real].append(features[:num_missing].to(torch.float32, copy=True))
        self.count[real] += len(features)

    def compute(self) -> dict[str, float]:
        """All metrics, the same in every process; at least two samples of each side are needed.

        Raises:
            UserError: Features are not finite: no distance would be, and none could select a checkpoint.
        """
        for side, name in [(True, "real"), (False, "generated")]:
            if not self.finite[side]:
                raise UserError(f"--model.features: features of {name} images are not finite")
        real, fake = (all_gather_rows(torch.cat(self.kept[side]))[:MAX_KEPT_FEATURES] for side in (True, False))
        with torch.random.fork_rng(devices=[]):  # the kernel distance samples its subsets
            torch.default_generator.manual_seed(0)
            return {
                "frechet_distance": float(self.frechet.compute()),
                "kernel_distance": kernel_distance(real, fake),
                **prdc(real, fake),
            }


def all_gather_rows(rows: Tensor) -> Tensor:
    """All-gather of rows (n, ...) to the CPU, in the order of the data: `shard_indices` has dealt them out in turn."""
    rows = rows.cpu()  # from a GPU they would arrive on their sender's
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    shards: list[Tensor] = [rows] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shards, rows)
    shortest = min(map(len, shards))
    interleaved = torch.stack([shard[:shortest] for shard in shards], 1).flatten(0, 1)
    return torch.cat([interleaved, *(shard[shortest:] for shard in shards)])


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Kernel distance: unbiased squared maximum mean discrepancy under a cubic kernel (arXiv 1801.01401, section 4)."""
    size = min(len(real), len(fake), KERNEL_SUBSET_SIZE)
    subsets = 1 if size == len(real) == len(fake) else 20
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features")
        metric = KernelInceptionDistance(
            feature=PrecomputedFeatures(real.shape[1]),
            subsets=subsets,
            subset_size=size,
            distributed_available_fn=lambda: False,  # every process has all features already
        )
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute()[0])


def prdc(real: Tensor, fake: Tensor, num_neighbors: int = NUM_NEIGHBORS) -> dict[str, float]:
    """PRDC: precision, recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797).

    The ball around a sample reaches to its `num_neighbors`-th nearest neighbor of its own side, itself not counted; with few
    samples there are fewer neighbors. `real` is (n, num_features), `fake` (m, num_features).

    Returns:
        precision: Fraction of fakes in at least one real sample's ball.
        recall: Fraction of real samples in at least one fake's ball.
        density: Mean number of real samples' balls that a fake is in, over `num_neighbors`; it may exceed 1.
        coverage: Fraction of real samples whose ball has at least one fake.
    """
    num_neighbors = min(num_neighbors, len(real) - 1, len(fake) - 1)
    real_radius = kth_neighbor_distance(real, num_neighbors)  # (n,)
    fake_radius = kth_neighbor_distance(fake, num_neighbors)  # (m,)
    num_balls = torch.zeros(len(fake), dtype=torch.int64)  # real samples' balls that each fake is in
    recalled, covered = [], []
    for rows, radius in zip(real.split(1000), real_radius.split(1000), strict=True):
        distance = torch.cdist(rows, fake)  # (rows, m)
        inside = distance <= radius[:, None]
        num_balls += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((distance <= fake_radius).any(1))
    return {
        "precision": float((num_balls > 0).double().mean()),
        "recall": float(torch.cat(recalled).double().mean()),
        "density": float(num_balls.double().mean() / num_neighbors),
        "coverage": float(torch.cat(covered).double().mean()),
    }


def kth_neighbor_distance(features: Tensor, k: int) -> Tensor:
    """Distance (n,) from each of `features` (n, num_features) to its k-th nearest neighbor."""
    parts = [torch.cdist(rows, features).kthvalue(k + 1, dim=1).values for rows in features.split(1000)]
    return torch.cat(parts)  # the nearest of all is the sample itself


def nearest_neighbors(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest neighbor of each fake (m, num_features) among `real` (n, num_features): distance (m,) and index (m,)."""
    distance, index = zip(*(torch.cdist(rows, real).min(1) for rows in fake.split(1000)), strict=True)
    return torch.cat(distance), torch.cat(index)
