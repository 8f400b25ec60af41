"""Adversarial losses and gradient penalties.

A loss takes logits (batch,), the discriminator's output, higher for real, and returns a scalar. `real` and `fake` are the
logits of as many real as generated samples. Writing D for the logit, G(z) for a fake and s(t) = log(1 + exp(t)):

    name             the discriminator minimizes             the generator minimizes     source
    non_saturating   s(-D(x)) + s(D(G(z)))                   s(-D(G(z)))                 Goodfellow et al., arXiv 1406.2661
    hinge            max(0, 1 - D(x)) + max(0, 1 + D(G(z)))  -D(G(z))                    Lim and Ye, arXiv 1705.02894
    least_squares    ((D(x) - 1)^2 + D(G(z))^2) / 2          (D(G(z)) - 1)^2 / 2         Mao et al., arXiv 1611.04076
    wasserstein      D(G(z)) - D(x)                          -D(G(z))                    Arjovsky et al., arXiv 1701.07875
    relativistic     s(D(G(z)) - D(x))                       s(D(x) - D(G(z)))           Jolicoeur, arXiv 1807.00734
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LossFunction = Callable[[Tensor, Tensor], Tensor]  # logits of real and of fake samples, (batch,) each -> scalar


@dataclass(frozen=True)
class AdversarialLoss:
    """Adversarial loss of both networks.

    Args:
        discriminator: Discriminator's loss of (real, fake) logits.
        generator: Generator's loss of (real, fake) logits; only a relativistic one depends on the real ones.
        relativistic: Whether real and fake logits are compared in pairs.
        boundary: Logit above which a sample is classified as real; None if only differences of logits have a meaning.
    """

    discriminator: LossFunction
    generator: LossFunction
    relativistic: bool = False
    boundary: float | None = 0.0


# a new loss needs an entry here, and its name in the `Literal` of `GANModule`'s option `loss`
LOSSES: dict[str, AdversarialLoss] = {
    "non_saturating": AdversarialLoss(
        discriminator=lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        generator=lambda real, fake: F.softplus(-fake).mean(),  # its gradient does not vanish where D is sure
    ),
    "hinge": AdversarialLoss(
        discriminator=lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        generator=lambda real, fake: -fake.mean(),
    ),
    "least_squares": AdversarialLoss(
        discriminator=lambda real, fake: 0.5 * ((real - 1).square().mean() + fake.square().mean()),
        generator=lambda real, fake: 0.5 * (fake - 1).square().mean(),
        boundary=0.5,
    ),
    "wasserstein": AdversarialLoss(
        discriminator=lambda real, fake: fake.mean() - real.mean(),
        generator=lambda real, fake: -fake.mean(),
        boundary=None,
    ),
    # a fake near one mode gains nothing from being there while another mode has none: no mode is dropped
    "relativistic": AdversarialLoss(
        discriminator=lambda real, fake: F.softplus(fake - real).mean(),
        generator=lambda real, fake: F.softplus(real - fake).mean(),
        relativistic=True,
        boundary=None,
    ),
}


def squared_gradient_norms(logits: Tensor, *samples: Tensor) -> list[Tensor]:
    """Squared gradient norms (batch,) of logits in each of `samples` (batch, ...); differentiable again.

    A logit must be a function of its own sample alone: there may be no batch normalization on the way.
    """
    gradients = torch.autograd.grad(logits.sum(), samples, create_graph=True)
    return [gradient.square().flatten(1).sum(1) for gradient in gradients]


def zero_centered_gradient_penalty(squared_norms: Tensor) -> Tensor:
    """R1 penalty at real samples, R2 at fakes: half the mean of squared gradient norms (arXiv 1801.04406, equation 9)."""
    return 0.5 * squared_norms.mean()


def wgan_gp_penalty(squared_norms: Tensor) -> Tensor:
    """WGAN-GP penalty: mean of (gradient norm - 1)², at samples between real and fake (arXiv 1704.00028, equation 3)."""
    return ((squared_norms + 1e-12).sqrt() - 1).square().mean()  # the root has no gradient at 0


def interpolate_samples(real: Tensor, fake: Tensor, weight: Tensor) -> Tensor:
    """Linear interpolation (batch, ...) from fakes, at weight 0, to the real samples beside them, at 1; weight (batch,)."""
    return torch.lerp(fake, real, weight.view(-1, *[1] * (real.dim() - 1)))
