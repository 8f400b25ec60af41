"""A GAN's step: two networks, two optimizers, one step of each

The discriminator learns to tell data from fakes, the generator learns from the discriminator's gradient. All care is about
which loss moves which network.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gan_step(
    generator: nn.Module,
    discriminator: nn.Module,
    opt_g: torch.optim.Optimizer,
    opt_d: torch.optim.Optimizer,
    real: Tensor,
    z: Tensor,
) -> tuple[float, float]:
    """One update of the discriminator D, then one of the generator G through the D that has just been updated.

    D minimizes the mean binary cross-entropy of D(real) with label 1 plus that of D(G(z)) with label 0. G minimizes the
    mean binary cross-entropy of D(G(z)) with label 1 (the non-saturating loss). Each update moves its own network alone,
    and gradients from before, of either network, do not count.

    Args:
        generator: Latents (M, Z) -> fakes (M, ...), the same for the same latents.
        discriminator: Samples (B, ...) -> logits (B,), higher for real.
        opt_g: Optimizer of the generator's parameters.
        opt_d: Optimizer of the discriminator's parameters.
        real: (N, ...) data.
        z: (M, Z) latents, of both updates.

    Returns:
        Loss of the discriminator and loss of the generator, each before its own update, as Python floats.

    Example:
        A discriminator whose logits are all 0 has the loss 2 log 2 = 1.386.
    """
    fake = generator(z)
    real_logits, fake_logits = discriminator(real), discriminator(fake.detach())
    d_loss = F.binary_cross_entropy_with_logits(real_logits, torch.ones_like(real_logits))
    d_loss = d_loss + F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))
    opt_d.zero_grad()
    d_loss.backward()
    opt_d.step()

    fake_logits = discriminator(fake)  # with its graph: the gradient goes through D into G
    g_loss = F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))
    opt_g.zero_grad()
    g_loss.backward()  # leaves a gradient in D, too, which the next zero_grad takes away
    opt_g.step()
    return d_loss.item(), g_loss.item()
