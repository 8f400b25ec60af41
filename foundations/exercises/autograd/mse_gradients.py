"""Exercise mse_gradients: the chain rule, with the sums in the right places."""

import random
from types import ModuleType

import torch
from torch import Tensor

from foundations.comparing import check_equal
from foundations.exercise import Exercise

exercise = Exercise(
    title="Gradients by hand: the mean squared error of a linear layer",
    level="warm-up",
    minutes=15,
    link="projects.seq2seq.losses:LinearCrossEntropy",
    why="a linear layer and its loss in one step, with the gradients written out",
    hints=(
        "First the gradient with respect to the layer's output (N, K), then from there to w, b and x.",
        "d/dout = 2 (out - y) / (N K); d/dw = x^T d/dout; d/db = sum over the batch; d/dx = d/dout w^T.",
        "g = 2 * (x @ w + b - y) / y.numel(); return x.t() @ g, g.sum(0), g @ w.t()",
    ),
    source="torch._decomp.decompositions:mse_loss_backward",
    look_at="The same 2 (out - target), divided by the number of entries for 'mean'. What does it do for 'sum'?",
    barred=("backward", "torch.autograd.grad", "torch.autograd.backward", "torch.func.grad", "torch.func.vjp"),
)

Gradients = tuple[Tensor, Tensor, Tensor]


def case(n: int, d: int, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random x, w, b and y."""
    return torch.randn(n, d), torch.randn(d, k), torch.randn(k), torch.randn(n, k)


def reference(x: Tensor, w: Tensor, b: Tensor, y: Tensor) -> Gradients:
    """By autograd."""
    leaves = [value.clone().requires_grad_() for value in (w, b, x)]
    loss = torch.nn.functional.mse_loss(leaves[2] @ leaves[0] + leaves[1], y)
    return torch.autograd.grad(loss, leaves)


@exercise.property("one sample, one output")
def one(answer: ModuleType, rng: random.Random) -> None:
    inputs = torch.tensor([[2.0]]), torch.tensor([[3.0]]), torch.tensor([1.0]), torch.tensor([[4.0]])
    check_equal(answer.mse_gradients, *inputs, expected=reference(*inputs))


@exercise.property("all sizes")
def sizes(answer: ModuleType, rng: random.Random) -> None:
    for n, d, k in [(2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 3, 4), (3, 3, 3), (5, 2, 3)]:
        inputs = case(n, d, k)
        check_equal(answer.mse_gradients, *inputs, expected=reference(*inputs))


@exercise.wrong("mse_gradients", "You divide by N alone: the mean is over all N * K entries.")
def mean_over_samples(x: Tensor, w: Tensor, b: Tensor, y: Tensor) -> Gradients:
    g = 2 * (x @ w + b - y) / len(y)
    return x.t() @ g, g.sum(0), g @ w.t()


@exercise.wrong("mse_gradients", "The bias is added to every sample, so its gradient is the sum over the batch.")
def bias_not_summed(x: Tensor, w: Tensor, b: Tensor, y: Tensor) -> Gradients:
    g = 2 * (x @ w + b - y) / y.numel()
    return x.t() @ g, g, g @ w.t()


@exercise.wrong("mse_gradients", "The mean of the bias's gradient over the batch divides by N twice: sum it.")
def bias_averaged(x: Tensor, w: Tensor, b: Tensor, y: Tensor) -> Gradients:
    g = 2 * (x @ w + b - y) / y.numel()
    return x.t() @ g, g.mean(0), g @ w.t()


@exercise.wrong("mse_gradients", "The factor 2 of the square's derivative is missing.")
def without_two(x: Tensor, w: Tensor, b: Tensor, y: Tensor) -> Gradients:
    g = (x @ w + b - y) / y.numel()
    return x.t() @ g, g.sum(0), g @ w.t()


@exercise.wrong("mse_gradients", "The sign is turned: the loss falls against the gradient, out - y comes first.")
def sign(x: Tensor, w: Tensor, b: Tensor, y: Tensor) -> Gradients:
    g = 2 * (y - x @ w - b) / y.numel()
    return x.t() @ g, g.sum(0), g @ w.t()


@exercise.also_right("mse_gradients")
def by_einsum(x: Tensor, w: Tensor, b: Tensor, y: Tensor) -> Gradients:
    err = torch.einsum("nd,dk->nk", x, w).add(b).sub(y).mul(2.0 / y.numel())
    return torch.einsum("nd,nk->dk", x, err), torch.einsum("nk->k", err), torch.einsum("nk,dk->nd", err, w)


@exercise.also_right("mse_gradients")
def sample_by_sample(x: Tensor, w: Tensor, b: Tensor, y: Tensor) -> Gradients:
    grad_w, grad_b, grad_x = torch.zeros_like(w), torch.zeros_like(b), []
    for i in range(x.shape[0]):
        error = 2 * (x[i] @ w + b - y[i]) / y.numel()
        grad_w += torch.outer(x[i], error)
        grad_b += error
        grad_x.append(w @ error)
    return grad_w, grad_b, torch.stack(grad_x)
