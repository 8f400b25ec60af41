"""A validation that is too good

The training below runs without an error, and its validation is better than the model is on new data. One thing is wrong.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 32
BATCH_SIZE = 16
EPOCHS = 8
LR = 0.01


class Classifier(nn.Module):
    """Attention pooling over the tokens of each sample: x (B, T, in_dim) to logits (B, num_classes)."""

    def __init__(self, in_dim: int, num_classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(in_dim, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)
        self.head = nn.Linear(HIDDEN, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each sample."""
        tokens = self.embed(x).relu()
        weights = self.score(tokens).softmax(dim=1)
        return self.head((weights * tokens).sum(1))


def compute_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Loss of a batch, a scalar."""
    return F.cross_entropy(model(x), y)


def split_rows(patients: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the training and rows of the validation, a quarter."""
    names = patients.unique()
    held_out = names[torch.randperm(len(names))[: len(names) // 4]]
    is_val = torch.isin(patients, held_out)
    return torch.nonzero(~is_val)[:, 0], torch.nonzero(is_val)[:, 0]


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Fraction of samples that are classified rightly, computed in batches."""
    correct = 0
    for rows in torch.arange(len(x)).split(BATCH_SIZE):
        correct += (model(x[rows]).argmax(1) == y[rows]).sum().item()
    return correct / len(x)


def train(x: Tensor, y: Tensor, patients: Tensor, seed: int) -> tuple[nn.Module, dict[str, list[float]]]:
    """A classifier of measurements, several of each patient; it will meet new patients, one measurement at a time.

    Args:
        x: Measurements (N, T, in_dim): T tokens each.
        y: Classes (N,).
        patients: Whose measurement it is (N,).
        seed: Of the random numbers.

    Returns:
        The model, the loss of each step as `train/loss` and the accuracy after each epoch as `val/accuracy`.

    Example:
        model, history = train(x, y, patients, 0); then history["val/accuracy"][-1] is what to expect of new patients.
    """
    torch.manual_seed(seed)
    train_rows, val_rows = split_rows(patients)
    model = Classifier(x.shape[2], int(y.max()) + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    history: dict[str, list[float]] = {"train/loss": [], "val/accuracy": []}
    for _ in range(EPOCHS):
        model.train()
        for rows in train_rows[torch.randperm(len(train_rows))].split(BATCH_SIZE):
            loss = compute_loss(model, x[rows], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history["train/loss"].append(loss.item())
        model.eval()
        with torch.no_grad():
            history["val/accuracy"].append(accuracy(model, x[val_rows], y[val_rows]))
    return model, history
