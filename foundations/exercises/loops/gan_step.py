"""Exercise gan_step: which loss moves which network."""

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundations.comparing import Failure, check_device, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="A GAN's step: two networks, two optimizers, one step of each",
    level="core",
    minutes=20,
    link="projects.gan.module:GANModule.training_step",
    why="the same two updates, with a choice of losses, penalties and an average of the generator",
    hints=(
        "D's loss must not reach G: detach the fakes. G's loss must reach G through D: do not. Clear before each backward.",
        "d_loss = bce(D(real), 1) + bce(D(G(z).detach()), 0), step of D; then g_loss = bce(D(G(z)), 1), step of G.",
        "F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)); opt_d.zero_grad(); d_loss.backward()",
    ),
    source="torch._decomp.decompositions:binary_cross_entropy_with_logits",
    look_at="The loss is (1 - y) * x - logsigmoid(x). Why is it right where sigmoid(x), rounded, is exactly 1?",
)

Networks = tuple[nn.Module, nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]


class Discriminator(nn.Module):
    """Logits (B,) of points (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.body(x)[:, 0]


def make(optimizer: str, stale: bool = False) -> Networks:
    """Generator, discriminator and their optimizers, always the same; with gradients from before if `stale`."""
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 2)), Discriminator()]
    for network in networks:
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter) if stale else None
    make_one = {
        "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.5),
        "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.05, betas=(0.0, 0.99)),
    }[optimizer]
    return networks[0], networks[1], make_one(networks[0].parameters()), make_one(networks[1].parameters())


def batch(step: int, n: int, m: int) -> tuple[Tensor, Tensor]:
    """Data and latents of a step."""
    rng = torch.Generator().manual_seed(step)
    return torch.randn(n, 2, generator=rng) + 1, torch.randn(m, 1, generator=rng)


def reference_step(networks: Networks, real: Tensor, z: Tensor) -> tuple[float, float]:
    """The two updates, each of gradients that were asked for by name."""
    generator, discriminator, opt_g, opt_d = networks
    with torch.no_grad():
        fake = generator(z)
    d_loss = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()
    set_gradients(discriminator, d_loss)
    opt_d.step()
    g_loss = F.softplus(-discriminator(generator(z))).mean()
    set_gradients(generator, g_loss)
    opt_g.step()
    return d_loss.item(), g_loss.item()


def set_gradients(network: nn.Module, loss: Tensor) -> None:
    """Writes the gradient of the loss into `.grad` of the network's parameters."""
    parameters = list(network.parameters())
    for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = grad


def check_steps(answer: ModuleType, steps: int, n: int, m: int, optimizer: str = "SGD", stale: bool = False) -> None:
    """Compares losses and weights after each step."""
    ours, theirs = make(optimizer, stale), make(optimizer, stale)
    for step in range(1, steps + 1):
        real, z = batch(step, n, m)
        shown = {"step": step, "optimizers": optimizer, "real": real, "z": z}
        try:
            got = answer.gan_step(*ours, real.clone(), z.clone())
        except NotImplementedError:
            raise
        except Exception as error:
            raise Failure(f"raises {type(error).__name__}", shown, got=error) from error
        expected = reference_step(theirs, real, z)
        reason = difference(got, expected, 1e-4, 1e-5)
        check_that(not reason, f"(discriminator's loss, generator's loss){reason}", expected, got, **shown)
        check_that(all(isinstance(loss, float) for loss in got), "Python floats are expected", expected, got, **shown)
        for name, a, b in (("discriminator", ours[1], theirs[1]), ("generator", ours[0], theirs[0])):
            check_weights(name, a, b, **shown)


def check_weights(network: str, ours: nn.Module, theirs: nn.Module, **shown: Any) -> None:
    """Compares all parameters."""
    for (name, got), want in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        reason = difference(got, want, 1e-4, 1e-5)
        check_that(not reason, f"{network}'s {name}: {reason}", want, got, **shown)
        check_that(got.requires_grad, f"{network}'s {name} does not require a gradient any more", True, False)


@exercise.property("one step")
def one_step(answer: ModuleType, rng: random.Random) -> None:
    check_steps(answer, 1, 1, 1)
    check_steps(answer, 1, 3, 3)


@exercise.property("as many real samples as you like")
def unequal(answer: ModuleType, rng: random.Random) -> None:
    check_steps(answer, 1, 3, 2)
    check_steps(answer, 1, 1, 4)


@exercise.property("two steps")
def two_steps(answer: ModuleType, rng: random.Random) -> None:
    check_steps(answer, 2, 2, 2)


@exercise.property("gradients from before do not count")
def stale(answer: ModuleType, rng: random.Random) -> None:
    check_steps(answer, 1, 2, 2, stale=True)


@exercise.property("ten steps of Adam")
def adam(answer: ModuleType, rng: random.Random) -> None:
    check_steps(answer, 10, 4, 4, "Adam")


@exercise.property("logits so large that a sigmoid is exactly 1")
def large(answer: ModuleType, rng: random.Random) -> None:
    for scale in (1.0, -1.0):
        ours, theirs = make("SGD"), make("SGD")
        for networks in (ours, theirs):
            with torch.no_grad():
                networks[1].body[2].weight *= 1e-3
                networks[1].body[2].bias.fill_(300 * scale)
        real, z = batch(1, 2, 2)
        got, expected = answer.gan_step(*ours, real, z), reference_step(theirs, real, z)
        reason = difference(got, expected, 1e-4, 1e-5)
        check_that(not reason, f"(discriminator's loss, generator's loss){reason}", expected, got, logits=300 * scale)


@exercise.property("any device")
def device(answer: ModuleType, rng: random.Random) -> None:
    def step(real: Tensor, z: Tensor) -> None:
        generator, discriminator, _, _ = make("SGD")
        generator.to(real.device), discriminator.to(real.device)
        optimizers = [torch.optim.SGD(network.parameters(), lr=0.1) for network in (generator, discriminator)]
        answer.gan_step(generator, discriminator, *optimizers, real, z)

    check_device(step, *batch(1, 2, 2))


Step = Callable[..., tuple[float, float]]
bce = F.binary_cross_entropy_with_logits


def loss_with(fault: str, logits: Tensor, label: float) -> Tensor:
    """Binary cross-entropy with one of the known faults."""
    if fault == "sigmoid_twice":
        logits = logits.sigmoid()
    if fault == "log_of_sigmoid":
        return -(logits.sigmoid() if label else 1 - logits.sigmoid()).log().mean()
    return bce(logits, torch.full((len(logits),), label, device="cpu" if fault == "cpu" else logits.device))


def step_with(fault: str) -> Step:
    """A step with one of the known faults."""

    def update(optimizer: torch.optim.Optimizer, loss: Tensor, generator: bool = False) -> float:
        kept = fault in ("never_cleared", "cleared_after") or (generator and fault == "generator_not_cleared")
        if not kept:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if fault == "cleared_after":
            optimizer.zero_grad()
        return loss.item()

    def gan_step(generator: nn.Module, discriminator: nn.Module, opt_g: Any, opt_d: Any, real: Tensor, z: Tensor) -> Any:
        def d_loss(fake: Tensor) -> Tensor:
            one, zero = (0.0, 1.0) if fault == "swapped" else (1.0, 0.0)
            loss = loss_with(fault, discriminator(real), one) + loss_with(fault, discriminator(fake), zero)
            return loss / 2 if fault == "halved" else loss

        def g_loss(fake: Tensor) -> Tensor:
            label = 0.0 if fault == "saturating" else 1.0
            return (2 * label - 1) * loss_with(fault, discriminator(fake), label)

        fake = generator(z)
        if fault == "generator_first":
            of_generator = update(opt_g, g_loss(fake))
            return update(opt_d, d_loss(fake.detach())), of_generator
        of_discriminator = update(opt_d, d_loss(fake if fault == "not_detached" else fake.detach()))
        return of_discriminator, update(opt_g, g_loss(fake.detach() if fault == "detached" else fake), generator=True)

    return gan_step


@exercise.wrong(
    "gan_step", "D's loss reaches G: its fakes are not detached, and what they leave in G's gradient is added to G's own."
)
def reaches_the_generator(
    generator: nn.Module, discriminator: nn.Module, opt_g: Any, opt_d: Any, real: Tensor, z: Tensor
) -> tuple[float, float]:
    opt_g.zero_grad()
    opt_d.zero_grad()
    real_logits, fake_logits = discriminator(real), discriminator(generator(z))
    d_loss = bce(real_logits, torch.ones_like(real_logits)) + bce(fake_logits, torch.zeros_like(fake_logits))
    d_loss.backward()
    opt_d.step()
    fake_logits = discriminator(generator(z))
    g_loss = bce(fake_logits, torch.ones_like(fake_logits))
    g_loss.backward()
    opt_g.step()
    return d_loss.item(), g_loss.item()


exercise.wrong(
    "gan_step",
    "The fakes are not detached in D's update: its backward() goes through G's graph and frees it before G's own update.",
)(step_with("not_detached"))
exercise.wrong(
    "gan_step",
    "G's backward() leaves a gradient in D, too, and D's next update adds to it: clear right before backward(), not after.",
    seen="https://github.com/Lightning-AI/pytorch-lightning/issues/591",
)(step_with("cleared_after"))
exercise.wrong("gan_step", "Gradients are never cleared: each update goes along the sum of all before.")(
    step_with("never_cleared")
)
exercise.wrong("gan_step", "G's gradients are not cleared before its update: zero_grad() of its own optimizer, too.")(
    step_with("generator_not_cleared")
)
exercise.wrong("gan_step", "The fakes are detached in G's update as well: no gradient reaches G, and it never learns.")(
    step_with("detached")
)
exercise.wrong(
    "gan_step",
    "The labels are swapped: real samples have label 1 and fakes label 0 in D's loss.",
    seen="https://github.com/eriklindernoren/PyTorch-GAN/pull/103",
)(step_with("swapped"))
exercise.wrong(
    "gan_step", "G maximizes D's loss (label 0, minus sign): its gradient vanishes where D is sure. Take label 1 instead."
)(step_with("saturating"))
exercise.wrong("gan_step", "D gives logits, and the loss takes logits: a sigmoid in between is one too many.")(
    step_with("sigmoid_twice")
)
exercise.wrong("gan_step", "log(sigmoid(x)) is -inf where the sigmoid is rounded to 0: use the loss that takes logits.")(
    step_with("log_of_sigmoid")
)
exercise.wrong("gan_step", "G is updated first, through the old D: D's update comes before.")(step_with("generator_first"))
exercise.wrong("gan_step", "The two means of D's loss are added, not averaged: this takes half a step.")(step_with("halved"))
exercise.wrong("gan_step", "The labels are made on the CPU, wherever the logits are: use ones_like and zeros_like.")(
    step_with("cpu")
)
exercise.also_right("gan_step")(step_with(""))


@exercise.also_right("gan_step")
def with_frozen_discriminator(generator, discriminator, opt_g, opt_d, real, z):
    with torch.no_grad():
        made = generator(z)
    parts = torch.cat([real, made])
    weights = torch.cat([real.new_full((len(real),), -1 / len(real)), real.new_full((len(made),), 1 / len(made))])
    discriminator.zero_grad()
    value = (F.softplus(discriminator(parts) * weights.sign()) * weights.abs()).sum()
    value.backward()
    opt_d.step()
    discriminator.requires_grad_(False)
    generator.zero_grad()
    other = torch.einsum("m->", F.softplus(-discriminator(generator(z)))) / len(z)
    other.backward()
    opt_g.step()
    discriminator.requires_grad_(True)
    return value.item(), other.item()
