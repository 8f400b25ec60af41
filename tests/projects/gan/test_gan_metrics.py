"""The measures are what their papers define, written here pair by pair; batches and chunks change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from torch import Tensor

from common.data.batches import shard_indices
from common.errors import UserError
from projects.gan import metrics
from projects.gan.metrics import FeatureMetrics, all_gather_rows, kernel_distance, nearest_neighbors, prdc

CPU = torch.device("cpu")


def sets(n: int, m: int, num_features: int = 4, dtype: torch.dtype = torch.double) -> tuple[Tensor, Tensor]:
    return torch.randn(n, num_features, dtype=dtype), 0.7 * torch.randn(m, num_features, dtype=dtype) + 0.5


def pair_by_pair(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """The definitions of Kynkäänniemi et al. (2019) and Naeem et al. (2020)."""
    to_real, to_fake, across = (cdist(a, b).tolist() for a, b in ((real, real), (fake, fake), (real, fake)))
    real_radius = [sorted(row[:i] + row[i + 1 :])[k - 1] for i, row in enumerate(to_real)]
    fake_radius = [sorted(row[:j] + row[j + 1 :])[k - 1] for j, row in enumerate(to_fake)]
    n, m = len(real), len(fake)
    inside, recalled, covered = [0] * m, 0, 0
    for i in range(n):
        found = reached = False
        for j in range(m):
            if across[i][j] <= real_radius[i]:
                inside[j] += 1
                reached = True
            found = found or across[i][j] <= fake_radius[j]
        recalled, covered = recalled + found, covered + reached
    precision, density = sum(count > 0 for count in inside) / m, sum(inside) / (k * m)
    return {"precision": precision, "recall": recalled / n, "density": density, "coverage": covered / n}


def frechet(real: Tensor, fake: Tensor) -> float:
    real, fake = real.double().numpy(), fake.double().numpy()
    a, b = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    return float(((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real))


def feature_metrics(real: Tensor, fake: Tensor, batches: tuple[int, ...] = (10**6,)) -> FeatureMetrics:
    comparison = FeatureMetrics(real.shape[1], CPU)
    for side, features in ((True, real), (False, fake)):
        for start, stop in zip(np.cumsum([0, *batches[:-1]]), np.cumsum(batches), strict=True):
            comparison.update(features[start:stop], real=side)
    return comparison


# prdc


@pytest.mark.parametrize("n, m, k", [(60, 45, 5), (40, 70, 1), (50, 51, 3)])
def test_prdc_are_those_counted_pair_by_pair(n, m, k):
    real, fake = sets(n, m)
    assert prdc(real, fake, k) == pytest.approx(pair_by_pair(real, fake, k), abs=1e-12)


@pytest.mark.parametrize("n, m", [(1100, 1030), (300, 1001)])
def test_prdc_do_not_depend_on_chunks(n, m):
    real, fake = sets(n, m, num_features=2)
    assert prdc(real, fake) == pytest.approx(pair_by_pair(real, fake, 5), abs=1e-12)


def test_few_samples_have_fewer_neighbors():
    real, fake = sets(4, 30)
    assert prdc(real, fake) == pytest.approx(pair_by_pair(real, fake, 3), abs=1e-12)


@pytest.mark.parametrize("n", [40, 1200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_sets_reach_each_other_wholly(n, dtype):
    features = sets(n, 1, dtype=dtype)[0]
    expected = {"precision": 1, "recall": 1, "density": 6 / 5, "coverage": 1}  # a ball holds its center and five others
    assert prdc(features, features.clone()) == pytest.approx(expected, abs=1e-12)


def test_a_collapsed_generator_has_high_precision_and_low_recall():
    real, _ = sets(300, 1)
    fake = real[:1] + 1e-4 * torch.randn(200, 4, dtype=torch.double)
    got = prdc(real, fake)
    assert got["precision"] == 1 and got["density"] > 0.2
    assert got["recall"] < 0.02 and got["coverage"] < 0.1


def test_nearest_neighbors_are_that_of_a_loop():
    real, fake = sets(90, 1020, num_features=3)
    distance, index = nearest_neighbors(fake, real)
    for j, sample in enumerate(fake.tolist()):
        each = [math.dist(sample, other) for other in real.tolist()]
        assert index[j] == each.index(min(each)) and distance[j].item() == pytest.approx(min(each), abs=1e-9)


def test_a_copy_of_a_real_sample_is_found_next_to_it():
    real = torch.rand(500, 192)  # float32, as pixel features are
    distance, index = nearest_neighbors(real[[7, 400]].repeat(20, 1), real)
    assert index.tolist() == [7, 400] * 20 and distance.max() < 0.01


# Fréchet and kernel distance


@pytest.mark.parametrize("n, m", [(80, 55), (30, 200)])
def test_frechet_distance_is_that_of_the_matrix_root(n, m):
    real, fake = sets(n, m, num_features=6)
    assert feature_metrics(real, fake).compute()["frechet_distance"] == pytest.approx(frechet(real, fake), rel=1e-6)


def test_frechet_distance_of_two_gaussians():
    real, fake = torch.randn(40_000, 3), 2 * torch.randn(30_000, 3) + torch.tensor([1.0, 0.0, -2.0])
    comparison = FeatureMetrics(3, CPU)
    comparison.update(real, real=True)
    comparison.update(fake, real=False)
    expected = 1 + 4 + 3 * (2 - 1) ** 2
    assert float(comparison.frechet.compute()) == pytest.approx(expected, rel=0.02)


def test_kernel_distance_is_the_unbiased_discrepancy_under_the_cubic_kernel():
    real, fake = sets(35, 35, num_features=5)
    x, y, n = real.tolist(), fake.tolist(), 35

    def kernel(a: list[float], b: list[float]) -> float:
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 5 + 1) ** 3

    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    assert kernel_distance(real, fake) == pytest.approx(within / (n * (n - 1)) - 2 * across / n**2, rel=1e-9)


def test_kernel_distance_over_subsets_is_near_that_of_everything(monkeypatch):
    real, fake = sets(400, 400)
    whole = kernel_distance(real, fake)
    monkeypatch.setattr(metrics, "KERNEL_SUBSET_SIZE", 100)
    several = kernel_distance(real, fake)
    assert several != whole and several == pytest.approx(whole, rel=0.3)


def test_kernel_distance_takes_sets_of_different_sizes():
    real, fake = sets(120, 300)
    assert kernel_distance(real, fake) == pytest.approx(kernel_distance(real, fake[:120]), rel=0.5)


# gathering


def test_batches_of_any_size_give_what_one_batch_does():
    real, fake = sets(130, 100, dtype=torch.float32)
    whole = feature_metrics(real, fake).compute()
    parts = feature_metrics(real, fake, (1, 50, 7, 72)).compute()
    assert set(whole) == {"frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"}
    assert parts == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("batches", [(200,), (37, 40, 60, 63), (60, 140), (1,) * 200])
def test_no_more_is_kept_than_is_allowed_and_the_frechet_distance_uses_all(monkeypatch, batches):
    monkeypatch.setattr(metrics, "MAX_KEPT_FEATURES", 60)
    real, fake = sets(200, 150, dtype=torch.float32)
    comparison = feature_metrics(real, fake, batches)
    for side, features in ((True, real), (False, fake)):
        assert torch.equal(torch.cat(comparison.kept[side]), features[:60])
    got = comparison.compute()
    assert got["frechet_distance"] == pytest.approx(frechet(real, fake), rel=1e-6)
    assert got["kernel_distance"] == pytest.approx(
        kernel_distance(real[:60], fake[:60]), rel=1e-4
    )  # float32 sums in another order
    assert {name: got[name] for name in ("precision", "recall", "density", "coverage")} == prdc(real[:60], fake[:60])


def test_computing_is_repeatable_and_leaves_the_random_state_alone():
    comparison = feature_metrics(*sets(50, 80))
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(comparison.compute())
        assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]


def test_computing_does_not_reseed_the_accelerator(monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    feature_metrics(*sets(50, 80)).compute()
    assert not seeds


def test_one_process_gathers_its_own_rows():
    rows = torch.randn(3, 2)
    assert all_gather_rows(rows) is rows


@pytest.mark.parametrize("count", [6, 7, 8])
def test_shards_of_several_processes_are_gathered_in_the_order_of_the_data(monkeypatch, count):
    rows = torch.arange(2 * count).view(count, 2)
    shards = [rows[shard_indices(count, rank, 3)] for rank in range(3)]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda parts, own: parts.__setitem__(slice(None), shards))
    assert torch.equal(all_gather_rows(shards[1]), rows)


def test_what_is_kept_holds_no_memory_of_the_rest(monkeypatch):
    monkeypatch.setattr(metrics, "MAX_KEPT_FEATURES", 150)
    comparison = FeatureMetrics(8, torch.device("cpu"))
    for _ in range(5):
        comparison.update(torch.randn(100, 8), True)
    held = sum(part.untyped_storage().nbytes() for part in comparison.kept[True])
    assert held == 150 * 8 * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_features_of_any_dtype_are_taken_as_float32(dtype):
    metrics = [FeatureMetrics(4, torch.device("cpu")) for _ in range(2)]
    for real in (True, False):
        features = (10 * torch.randn(30, 4)).round().to(dtype)
        metrics[0].update(features, real)
        metrics[1].update(features.float(), real)
    assert metrics[0].compute() == metrics[1].compute()


def test_features_that_are_not_finite_stop_the_evaluation():
    features = torch.ones(5, 4)
    features[2, 1] = torch.nan
    metrics = FeatureMetrics(4, torch.device("cpu"))
    metrics.update(features, real=False)
    with pytest.raises(UserError, match="features of generated images are not finite"):
        metrics.compute()
