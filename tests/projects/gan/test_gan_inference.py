"""Noise for samples is what it is said to be, and samples do not depend on the batches they are made in."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from common.errors import UserError
from projects.gan import inference
from projects.gan.inference import asked_labels, draw_noise, label_cycle, make_samples, paths_between
from projects.gan.networks import DCGenerator

CPU = torch.device("cpu")


def ends(pairs: int = 6, width: int = 40) -> list[torch.Tensor]:
    return [torch.nn.functional.normalize(torch.randn(pairs, width).double(), dim=1) * 3 for _ in range(2)]


def test_paths_lead_from_their_starts_to_their_ends():
    starts, targets = torch.randn(6, 40).double(), torch.randn(6, 40).double()
    paths = paths_between(starts, targets, 9)
    assert paths.shape == (6, 9, 40)
    torch.testing.assert_close(paths[:, 0], starts)
    torch.testing.assert_close(paths[:, -1], targets)


def test_paths_between_vectors_of_one_length_keep_it_and_turn_evenly():
    paths = paths_between(*ends(), 9)
    torch.testing.assert_close(paths.norm(dim=2), torch.full((6, 9), 3.0).double())
    turns = torch.nn.functional.cosine_similarity(paths[:, 1:], paths[:, :-1], dim=2).acos()
    torch.testing.assert_close(turns, turns[:, :1].expand_as(turns))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_path_from_a_vector_to_itself_stays_there(dtype):
    starts = torch.randn(50, 40, dtype=dtype)
    torch.testing.assert_close(paths_between(starts, starts.clone(), 5), starts[:, None].expand(50, 5, 40))


def test_opposite_vectors_have_a_path_without_nan():
    starts = torch.randn(50, 40)
    assert paths_between(starts, -starts, 5).isfinite().all()


def test_noise_is_a_function_of_its_seed_alone():
    before = torch.get_rng_state()
    for limit in (None, 0.7):
        first, again, other = (draw_noise(30, 5, seed, limit) for seed in (3, 3, 4))
        assert torch.equal(first, again) and not torch.equal(first, other) and first.shape == (30, 5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("limit", [0.5, 1.0, 2.0])
def test_truncated_noise_is_a_gaussian_without_its_tails(limit):
    noise = draw_noise(2000, 20, 0, limit).double()
    assert noise.abs().max() <= limit
    assert noise.var().item() == pytest.approx(stats.truncnorm(-limit, limit).var(), rel=0.03)
    assert noise.var() < draw_noise(2000, 20, 0).var()
    assert stats.kstest(noise.flatten().numpy(), stats.truncnorm(-limit, limit).cdf).pvalue > 1e-4


def test_labels_go_round():
    assert label_cycle(7, 3, CPU).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert label_cycle(3, 0, CPU).tolist() == [0, 0, 0]


def test_asked_labels_are_of_one_class_or_of_all_in_turn():
    one = asked_labels(["cat", "dog"], "dog", 3, CPU)
    assert one.tolist() == [1, 1, 1] and one.dtype == torch.int64
    assert asked_labels(["cat", "dog"], None, 3, CPU).tolist() == [0, 1, 0]
    assert asked_labels([], None, 2, CPU).tolist() == [0, 0]


@pytest.mark.parametrize(
    "names, line",
    [
        (["cat", "dog"], "--class_name cow: its classes are cat, dog"),
        ([], "--class_name cow: it was trained without classes"),
    ],
)
def test_an_unknown_class_is_named_with_those_there_are(names, line):
    with pytest.raises(UserError) as error:
        asked_labels(names, "cow", 3, CPU)
    assert str(error.value) == line


@pytest.mark.parametrize("batch", [1, 7, 20, 21])
def test_samples_made_in_batches_are_those_made_at_once(monkeypatch, batch):
    monkeypatch.setattr(inference, "BATCH", batch)
    net = DCGenerator(6, 4, classes=3).eval()
    noise, labels = torch.randn(20, 6), label_cycle(20, 3, CPU)
    sizes = []
    net.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    got = make_samples(net, noise, labels)
    assert max(sizes) == min(batch, 20) and sum(sizes) == 20
    torch.testing.assert_close(got, net(noise, labels))
    assert got.dtype == torch.float32 and not got.requires_grad
