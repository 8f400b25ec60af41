"""A network from scratch: your layers, your loss, your optimizer, torch's numbers

Twenty steps with your own parts end at the weights of torch.nn and torch.optim.
"""

from networks.adam import Adam
from networks.batch_layer_norm import BatchNorm
from networks.cross_entropy import cross_entropy
from networks.linear import Linear
from torch import Tensor, nn


class Network(nn.Module):
    """Linear, batch normalization, ReLU, linear: `hidden`, `norm`, `head`, made of your own modules.

    Its state dict is that of the same network of torch.nn. `hidden` has no bias: the normalization would take it away.
    """

    def __init__(self, in_dim: int, hidden_dim: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = Linear(in_dim, hidden_dim, bias=False)
        self.norm = BatchNorm(hidden_dim)
        self.head = Linear(hidden_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of inputs (N, in_dim)."""
        return self.head(self.norm(self.hidden(x)).clamp(min=0))


def train(model: nn.Module, batches: list[tuple[Tensor, Tensor]], lr: float) -> list[float]:
    """One step of your Adam on your cross-entropy for each batch, in training mode.

    Args:
        model: Network.
        batches: Inputs (N, in_dim) and labels (N,).
        lr: Learning rate.

    Returns:
        The loss of each batch before its step.
    """
    model.train()
    optimizer = Adam(model.parameters(), lr=lr)
    losses = []
    for x, y in batches:
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Classes (N,) of inputs (N, in_dim), in evaluation mode; the model's mode is as it was afterwards."""
    mode = model.training
    model.eval()
    classes = model(x).argmax(1)
    model.train(mode)
    return classes
