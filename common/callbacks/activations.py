"""Activation statistics: the fraction of dead and of saturated units of each layer."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from common.io.ranks import print_rank_zero
from common.trainer import should_log

MAX_DEAD = 0.9  # fraction of dead units from which on a layer is reported
RECTIFIERS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Mish)
SIGMOIDAL: dict[type[nn.Module], tuple[float, float]] = {nn.Sigmoid: (0.0, 1.0), nn.Tanh: (-1.0, 1.0)}  # with their ranges


class ActivationStats(Callback):
    """Logs `act/dead/<layer>` and `act/saturated/<layer>` for every activation module, by forward hooks.

    A unit of a rectifier (a channel of an image, a feature of a vector) is dead in a batch if its output is nowhere above
    zero: next to no gradient reaches its weights. The output of a sigmoid or tanh is saturated where it is within 1 % of an
    end of its range: the gradient there is next to zero. Both are fractions between 0 and 1.

    Layers without living units are named in a line at the end of the epoch, each once: the loss no longer falls, and the
    run would not say why.

    Hooks cost time, so they are registered only in steps that are logged and in an epoch's last one, and never on a
    compiled network.
    """

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []
        self.values: dict[str, Tensor] = {}
        self.reported: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        is_last = batch_idx + 1 == trainer.num_training_batches
        if not (should_log(trainer) or is_last) or is_compiled(pl_module):
            return
        self.values = {}
        for name, module in pl_module.named_modules():
            if isinstance(module, RECTIFIERS) or type(module) in SIGMOIDAL:
                self.handles.append(module.register_forward_hook(partial(self._measure, name.removeprefix("net."))))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.handles:
            return
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        if should_log(trainer):
            pl_module.log_dict(self.values)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the layers that are dead in the last batch measured, once each."""
        fractions = {name.removeprefix("act/dead/"): float(value) for name, value in self.values.items() if "/dead/" in name}
        dead = {name: value for name, value in fractions.items() if value >= MAX_DEAD and name not in self.reported}
        self.reported.update(dead)
        if dead:
            layers = ", ".join(f"{name} ({value:.0%} of its units)" for name, value in dead.items())
            print_rank_zero(
                f"NOTE: dead layers: {layers}. Units that are nowhere above zero pass on no gradient, and the loss stays "
                "where it is. Start again with lower learning rates; narrow layers and small batches need the lowest."
            )

    def _measure(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if isinstance(module, RECTIFIERS):
            self.values[f"act/dead/{name}"] = dead_fraction(output.detach())
        else:
            self.values[f"act/saturated/{name}"] = saturated_fraction(output.detach(), *SIGMOIDAL[type(module)])


def is_compiled(module: nn.Module) -> bool:
    """Whether any part of `module` is compiled: a hook that comes and goes would recompile it each time.

    Torch has no public attribute that says so; this private one is what `nn.Module.compile` sets.
    """
    return any(part._compiled_call_impl is not None for part in module.modules())


def dead_fraction(output: Tensor) -> Tensor:
    """Fraction of units whose output is at most zero everywhere in the batch, as a scalar.

    A unit is an entry of dimension 1 of (batch, channels, height, width), of the last dimension of anything else.
    """
    unit_dim = 1 if output.dim() == 4 else output.dim() - 1
    maximum = output.transpose(0, unit_dim).flatten(1).amax(1)  # (units,)
    return (maximum <= 0).float().mean()


def saturated_fraction(output: Tensor, low: float, high: float) -> Tensor:
    """Fraction of outputs within 1 % of the range [low, high] from one of its ends, as a scalar."""
    margin = 0.01 * (high - low)
    return ((output < low + margin) | (output > high - margin)).float().mean()
