"""The fused output layer and loss against `F.cross_entropy` on whole logits."""

import pytest
import torch
import torch.nn.functional as F

from projects.seq2seq import losses
from projects.seq2seq.losses import linear_cross_entropy


def whole(hidden, weight, bias, targets, weights, smoothing):
    each = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="none", label_smoothing=smoothing)
    return (each * weights).sum()


def example(tokens=70, dim=6, vocabulary=11, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = [(tokens, dim), (vocabulary, dim), (vocabulary,)]
    parts = [torch.randn(*shape, dtype=dtype).requires_grad_() for shape in shapes]
    return parts, torch.randint(0, vocabulary, (tokens,)), torch.rand(tokens, dtype=dtype)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("chunk", [16, 35, 512])
def test_loss_and_gradients_equal_the_whole_logits(monkeypatch, smoothing, chunk):
    monkeypatch.setattr(losses, "CHUNK_SIZE", chunk)
    parts, targets, weights = example()
    ours, theirs = (f(*parts, targets, weights, smoothing) for f in (linear_cross_entropy, whole))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(3 * ours, parts), torch.autograd.grad(3 * theirs, parts))


def both_ways(hidden, weight, bias, targets, weights, smoothing, r_drop):
    """R-Drop as its paper writes it."""
    first, second = F.linear(hidden, weight, bias).log_softmax(1).chunk(2)
    divergences = [F.kl_div(b, a, reduction="none", log_target=True).sum(1) for a, b in ((first, second), (second, first))]
    loss = whole(hidden, weight, bias, targets, weights, smoothing)
    return loss + r_drop / 2 * (sum(divergences) * weights[: len(first)]).sum()


@pytest.mark.parametrize("chunk", [16, 36, 512])
def test_r_drop_adds_the_symmetric_kl_divergence(monkeypatch, chunk):
    monkeypatch.setattr(losses, "CHUNK_SIZE", chunk)
    parts, targets, weights = example()
    targets, weights = targets[:35].repeat(2), weights[:35].repeat(2)
    ours, theirs = (f(*parts, targets, weights, 0.1, 3.0) for f in (linear_cross_entropy, both_ways))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(3 * ours, parts), torch.autograd.grad(3 * theirs, parts))


def test_huge_logits_do_not_overflow():
    parts, targets, weights = example(dtype=torch.float32)
    with torch.no_grad():
        parts[0] *= 1e4
    ours, theirs = (f(*parts, targets, weights, 0.1) for f in (linear_cross_entropy, whole))
    assert ours.isfinite()
    torch.testing.assert_close(ours, theirs)


def test_under_autocast_it_is_as_near_as_bfloat16_allows():
    parts, targets, weights = example(400, 64, 50, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = linear_cross_entropy(*parts, targets, weights, 0.1)
    theirs = whole(*parts, targets, weights, 0.1)
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(theirs.item(), rel=5e-3)
    for a, b in zip(torch.autograd.grad(ours, parts), torch.autograd.grad(theirs, parts), strict=True):
        assert (a - b).norm() < 0.02 * b.norm()


def test_without_gradients_none_are_made():
    parts, targets, weights = example()
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(*parts, targets, weights, 0.1), whole(*parts, targets, weights, 0.1))


def test_no_tokens_have_no_loss():
    parts, targets, weights = example(tokens=0)
    assert linear_cross_entropy(*parts, targets, weights, 0.1).item() == 0
