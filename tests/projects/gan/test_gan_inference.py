"""Inference: latent vectors have their distributions, and samples do not depend on the batches they are generated in."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from common.errors import UserError
from projects.gan import inference
from projects.gan.config import ResNetConfig
from projects.gan.inference import GeneratorPipeline, interpolate, sample_latents, slerp
from projects.gan.module import GANModule


def ends(pairs: int = 6, dim: int = 40) -> list[torch.Tensor]:
    return [torch.nn.functional.normalize(torch.randn(pairs, dim).double(), dim=1) * 3 for _ in range(2)]


def pipeline(*class_names: str, conditional: bool = True, trained: list[int] | None = None) -> GeneratorPipeline:
    options = {"r1_weight": 0.0, "r2_weight": 0.0, "resnet": ResNetConfig(channels=4)}
    module = GANModule("images", 3, 1.0, "resnet", latent_dim=6, conditional=conditional, **options)
    return GeneratorPipeline(module, class_names, "sample", trained)


def test_slerp_leads_from_starts_to_ends():
    starts, targets = torch.randn(6, 40).double(), torch.randn(6, 40).double()
    paths = slerp(starts, targets, 9)
    assert paths.shape == (6, 9, 40)
    torch.testing.assert_close(paths[:, 0], starts)
    torch.testing.assert_close(paths[:, -1], targets)


def test_slerp_between_vectors_of_one_length_keeps_it_and_turns_evenly():
    paths = slerp(*ends(), 9)
    torch.testing.assert_close(paths.norm(dim=2), torch.full((6, 9), 3.0).double())
    turns = torch.nn.functional.cosine_similarity(paths[:, 1:], paths[:, :-1], dim=2).acos()
    torch.testing.assert_close(turns, turns[:, :1].expand_as(turns))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slerp_from_a_vector_to_itself_stays_there(dtype):
    starts = torch.randn(50, 40, dtype=dtype)
    torch.testing.assert_close(slerp(starts, starts.clone(), 5), starts[:, None].expand(50, 5, 40))


def test_slerp_between_opposite_vectors_has_no_nan():
    starts = torch.randn(50, 40)
    assert slerp(starts, -starts, 5).isfinite().all()


def test_rows_of_interpolations_lead_from_one_random_vector_to_another():
    z, vectors = interpolate(3, 5, 4, seed=7), sample_latents(6, 4, seed=7)
    assert z.shape == (15, 4)
    torch.testing.assert_close(z[0::5], vectors[:3])
    torch.testing.assert_close(z[4::5], vectors[3:])


def test_latents_are_a_function_of_their_seed_alone():
    before = torch.get_rng_state()
    for truncation in (None, 0.7):
        first, again, other = (sample_latents(30, 5, seed, truncation) for seed in (3, 3, 4))
        assert torch.equal(first, again) and not torch.equal(first, other) and first.shape == (30, 5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("limit", [0.5, 1.0, 2.0])
def test_truncated_latents_are_a_gaussian_without_its_tails(limit):
    z = sample_latents(2000, 20, 0, limit).double()
    assert z.abs().max() <= limit
    assert z.var().item() == pytest.approx(stats.truncnorm(-limit, limit).var(), rel=0.03)
    assert z.var() < sample_latents(2000, 20, 0).var()
    assert stats.kstest(z.flatten().numpy(), stats.truncnorm(-limit, limit).cdf).pvalue > 1e-4


def test_labels_are_of_one_class_or_of_all_in_turn():
    labels = pipeline("cat", "dog", "owl").labels
    assert labels("dog", 3).tolist() == [1, 1, 1] and labels("dog", 3).dtype == torch.int64
    assert labels(None, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert pipeline(conditional=False).labels(None, 2).tolist() == [0, 0]


def test_a_class_that_training_had_no_sample_of_is_not_generated():
    labels = pipeline("cat", "dog", "owl", trained=[0, 2]).labels
    assert labels(None, 5).tolist() == [0, 2, 0, 2, 0] and labels("owl", 2).tolist() == [2, 2]
    with pytest.raises(UserError, match="--class_name dog: it was trained on cat, owl"):
        labels("dog", 1)


@pytest.mark.parametrize(
    "names, line",
    [
        (["cat", "dog"], "--class_name cow: it was trained on cat, dog"),
        ([], "--class_name cow: it was trained without classes"),
    ],
)
def test_an_unknown_class_is_named_with_those_there_are(names, line):
    with pytest.raises(UserError) as error:
        pipeline(*names).labels("cow", 3)
    assert str(error.value) == line


@pytest.mark.parametrize("batch", [1, 7, 20, 21])
def test_samples_generated_in_batches_are_those_generated_at_once(monkeypatch, batch):
    monkeypatch.setattr(inference, "BATCH_SIZE", batch)
    pipe, z, sizes = pipeline("cat", "dog", "owl"), torch.randn(20, 6), []
    net = pipe.module.train().ema_generator
    net.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    samples = pipe.generate(z)
    assert max(sizes) == min(batch, 20) and sum(sizes) == 20
    assert net.training, "the module is left in the mode that it was in"
    torch.testing.assert_close(samples, net.eval()(z, pipe.labels(None, 20)))
    assert samples.dtype == torch.float32 and not samples.requires_grad
