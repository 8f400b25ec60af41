"""What the units of a network do: how many are dead, how many are saturated, layer by layer."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from common.trainer import should_log

RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Mish)
SQUASHERS: dict[type[nn.Module], tuple[float, float]] = {nn.Sigmoid: (0.0, 1.0), nn.Tanh: (-1.0, 1.0)}
WATCHED: tuple[type[nn.Module], ...] = (*RECTIFIERS, *SQUASHERS)


class ActivationStats(Callback):
    """Logs `act/dead/<layer>` and `act/saturated/<layer>` for every activation module, by forward hooks.

    A rectifier's unit (a channel of a picture, a feature of a vector) is dead in a batch if its output is nowhere above
    zero: no gradient to speak of reaches its weights. A squashing unit's output is saturated where it is within 1 % of
    an end of its range: the slope there is next to zero. Both are shares between 0 and 1.

    Hooks cost time, so they sit on the network only in steps whose figures go to the loggers, and never on a compiled one.
    """

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []
        self.values: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Hangs the hooks on if this batch is to be looked at."""
        if not should_log(trainer) or is_compiled(pl_module):
            return
        for name, module in pl_module.named_modules():
            if isinstance(module, WATCHED):
                self.handles.append(module.register_forward_hook(self._hook(name.removeprefix("net."))))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes them off again and logs what they saw."""
        if not self.handles:
            return
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        pl_module.log_dict(self.values)
        self.values = {}

    def _hook(self, name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if isinstance(module, RECTIFIERS):
                self.values[f"act/dead/{name}"] = dead_share(output.detach())
            else:
                low, high = next(span for kind, span in SQUASHERS.items() if isinstance(module, kind))
                self.values[f"act/saturated/{name}"] = saturated_share(output.detach(), low, high)

        return look


def is_compiled(module: nn.Module) -> bool:
    """Whether any part of `module` is compiled: a hook that comes and goes would have it compiled anew each time."""
    return any(part._compiled_call_impl is not None for part in module.modules())


def dead_share(output: Tensor) -> Tensor:
    """The share of units whose output is at most zero everywhere in the batch, as a scalar.

    A unit is an entry of dimension 1 of (batch, channels, height, width), of the last dimension of anything else.
    """
    unit = 1 if output.dim() == 4 else output.dim() - 1
    highest = output.transpose(0, unit).flatten(1).amax(1)  # (units,)
    return (highest <= 0).float().mean()


def saturated_share(output: Tensor, low: float, high: float) -> Tensor:
    """The share of outputs within 1 % of the range [low, high] from one of its ends, as a scalar."""
    margin = 0.01 * (high - low)
    return ((output < low + margin) | (output > high - margin)).float().mean()
