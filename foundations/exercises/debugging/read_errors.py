"""Exercise read_errors: eight messages of the installed torch, made when the exercise is checked."""

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foundations.comparing import Failure, check_equal, check_gradients
from foundations.exercise import Exercise

exercise = Exercise(
    title="Read errors: eight messages of torch, and the mend that each of them asks for",
    level="warm-up",
    minutes=20,
    link="common.debug.shapes:layer_shapes",
    why="`--debug shapes` names the layer that failed, and the shapes that went in",
    hints=(
        "Write the shape of every tensor above its name, then say which dimension of each has to be the same thing.",
        "The message names two sizes or two types. Which one does the docstring ask for? Change the other one.",
        "In order: weight.t() · weights[:, None] · x.to(weight.dtype) · permute(0, 3, 1, 2) · labels.long() · labels - 1 · "
        "permute(1, 2, 0) · y + shift.",
    ),
    source="torch._meta_registrations:meta_mm",
    look_at="It compares two sizes and says both: M, N and K are read off the shapes. Which one has to agree?",
)

BROKEN: dict[str, Callable[..., Any]] = {
    "dense": lambda x, weight, bias: x @ weight + bias,
    "weight_samples": lambda x, weights: x * weights,
    "project": lambda x, weight: F.linear(x, weight),
    "convolve": lambda images, weight: F.conv2d(images, weight),
    "class_loss": lambda logits, labels: F.cross_entropy(logits, labels),
    "loss_from_one": lambda logits, labels: F.cross_entropy(logits, labels),
    "sequence_loss": lambda logits, labels: F.cross_entropy(logits, labels),
}


def message_of(name: str, *args: Any) -> str:
    """What the installed torch says to the broken line, or that it says nothing."""
    try:
        BROKEN[name](*args)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return "nothing: with these shapes the broken line runs, and is wrong"


def check_mended(answer: ModuleType, name: str, *args: Any, expected: Tensor) -> None:
    """Checks the learner's function; a failure shows the message of the broken line on the same inputs."""
    try:
        check_equal(getattr(answer, name), *args, expected=expected)
    except Failure as failure:
        failure.inputs["torch says to the broken line"] = message_of(name, *args)
        raise


def rows_of_loss(logits: Tensor, labels: list[int]) -> Tensor:
    """Mean cross-entropy of the rows of `logits`."""
    return torch.stack([row.logsumexp(0) - row[label] for row, label in zip(logits, labels, strict=True)]).mean()


@exercise.property("dense: two matrices do not fit")
def matrices(answer: ModuleType, rng: random.Random) -> None:
    for n, n_in, n_out in [(1, 3, 2), (2, 3, 4), (3, 2, 2), (2, 2, 2), (0, 3, 2)]:
        x, weight, bias = torch.randn(n, n_in), torch.randn(n_out, n_in), torch.randn(n_out)
        check_mended(answer, "dense", x, weight, bias, expected=F.linear(x, weight, bias))


@exercise.property("weight_samples: two sizes do not broadcast")
def broadcasts(answer: ModuleType, rng: random.Random) -> None:
    for n, d in [(2, 3), (3, 2), (2, 2), (3, 1), (1, 3)]:
        x, weights = torch.randn(n, d), torch.randn(n)
        expected = torch.stack([row * weight for row, weight in zip(x, weights, strict=True)])
        check_mended(answer, "weight_samples", x, weights, expected=expected)


@exercise.property("project: two types do not mix")
def types(answer: ModuleType, rng: random.Random) -> None:
    for n, n_in, n_out in [(1, 2, 1), (2, 3, 2)]:
        x, weight = torch.randn(n, n_in, dtype=torch.float64), torch.randn(n_out, n_in)
        check_mended(answer, "project", x, weight, expected=F.linear(x.float(), weight))


@exercise.property("convolve: another number of channels")
def channels(answer: ModuleType, rng: random.Random) -> None:
    for n, h, w, c, k in [(1, 2, 2, 3, 1), (2, 2, 3, 1, 2), (1, 3, 2, 3, 1), (2, 3, 3, 3, 2)]:
        images, weight = torch.randn(n, h, w, c), torch.randn(2, c, k, k)
        expected = F.conv2d(images.movedim(3, 1).contiguous(), weight)
        check_mended(answer, "convolve", images, weight, expected=expected)


@exercise.property("class_loss: the type of the labels")
def label_types(answer: ModuleType, rng: random.Random) -> None:
    for n, c in [(1, 2), (2, 3), (3, 3)]:
        logits, labels = torch.randn(n, c), [rng.randrange(c) for _ in range(n)]
        expected = rows_of_loss(logits, labels)
        check_mended(answer, "class_loss", logits, torch.tensor(labels, dtype=torch.float64), expected=expected)


@exercise.property("loss_from_one: a label out of bounds")
def label_range(answer: ModuleType, rng: random.Random) -> None:
    for n, c in [(1, 2), (2, 3), (4, 3)]:
        logits, labels = torch.randn(n, c), [(c - i) % c for i in range(n)]
        labels[0] = c - 1
        expected = rows_of_loss(logits, labels)
        check_mended(answer, "loss_from_one", logits, torch.tensor(labels) + 1, expected=expected)


@exercise.property("sequence_loss: batch and time")
def sequences(answer: ModuleType, rng: random.Random) -> None:
    for t, n, c in [(2, 1, 2), (3, 2, 2), (2, 2, 3), (3, 4, 3), (3, 3, 3)]:
        logits, labels = torch.randn(t, n, c), torch.randint(c, (n, t))
        expected = torch.stack([rows_of_loss(logits[:, i], labels[i].tolist()) for i in range(n)]).mean()
        check_mended(answer, "sequence_loss", logits, labels, expected=expected)


@exercise.property("shifted_exp: a value that backward still needs")
def in_place(answer: ModuleType, rng: random.Random) -> None:
    for shape in [(1,), (2, 2), (0,)]:
        x = torch.randn(shape)
        check_equal(answer.shifted_exp, x, 2.0, expected=x.exp() + 2)
    check_gradients(answer.shifted_exp, lambda x, shift: x.exp() + shift, torch.tensor([0.0, 1.0]), 2.0)


@exercise.wrong(
    "dense",
    "You transpose only where the sizes do not fit. Where in == out they always fit, and x @ weight is silently wrong: "
    "weight is (out, in), so it is transposed every time.",
)
def transposed_until_it_runs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    try:
        return x @ weight + bias
    except RuntimeError:
        return x @ weight.t() + bias


@exercise.wrong(
    "weight_samples",
    "You add a dimension only where the sizes do not fit. Where N == D, or D == 1, the (N,) weights meet the wrong "
    "dimension without a message.",
)
def unsqueezed_if_needed(x: Tensor, weights: Tensor) -> Tensor:
    return x * (weights if x.shape[1] in (1, len(weights)) else weights[:, None])


@exercise.wrong(
    "project", "The network has become float64, twice as large and slow: convert the data to the weights' type instead."
)
def network_in_double(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.double())


@exercise.wrong(
    "convolve", "transpose(1, 3) puts the channels first and swaps height and width: the images lie on their side."
)
def transposed_images(images: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(images.transpose(1, 3), weight)


@exercise.wrong(
    "convolve",
    "reshape (or view) gives the right shape and moves no number: colors and columns are mixed. Dimensions change place "
    "by permute.",
)
def reshaped_images(images: Tensor, weight: Tensor) -> Tensor:
    n, h, w, c = images.shape
    return F.conv2d(images.reshape(n, c, h, w), weight)


@exercise.wrong(
    "class_loss", "Labels of classes are indices: int64, by long(). float() makes them another type that is no index."
)
def float_labels(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels.float())


@exercise.wrong("loss_from_one", "Clamped labels are in bounds and wrong: every class is moved by one. Subtract 1.")
def clamped_labels(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels.clamp(max=logits.shape[1] - 1))


@exercise.wrong(
    "loss_from_one", "labels % C is in bounds and renames every class; column 0 is the class with label 1. Subtract 1."
)
def labels_modulo_classes(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels % logits.shape[1])


@exercise.wrong(
    "sequence_loss",
    "view(-1) pleases the loss: the sizes fit, but the logits are in the order of time and the labels in the order of "
    "sequences, so tokens meet each other's labels. Swap the first two dimensions before.",
)
def flattened(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, logits.shape[2]), labels.reshape(-1))


@exercise.wrong(
    "shifted_exp",
    ".data silences the message, not the mistake: exp keeps its result for backward, and you change it there. The gradient "
    "becomes exp(x) + shift. Make a new tensor.",
)
def behind_autograd(x: Tensor, shift: float) -> Tensor:
    y = x.exp()
    y.data += shift
    return y


@exercise.also_right("dense")
def by_einsum(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("ni,oi->no", x, weight).add(bias)


@exercise.also_right("weight_samples")
def by_diagonal(x: Tensor, weights: Tensor) -> Tensor:
    return torch.diag(weights) @ x


@exercise.also_right("sequence_loss")
def step_by_step(logits: Tensor, labels: Tensor) -> Tensor:
    losses = []
    for step in range(len(logits)):
        losses.append(F.cross_entropy(logits[step], labels[:, step]))
    return sum(losses[1:], losses[0]) / len(losses)


@exercise.also_right("convolve")
def by_two_transposes(images: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(images.transpose(2, 3).transpose(1, 2), weight)


@exercise.also_right("shifted_exp")
def by_a_copy(x: Tensor, shift: float) -> Tensor:
    y = x.exp().clone()
    y += shift
    return y
