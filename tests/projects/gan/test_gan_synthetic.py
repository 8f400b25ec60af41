"""The mixtures are those of PacGAN; how much of one is found, and how well, is what loops, SciPy and geometry say."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from projects.gan.metrics import (
    NUM_PROJECTIONS,
    distance_to_mixture,
    mode_counts,
    mode_coverage,
    mode_spread,
    sliced_wasserstein_distance,
)
from projects.gan.synthetic import MIXTURES, GaussianMixture

# metrics of modes that lie apart: of a mixture of one's own they may overlap
mixtures = pytest.mark.parametrize("name", ["ring8", "grid25"])


def slow_counts(points: Tensor, mixture: GaussianMixture, stds: float = 3) -> list[int]:
    counts = [0] * len(mixture.modes)
    for point in points.tolist():
        distances = [math.dist(point, mode) for mode in mixture.modes.tolist()]
        if min(distances) <= stds * mixture.mode_std:
            counts[distances.index(min(distances))] += 1
    return counts


def slow_coverage(points: Tensor, mixture: GaussianMixture) -> dict[str, float]:
    counts, n = slow_counts(points, mixture), len(points)
    near = stats.chi2(2).cdf(9)  # squared distance from a mode, in variances
    inner = slow_counts(points, mixture, stats.chi2(2).ppf(near / 2) ** 0.5)
    outer = [a - b for a, b in zip(counts, inner, strict=True)]
    bins = [*(count / n for count in inner + outer), 1 - sum(counts) / n]
    expected = [*([near / 2 / len(counts)] * 2 * len(counts)), 1 - near]
    return {
        "modes": sum(count > 0 for count in counts),
        "high_quality": sum(counts) / n,
        "reverse_kl": float(stats.entropy(counts, [1] * len(counts))),
        "total_variation": sum(abs(a - b) for a, b in zip(bins, expected, strict=True)) / 2,
    }


def test_modes_of_ring8_by_hand():
    mixture, h = MIXTURES["ring8"](), math.sqrt(0.5)
    expected = [[1, 0], [h, h], [0, 1], [-h, h], [-1, 0], [-h, -h], [0, -1], [h, -h]]
    torch.testing.assert_close(mixture.modes, torch.tensor(expected), atol=1e-6, rtol=0)
    assert mixture.mode_std == 0.01


def test_modes_of_grid25_by_hand():
    mixture = MIXTURES["grid25"]()
    expected = [[float(x), float(y)] for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)]
    assert mixture.modes.tolist() == expected and mixture.mode_std == 0.05


@mixtures
def test_samples_are_round_gaussians_around_equally_likely_modes(name):
    mixture, n = MIXTURES[name](), 200_000
    points, which = mixture.sample(n, torch.Generator().manual_seed(0))
    modes = len(mixture.modes)
    counts = torch.bincount(which, minlength=modes).double()
    assert points.shape == (n, 2) and which.dtype == torch.int64 and len(counts) == modes
    # Pearson's statistic has mean `modes - 1`; six of its standard deviations
    statistic = float(((counts - n / modes) ** 2 / (n / modes)).sum())
    assert statistic < modes - 1 + 6 * (2 * (modes - 1)) ** 0.5
    each = n / modes
    for mode, center in enumerate(mixture.modes):
        offsets = (points[which == mode] - center).double() / mixture.mode_std
        torch.testing.assert_close(offsets.mean(0), torch.zeros(2).double(), atol=5 / each**0.5, rtol=0)
        torch.testing.assert_close(offsets.T.cov(), torch.eye(2).double(), atol=5 * (2 / each) ** 0.5, rtol=0)
    assert points.std().item() == pytest.approx(mixture.data_std, rel=0.01)


def test_samples_are_a_function_of_the_generator_alone():
    mixture = MIXTURES["ring8"]()
    first, again, other = (mixture.sample(20, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@mixtures
def test_coverage_is_that_of_a_loop_over_points(name):
    mixture = MIXTURES[name]()
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        points, which = mixture.sample(400, rng)
        wide = mixture.modes[which] + 2.5 * (points - mixture.modes[which])  # about half are beyond three sigmas
        points = torch.cat([wide[which % 3 > 0], 5 * torch.randn(30, 2, generator=rng)])
        expected = slow_coverage(points, mixture)
        assert mode_counts(points, mixture).tolist() == slow_counts(points, mixture)
        assert 0 < expected["modes"] < len(mixture.modes) and 0.2 < expected["high_quality"] < 0.8
        assert mode_coverage(points, mixture) == pytest.approx(expected, abs=1e-9)


def test_reverse_kl_by_hand():
    mixture = MIXTURES["ring8"]()
    points = mixture.modes[[0, 0, 0, 4]]
    expected = 3 / 4 * math.log(3 / 4 * 8) + 1 / 4 * math.log(1 / 4 * 8)
    assert mode_coverage(points, mixture)["reverse_kl"] == pytest.approx(expected)


@mixtures
def test_a_large_true_sample_is_almost_perfect(name):
    mixture = MIXTURES[name]()
    got = mode_coverage(mixture.sample(200_000, torch.Generator().manual_seed(0))[0], mixture)
    assert got["modes"] == len(mixture.modes)
    assert got["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=1e-3)
    assert got["reverse_kl"] < 1e-3 and got["total_variation"] < 0.015
    points, which = mixture.sample(200_000, torch.Generator().manual_seed(0))
    tight = mixture.modes[which] + 0.5 * (points - mixture.modes[which])
    assert mode_coverage(tight, mixture)["total_variation"] > 0.4, "too little spread within the modes"


@mixtures
def test_a_collapsed_generator_has_one_mode(name):
    mixture = MIXTURES[name]()
    got, modes = mode_coverage(mixture.modes[3].expand(100, 2), mixture), len(mixture.modes)
    assert got == pytest.approx(slow_coverage(mixture.modes[3].expand(100, 2), mixture))
    assert (got["modes"], got["high_quality"]) == (1, 1)
    assert got["reverse_kl"] == pytest.approx(math.log(modes))
    assert got["total_variation"] == pytest.approx(1 - (1 - math.exp(-4.5)) / 2 / modes)


@mixtures
def test_points_near_nothing_are_all_wrong(name):
    mixture = MIXTURES[name]()
    got = mode_coverage(torch.full((100, 2), 50.0), mixture)
    assert (got["modes"], got["high_quality"]) == (0, 0)
    assert got["reverse_kl"] == pytest.approx(math.log(len(mixture.modes)))
    assert got["total_variation"] == pytest.approx(1, abs=0.012), "a ninetieth of the mixture itself is near no mode"


@mixtures
def test_spread_is_one_for_the_data_and_follows_a_contraction_of_one_mode(name):
    mixture = MIXTURES[name]()
    points, which = mixture.sample(100_000, torch.Generator().manual_seed(0))
    assert mode_spread(points, mixture) == pytest.approx({"spread_median": 1, "spread_min": 1}, abs=0.04)
    centers = mixture.modes[which]
    scale = torch.where(which == 2, 0.1, 0.5)[:, None]
    got = mode_spread(centers + scale * (points - centers), mixture)
    assert got == pytest.approx({"spread_median": 0.5, "spread_min": 0.1}, rel=0.05)


def test_spread_by_hand():
    """Of three points at a mode the middle distance counts, far points do not, and a mode without points has none."""
    mixture = GaussianMixture(torch.tensor([[0.0, 0.0], [10.0, 0.0]]), mode_std=1.0)
    data = float(stats.rayleigh.ppf(0.5 * stats.rayleigh.cdf(3)))
    points = torch.tensor([[0.0, 0.3], [1.2, 0.0], [0.0, -2.9], [0.0, 3.1], [0.0, 4.0], [10.0, 0.4], [9.4, 0.0]])
    assert mode_spread(points, mixture) == pytest.approx({"spread_median": (1.2 + 0.5) / 2 / data, "spread_min": 0.5 / data})
    assert mode_spread(points[:3], mixture)["spread_min"] == 0 == mode_spread(points[3:5], mixture)["spread_median"]


def test_sliced_wasserstein_distance_is_scipys_on_each_line():
    rng = torch.Generator().manual_seed(0)
    a, b = 3 * torch.randn(50, 2, generator=rng), torch.rand(50, 2, generator=rng)
    angles = [math.pi * i / NUM_PROJECTIONS for i in range(NUM_PROJECTIONS)]
    lines = [torch.tensor([math.cos(angle), math.sin(angle)]) for angle in angles]
    expected = [stats.wasserstein_distance((a @ line).numpy(), (b @ line).numpy()) for line in lines]
    assert sliced_wasserstein_distance(a, b) == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert sliced_wasserstein_distance(a, a.flip(0)) == 0
    # of a shift: the mean of |cos| over all directions is 2 / pi
    assert sliced_wasserstein_distance(a, a + torch.tensor([0.0, 5.0])) == pytest.approx(10 / math.pi, rel=1e-3)


@mixtures
def test_distance_to_the_mixture_is_beside_that_of_the_data(name):
    mixture = MIXTURES[name]()
    points, which = mixture.sample(1000, torch.Generator().manual_seed(5))
    got = distance_to_mixture(points, mixture)
    assert got["sliced_wasserstein"] == pytest.approx(got["sliced_wasserstein_data"], rel=0.3)
    assert 0 < got["sliced_wasserstein_data"] < 0.1 * mixture.data_std
    worse = distance_to_mixture(points[which != 0], mixture)
    assert worse["sliced_wasserstein"] > 1.5 * got["sliced_wasserstein"], "a mode is missing"
    collapsed = distance_to_mixture(points[:1].expand(1000, 2), mixture)
    assert collapsed["sliced_wasserstein"] > 0.5 * mixture.data_std
    assert collapsed["sliced_wasserstein_data"] == got["sliced_wasserstein_data"]
