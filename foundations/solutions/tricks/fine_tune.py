"""Fine-tuning: a pretrained body, a new head, and nothing of the body moves

What is loaded has to be checked, and "frozen" means more than one thing.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def load_body(model: nn.Module, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Copies into `model` each entry of `state` that has the name and shape of one of its own.

    A leading `module.`, which DistributedDataParallel puts before every name, does not count.

    Args:
        model: Network whose head may be another one than the pretrained network's.
        state: State dict of the pretrained network; it stays as it is.

    Returns:
        Names of the model's entries that were not loaded, and names of `state`'s entries (without `module.`) that were not
        used; both sorted.

    Raises:
        ValueError: Nothing was loaded.

    Example:
        For a new head of another size, ["head.bias", "head.weight"] twice.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    if not fitting:
        raise ValueError("no entry of the state has a name and shape of the model's")
    model.load_state_dict(fitting, strict=False)
    return sorted(own.keys() - fitting.keys()), sorted(state.keys() - fitting.keys())


def fine_tune(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
) -> list[float]:
    """Trains `model.head` with cross-entropy, a step for each batch; nothing of `model.body` moves.

    Neither its parameters move, whatever gradients they have from before, nor its buffers, such as the running statistics
    of batch normalization. The body is in evaluation mode during each step, the head in training mode.

    Args:
        model: Module with `body` and `head`; it maps inputs to logits (N, C). Everything may be in any mode, and every
            parameter may have an old gradient.
        batches: Inputs, and labels (N,).
        make_optimizer: Makes an optimizer of parameters, maybe with momentum and weight decay.

    Returns:
        The loss of each batch before its step. The body's parameters require no gradient afterwards.
    """
    model.body.requires_grad_(False)
    model.train()
    model.body.eval()
    optimizer = make_optimizer(list(model.head.parameters()))
    losses = []
    for inputs, labels in batches:
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
