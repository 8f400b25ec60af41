"""Exercise from_a_paper: formulas of three papers, checked by what they promise."""

import math
import random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from foundations.comparing import call, check_device, check_equal, check_gradients, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="From a paper: RMSNorm, rotary position embedding, SwiGLU",
    level="core",
    minutes=40,
    link="projects.seq2seq.transformer:apply_rotary_emb",
    why="its Transformer can take its positions in this way",
    hints=(
        "Write the shape of every symbol beside the formulas. Over which index does each sum run, and what broadcasts?",
        "Begin with the smallest case, D = 2 and one position, and compute the numbers with pencil and paper.",
        "Test what the papers promise: lengths are kept, position 0 is the identity, and a score knows the distance alone.",
    ),
    source="torch._decomp.decompositions:_fused_rms_norm",
    look_at="It computes in float32 what comes in bfloat16, as a mean of squares needs. Where is the result rounded again, "
    "before or after the gain?",
    barred=("rms_norm", "_fused_rms_norm", "torch.nn.RMSNorm"),
)


def reference_norm(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    """Formula (1)."""
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * gain


def reference_rotation(x: Tensor, positions: Tensor, base: float = 10000.0, halves: bool = False) -> Tensor:
    """Formula (2) in float64, for one of the two pairings."""
    dim = x.shape[-1]
    result = x.double().clone()
    for i in range(dim // 2):
        j, k = (i, i + dim // 2) if halves else (2 * i, 2 * i + 1)
        angle = positions.double() * base ** (-2 * i / dim)
        a, b = x[..., j].double(), x[..., k].double()
        result[..., j], result[..., k] = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
    return result.to(x.dtype)


def reference_swiglu(x: Tensor, w: Tensor, v: Tensor, w2: Tensor) -> Tensor:
    """Formula (4)."""
    return (torch.nn.functional.silu(x @ w) * (x @ v)) @ w2


@exercise.property("RMSNorm")
def norm(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(2,), (2, 3), (4, 4), (0, 3)]:
        x, gain = torch.randn(shape) + 1, torch.randn(shape[-1])
        check_equal(answer.rms_norm, x, gain, expected=reference_norm(x, gain))
    for eps in (1e-6, 0.5):
        x = 1e-3 * torch.tensor([[1.0, -2.0], [0.0, 0.0]])
        check_equal(answer.rms_norm, x, torch.ones(2), eps, expected=reference_norm(x, torch.ones(2), eps))
    check_equal(answer.rms_norm, x, torch.ones(2), expected=reference_norm(x, torch.ones(2)))


@exercise.property("gradient of RMSNorm")
def norm_gradient(answer: ModuleType, rng: random.Random) -> None:
    check_gradients(lambda x, gain: answer.rms_norm(x, gain), reference_norm, torch.randn(3, 4), torch.randn(4))


@exercise.property("SwiGLU")
def feed_forward(answer: ModuleType, rng: random.Random) -> None:
    for shape, hidden in [((1,), 1), ((2,), 2), ((2, 3, 4), 4), ((0, 2), 3)]:
        dim = shape[-1]
        inputs = torch.randn(shape), torch.randn(dim, hidden), torch.randn(dim, hidden), torch.randn(hidden, dim)
        check_equal(answer.swiglu, *inputs, expected=reference_swiglu(*inputs), rtol=1e-4, atol=1e-5)
    inputs = torch.randn(3, 2), torch.randn(2, 4), torch.randn(2, 4), torch.randn(4, 2)
    check_gradients(answer.swiglu, reference_swiglu, *inputs)


@exercise.property("rotation of a single pair")
def pair(answer: ModuleType, rng: random.Random) -> None:
    for x, position in [([1.0, 0.0], 0), ([1.0, 0.0], 1), ([0.0, 1.0], 1), ([1.0, 2.0], 2), ([1.0, 2.0], 100)]:
        x, positions = torch.tensor([x]), torch.tensor([position])
        check_equal(answer.rotate, x, positions, expected=reference_rotation(x, positions), rtol=1e-3, atol=1e-4)


def angles_of(image: Tensor) -> Tensor:
    """Cosines of the angles by which the unit vectors were turned, in order; both pairings have the same."""
    return image.diagonal().sort().values


@exercise.property("angles, lengths and directions of several pairs")
def angles(answer: ModuleType, rng: random.Random) -> None:
    for dim, position, base in [(4, 0, 1e4), (4, 1, 1e4), (6, 1, 1e4), (8, 1, 50.0)]:
        x, positions = torch.eye(dim)[:, None], torch.tensor([position])
        options = {} if base == 1e4 else {"base": base}
        image = call(answer.rotate, x, positions, **options)
        shown = {"x": f"the {dim} unit vectors, ({dim}, 1, {dim})", "positions": positions, "base": base}
        check_that(image.shape == x.shape, "the shape differs", tuple(x.shape), tuple(image.shape), **shown)
        image = image[:, 0].detach()
        expected = angles_of(reference_rotation(x, positions, base)[:, 0])
        reason = difference(angles_of(image), expected, 1e-4, 1e-5)
        check_that(not reason, f"cosines of the angles, sorted: {reason}", expected, angles_of(image), **shown)
        reason = difference(image @ image.t(), torch.eye(dim), 1e-4, 1e-5)
        check_that(not reason, f"scalar products of what the unit vectors become: {reason}", torch.eye(dim), image, **shown)
        turned = image.triu(1).min() >= -1e-6 and image.tril(-1).max() <= 1e-6
        check_that(turned, "some pairs turn the other way: (1, 0) becomes (cos, sin)", got=image, **shown)


@exercise.property("scores depend on distances alone")
def offsets(answer: ModuleType, rng: random.Random) -> None:
    for time, dim in [(2, 4), (4, 4), (3, 6)]:
        q, k, positions = torch.randn(time, dim), torch.randn(time, dim), torch.randperm(9)[:time]
        before, after = (answer.rotate(q, p) @ answer.rotate(k, p).t() for p in (positions, positions + 17))
        reason = difference(after, before, 1e-3, 1e-3)
        check_that(not reason, f"scores once all positions are 17 further: {reason}", before, after, q=q, k=k)
        either = [
            reference_rotation(q, positions, halves=h) @ reference_rotation(k, positions, halves=h).t() for h in (0, 1)
        ]
        same = [not difference(before, scores, 1e-3, 1e-3) for scores in either]
        check_that(any(same), "scores, in neither of the two pairings", either, before, q=q, k=k, positions=positions)


@exercise.property("attention")
def attention(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(1, 2), (3, 2), (4, 4), (2, 2, 3, 6)]:
        q, k, v = (torch.randn(shape) for _ in range(3))
        positions = torch.arange(shape[-2])
        same = v[..., :1, :].expand(shape).contiguous()
        check_equal(answer.rotary_attention, q, k, same, positions, expected=same, rtol=1e-4, atol=1e-5)
        for positions in (torch.arange(shape[-2]), torch.randperm(9)[: shape[-2]] + 5):
            scores = torch.einsum("...td,...sd->...ts", answer.rotate(q, positions), answer.rotate(k, positions))
            expected = torch.einsum("...ts,...sd->...td", torch.softmax(scores / math.sqrt(shape[-1]), -1), v)
            check_equal(answer.rotary_attention, q, k, v, positions, expected=expected, rtol=1e-4, atol=1e-5)


@exercise.property("rotation of any leading dimensions, in any dtype, on any device")
def layouts(answer: ModuleType, rng: random.Random) -> None:
    x, positions = torch.randn(2, 3, 5, 4), torch.tensor([300, 0, 7, 257, 1000])
    single = torch.stack([torch.stack([answer.rotate(part, positions) for part in row]) for row in x])
    check_equal(answer.rotate, x, positions, expected=single)
    check_equal(answer.rotate, x.mT.contiguous().mT, positions, expected=single)
    check_equal(answer.rotate, x[:, :, :0], positions[:0], expected=single[:, :, :0])
    low = x.bfloat16()
    expected = answer.rotate(low.float(), positions).bfloat16()
    check_equal(answer.rotate, low[0, 0], positions, expected=expected[0, 0], rtol=0.02, atol=0.04)
    low = torch.randn(5, 8).bfloat16()  # a frequency of 0.1, which bfloat16 does not have
    expected = answer.rotate(low.float(), positions).bfloat16()
    check_equal(answer.rotate, low, positions, expected=expected, rtol=0.02, atol=0.04)
    check_equal(answer.rotate, x.double(), positions, expected=single.double(), rtol=1e-3, atol=1e-3)
    check_device(answer.rotate, x, positions)
    leaf = x.clone().requires_grad_()
    answer.rotate(leaf, positions).square().sum().backward()
    check_that(leaf.grad is not None, "no gradient comes through the rotation")
    reason = difference(leaf.grad, 2 * x, 1e-3, 1e-4)
    check_that(not reason, f"gradient of the sum of squares, which is 2 x: {reason}")


@exercise.wrong("rms_norm", "The mean is subtracted: that is layer normalization. Formula (1) only divides.")
def mean_subtracted(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    return reference_norm(x - x.mean(-1, keepdim=True), gain, eps)


@exercise.wrong("rms_norm", "eps stands under the root, beside the mean square.")
def eps_outside(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * gain


@exercise.wrong("rms_norm", "eps is added to the inverse root: it stands under the root, beside the mean square.")
def eps_after(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True).rsqrt() + eps) * gain


@exercise.wrong("rms_norm", "The sum of the squares is under the root: formula (1) has their mean, the sum divided by D.")
def by_sum(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) + eps).sqrt() * gain


@exercise.wrong("rms_norm", "The mean runs over all entries: each vector, along the last dimension, has its own.")
def over_everything(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    return x / (x.square().mean() + eps).sqrt() * gain


@exercise.wrong("swiglu", "The gate is on the wrong branch: Swish is of x W, and x V stays linear.")
def gate_on_v(x: Tensor, w: Tensor, v: Tensor, w2: Tensor) -> Tensor:
    return reference_swiglu(x, v, w, w2)


@exercise.wrong("swiglu", "The gate is a sigmoid alone (GLU): Swish multiplies it by its argument.")
def sigmoid_alone(x: Tensor, w: Tensor, v: Tensor, w2: Tensor) -> Tensor:
    return ((x @ w).sigmoid() * (x @ v)) @ w2


@exercise.wrong("swiglu", "Nothing bends here, x W times x V: Swish(z) is z times its sigmoid.")
def without_sigmoid(x: Tensor, w: Tensor, v: Tensor, w2: Tensor) -> Tensor:
    return ((x @ w) * (x @ v)) @ w2


@exercise.wrong("swiglu", "Swish is of the product: it is of x W alone, before the branches meet.")
def swish_of_both(x: Tensor, w: Tensor, v: Tensor, w2: Tensor) -> Tensor:
    return torch.nn.functional.silu((x @ w) * (x @ v)) @ w2


def rotation(fault: str = "", halves: bool = False) -> Any:
    """Rotary position embedding with one of the known faults."""

    def rotate(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
        dim = x.size(-1)
        powers = torch.arange(dim // 2, device=x.device) * (1 if fault == "exponent" else 2) / dim
        freqs = base ** (powers * -1)
        if fault == "one_angle":
            freqs = torch.ones_like(freqs)
        where = positions + 1 if fault == "from_one" else positions
        where = where.to(x.dtype) if fault == "coarse" else where.float()
        freqs = freqs.to(x.dtype).float() if fault == "coarse_freqs" else freqs
        angle = torch.einsum("t,f->tf", where, freqs.to(where.dtype))
        angle = angle.to(x.dtype) if fault == "coarse_angle" else angle
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        if fault == "backward":
            sin = -sin
        if halves:
            a, b = x.chunk(2, -1)
            if fault == "mixed":
                cos, sin = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
                return x * cos + torch.cat([-b, a], -1) * sin
            pairs = a * cos - b * sin, b * cos + a * sin
            return torch.stack(pairs, -1).flatten(-2) if fault == "misplaced" else torch.cat(pairs, -1)
        out = torch.empty_like(x)
        out[..., ::2] = x[..., ::2] * cos - x[..., 1::2] * sin
        out[..., 1::2] = x[..., ::2] * sin + x[..., 1::2] * cos
        return out

    return rotate


for fault, message in {
    "from_one": "The first position is 1 here: position 0 is the identity.",
    "backward": "The pairs turn the other way: look at the signs of the sines.",
    "exponent": "The exponent goes by i / D: in formula (2) it is 2 i / D.",
    "one_angle": "All pairs turn by the same angle: each has a frequency of its own.",
}.items():
    exercise.wrong("rotate", message)(rotation(fault))
exercise.wrong(
    "rotate",
    "The two pairings are mixed: the angles are repeated for neighbors, and the partners are i and i + D / 2.",
)(rotation("mixed", halves=True))
exercise.wrong(
    "rotate", "The pairs are taken from the halves and put back as neighbors: each number returns to where it came from."
)(rotation("misplaced", halves=True))
exercise.also_right("rotate")(rotation())
exercise.also_right("rotate")(rotation(halves=True))


@exercise.also_right("rotate")
def by_complex_numbers(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    freqs = 1.0 / base ** (torch.arange(0, x.shape[-1], 2, device=x.device).float() / x.shape[-1])
    turns = torch.polar(torch.ones(len(positions), len(freqs), device=x.device), torch.outer(positions.float(), freqs))
    pairs = torch.view_as_complex((x.float() if x.dtype == torch.bfloat16 else x).unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def attention_with(fault: str = "") -> Any:
    """Attention with one of the known faults."""
    turn = rotation()

    def rotary_attention(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Tensor:
        q, k = turn(q, positions), k if fault == "queries" else turn(k, positions)
        v = turn(v, positions) if fault == "values" else v
        scores = q @ k.transpose(-1, -2) / (1 if fault == "unscaled" else q.shape[-1] ** 0.5)
        return scores.softmax(-1) @ v

    return rotary_attention


for fault, message in {
    "values": "The values are rotated, too: in formula (3) only queries and keys are.",
    "queries": "Only the queries are rotated: a score then depends on the position, not on the distance.",
    "unscaled": "The scores are not divided by the root of D.",
}.items():
    exercise.wrong("rotary_attention", message)(attention_with(fault))


COARSE = "The angles are computed in the dtype of x: bfloat16 has no 257, so that neighboring positions become one."
exercise.wrong("rotate", COARSE)(rotation("coarse"))
exercise.wrong("rotate", COARSE)(rotation("coarse_angle"))
exercise.wrong(
    "rotate",
    "The frequencies are rounded to the dtype of x: bfloat16 has three digits, and position 1000 multiplies the error.",
)(rotation("coarse_freqs"))


@exercise.also_right("rotary_attention")
def by_torch(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Tensor:
    turn = rotation()
    return torch.nn.functional.scaled_dot_product_attention(turn(q, positions), turn(k, positions), v)


@exercise.also_right("swiglu")
def joined(x: Tensor, w: Tensor, v: Tensor, w2: Tensor) -> Tensor:
    gate, up = torch.einsum("...d,dh->...h", x, torch.cat([w, v], 1)).chunk(2, -1)
    return (gate / (1 + (-gate).exp()) * up).matmul(w2)


@exercise.also_right("rms_norm")
def by_vector_norm(x: Tensor, gain: Tensor, eps: float = 1e-6) -> Tensor:
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return gain * x / torch.sqrt(size * size / x.shape[-1] + eps)
