"""Early stopping: the best weights kept, and an end to waiting

A network that trains for too long memorizes. The validation loss says when it was best, after the fact: so remember.
"""

import copy
import math
from typing import Any

from torch import nn


class EarlyStopping:
    """Keeps the weights of the lowest validation loss, and says when to stop.

    Args:
        patience: Number of epochs in a row without a new lowest loss after which to stop, at least 1.

    Example:
        With patience = 2 the losses 3, 1, 2, 1 give False, False, False, True, and the weights of the second are kept.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best_loss = math.inf
        self.best_weights: dict[str, Any] = {}
        self.bad_epochs = 0

    def update(self, model: nn.Module, loss: float) -> bool:
        """Takes note of an epoch.

        Args:
            model: The network as it is now; it will be trained on.
            loss: Its validation loss. Only a loss below all before is an improvement: an equal one is not; nan and inf
                never are.

        Returns:
            Whether to stop now.
        """
        if loss < self.best_loss:
            self.best_loss = loss
            self.best_weights = copy.deepcopy(model.state_dict())  # the state dict shares its memory with the model
            self.bad_epochs = 0
        else:
            self.bad_epochs += 1
        return self.bad_epochs >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Loads the best weights, buffers included, into the tensors that `model` has. Before any improvement: nothing.

        The optimizer of `model` still holds its parameters afterwards, and training on does not change what is kept.
        """
        if self.best_weights:
            model.load_state_dict(self.best_weights)
