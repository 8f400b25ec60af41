"""What the two players of a GAN minimise, and the penalties that keep the discriminator smooth.

A loss takes logits (batch,), the discriminator's last output, higher for what it takes for real, and returns a scalar.
`real` and `fake` are the logits of as many real samples as generated ones. Writing D for the logit, G(z) for a fake and
s(t) = log(1 + exp(t)):

    name             the discriminator minimises             the generator minimises     from
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

Loss = Callable[[Tensor, Tensor], Tensor]  # logits of real and of fake samples, (batch,) each -> scalar


@dataclass(frozen=True)
class Game:
    """The two players' losses.

    Args:
        discriminator: of (real, fake) logits.
        generator: the same; it looks at the real ones only if the game is relativistic.
        compares_pairs: whether the generator needs the real logits.
        boundary: the logit above which a sample counts as taken for real; None if only differences of logits mean anything.
    """

    discriminator: Loss
    generator: Loss
    compares_pairs: bool = False
    boundary: float | None = 0.0


def non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Cross-entropy, in nats, of telling real from fake; section 3 of Goodfellow et al."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def non_saturating_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Cross-entropy of fakes taken for real: a slope where the discriminator is sure, which its opposite would not have."""
    return F.softplus(-fake).mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Nothing is asked of a logit that is beyond 1 on its own side."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Real samples at 1, fakes at 0; equation 9 of Mao et al."""
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


def least_squares_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Fakes at 1."""
    return 0.5 * (fake - 1).square().mean()


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Minus the distance that a critic of slope 1 measures; equation 2 of Arjovsky et al."""
    return fake.mean() - real.mean()


def wasserstein_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The part of that distance which the generator can change; also what it minimises under the hinge."""
    return -fake.mean()


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Each real sample should look more real than the fake beside it; equation 2 of Huang et al., arXiv 2501.05441."""
    return F.softplus(fake - real).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The reverse. A fake near one mode gains nothing from being there while another mode has none: no mode is dropped."""
    return F.softplus(real - fake).mean()


GAMES: dict[str, Game] = {
    "non_saturating": Game(non_saturating_discriminator, non_saturating_generator),
    "hinge": Game(hinge_discriminator, wasserstein_generator),
    "least_squares": Game(least_squares_discriminator, least_squares_generator, boundary=0.5),
    "wasserstein": Game(wasserstein_discriminator, wasserstein_generator, boundary=None),
    "relativistic": Game(relativistic_discriminator, relativistic_generator, compares_pairs=True, boundary=None),
}


def squared_slopes(logits: Tensor, samples: Tensor) -> Tensor:
    """The squared 2-norm (batch,) of each logit's gradient in its own sample; can be differentiated again.

    Args:
        logits: (batch,), each a function of its own sample alone (so no batch norm on the way).
        samples: (batch, ...), which require a gradient.
    """
    (slope,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
    return slope.square().flatten(1).sum(1)


def zero_centred_penalty(slopes: Tensor) -> Tensor:
    """Half the mean of squared slopes (batch,): R1 at real samples, R2 at fakes (arXiv 1801.04406, equation 9)."""
    return 0.5 * slopes.mean()


def unit_slope_penalty(slopes: Tensor) -> Tensor:
    """The mean of (slope - 1)^2, from squared slopes (batch,) at points between real and fake (arXiv 1704.00028, eq. 3)."""
    return ((slopes + 1e-12).sqrt() - 1).square().mean()  # the root has no slope at 0


def between(real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Points (batch, ...) on the lines from each fake, share 0, to the real sample beside it, share 1; share (batch,)."""
    return torch.lerp(fake, real, share.view(-1, *[1] * (real.dim() - 1)))


def health(real: Tensor, fake: Tensor, boundary: float | None) -> dict[str, Tensor]:
    """How the discriminator stands, from the logits (batch,) of both sides: scalars by the names of curves.

    Without a `boundary` the middle between the two means is taken for it. An accuracy near 1 on both sides is a
    discriminator that leaves the generator nothing to learn from; near 0.5, one that has learned nothing itself.
    """
    middle = 0.5 * (real.mean() + fake.mean()) if boundary is None else boundary
    return {
        "accuracy_real": (real > middle).float().mean(),
        "accuracy_fake": (fake <= middle).float().mean(),
        "logit_gap": real.mean() - fake.mean(),
    }
