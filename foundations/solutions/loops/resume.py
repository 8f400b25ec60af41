"""Resume: a training that can be killed at any moment

A run that was killed and goes on bit for bit, as if nothing had happened, has forgotten nothing.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Scheduler = torch.optim.lr_scheduler.LRScheduler
Progress = dict[str, Any]


def save_training(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Scheduler, progress: Progress
) -> None:
    """Writes all that the rest of a training depends on: model, optimizer, schedule, torch's random state, progress.

    The process may be killed while it writes: then `path` still holds what it held before, whole.

    Args:
        path: File; another one beside it may be written, too.
        model: Network.
        optimizer: Optimizer of its parameters.
        scheduler: Learning rate schedule of the optimizer.
        progress: Whatever else is to come back: numbers, strings, tensors, lists and dicts of them.
    """
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "random": torch.get_rng_state(),
        "progress": progress,
    }
    new = path.with_suffix(".new")
    torch.save(state, new)
    new.replace(path)  # at once: there is no moment with half a file


def load_training(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Scheduler) -> Progress:
    """Brings model, optimizer, schedule and torch's random state to where they were when `path` was written.

    Args:
        path: File that `save_training` wrote.
        model: Network of the same kind; its parameters keep their identity.
        optimizer: Optimizer of its parameters, of the same kind.
        scheduler: Learning rate schedule of the optimizer, of the same kind.

    Returns:
        The progress that was saved.
    """
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["random"])
    return state["progress"]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Scheduler,
    data: tuple[Tensor, Tensor],
    validate: Callable[[nn.Module], float],
    epochs: int,
    batch_size: int,
    path: Path,
) -> float:
    """Trains a classifier, and goes on from `path` if that file exists.

    An epoch takes each sample once, in an order that is drawn anew, in batches of which the last may be shorter. A step is
    one of the optimizer along the mean cross-entropy of a batch, then one of the schedule. Each epoch ends with a
    validation. All is saved after each step; after the last step of an epoch, once its validation is done.

    A run that was killed at any moment after its first save, and is called again with new objects of the same kind, ends
    exactly as an uninterrupted one. What was saved is not computed again.

    Args:
        model: Network in training mode: inputs (B, D) -> logits (B, K); it may have dropout.
        optimizer: Optimizer of its parameters.
        scheduler: Learning rate schedule of the optimizer, by steps.
        data: Inputs (N, D) and labels (N,).
        validate: Gives the validation loss, never nan, and leaves the model as it is.
        epochs: Number of epochs, at least 1.
        batch_size: Number of samples of a batch.
        path: File of the checkpoint.

    Returns:
        The lowest validation loss; the model ends with the weights that had it (of equal ones, the earliest).

    Example:
        10 samples in batches of 4 make 3 steps an epoch. Killed in step 5, a run goes on with the second batch of the
        second epoch, in the order that was drawn for it.
    """
    inputs, labels = data
    progress: Progress = {"step": 0, "best_loss": math.inf}
    if path.exists():
        progress = load_training(path, model, optimizer, scheduler)
    steps_per_epoch = -(-len(inputs) // batch_size)  # rounded up
    while progress["step"] < epochs * steps_per_epoch:
        batch = progress["step"] % steps_per_epoch
        if batch == 0:
            progress["order"] = torch.randperm(len(inputs))
        chosen = progress["order"].split(batch_size)[batch]
        loss = F.cross_entropy(model(inputs[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        progress["step"] += 1
        if batch == steps_per_epoch - 1:
            val_loss = validate(model)
            if val_loss < progress["best_loss"]:
                progress["best_loss"] = val_loss
                progress["best_weights"] = {name: value.clone() for name, value in model.state_dict().items()}
        save_training(path, model, optimizer, scheduler, progress)
    model.load_state_dict(progress["best_weights"])
    return progress["best_loss"]
