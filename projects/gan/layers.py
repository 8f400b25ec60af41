"""Layers that several discriminators share: the projection head, and spectral normalization with its initial weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class ProjectionHead(nn.Module):
    """Projection discriminator head: a linear layer, plus the features' inner product with the label's embedding.

    Source: Miyato and Koyama, arXiv 1802.05637, equation 3. With 0 classes it ignores labels.
    """

    def __init__(self, num_features: int, num_classes: int, spectral: bool = False) -> None:
        super().__init__()
        self.linear = spectral_normalized(nn.Linear(num_features, 1)) if spectral else nn.Linear(num_features, 1)
        embedding = nn.Embedding(num_classes, num_features) if num_classes else None
        if embedding is not None:
            nn.init.normal_(embedding.weight, std=num_features**-0.5)  # the scale of a linear layer's weights
        self.embedding = spectral_norm(embedding) if spectral and embedding is not None else embedding

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """Features (batch, num_features), labels (batch,) -> logits (batch,)."""
        logits = self.linear(features).squeeze(1)
        if self.embedding is None:
            return logits
        return logits + (self.embedding(labels) * features).sum(1)


def xavier_init(layer: nn.Module) -> None:
    """Xavier (Glorot) uniform initialization of convolutions and linear layers, with zero biases."""
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def spectral_normalized(layer: nn.Module) -> nn.Module:
    """Spectral normalization of a layer: Xavier weights, always divided by their largest singular value."""
    xavier_init(layer)  # before the parametrization: from then on `weight` is computed, which no initialization reaches
    return spectral_norm(layer)
