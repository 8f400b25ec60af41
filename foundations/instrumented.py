"""Instrumented training: a model and an optimizer that record what a training loop does with them.

Every forward pass is kept with the samples that it saw, the mode, whether it built a graph, its outputs and, after a
backward pass, the gradient of the loss with respect to them; every step with the state of the gradients.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import Failure

Rows = Tensor | Sequence[Tensor]  # samples: (N, ...), or N sequences (T,) of unequal length without zeros


@dataclass
class Forward:
    """A forward pass.

    Args:
        split: Data that its samples are from: "training", "validation", or "both".
        ids: Positions of its samples in their data.
        mode: "training" or "evaluation"; "mixed" if some layers are in the other.
        graph: Whether it built a graph.
        stateful: Whether a recurrent state other than zeros was handed over.
        outputs: Output of each sample, without padding.
        grads: Gradient of the loss with respect to each output, once there was a backward pass.
        leaked: Largest gradient of the loss at padding.
        weights: State dict before the pass; empty if it built a graph.
    """

    split: str
    ids: list[int]
    mode: str
    graph: bool
    stateful: bool
    outputs: list[Tensor]
    grads: list[Tensor] = field(default_factory=list)
    leaked: float = 0.0
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Step:
    """A step of the optimizer.

    Args:
        forwards: Forward passes whose backward pass came after the step before.
        gradient: What `.grad` holds: "of its batch", "of all batches so far", "nothing", or "something else".
        weights: Copies of the parameters after the step.
    """

    forwards: list[Forward]
    gradient: str
    weights: list[Tensor] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        """Samples of the step, in the order of the passes."""
        return [i for forward in self.forwards for i in forward.ids]


@dataclass
class Epoch:
    """Steps of an epoch, and the validation that follows them."""

    steps: list[Step] = field(default_factory=list)
    validation: list[Forward] = field(default_factory=list)

    def outputs(self) -> list[Tensor]:
        """Output of each validation sample, in the order of the data."""
        pairs = [pair for forward in self.validation for pair in zip(forward.ids, forward.outputs, strict=True)]
        return [output for _, output in sorted(dict(pairs).items())]  # of a sample that is validated twice, the last


class Recorder:
    """Instrumented model and optimizer.

    Args:
        net: Network of samples (B, ...), and of a recurrent state if it has one: then it returns (outputs, state).
        train: Training samples, no two alike.
        val: Validation samples, none of which is among the others.
        lr_at: Step -> learning rate; a negative one spoils what was learned.
    """

    def __init__(self, net: nn.Module, train: Rows, val: Rows, lr_at: Callable[[int], float] = lambda step: 0.1) -> None:
        self.events: list[Forward | Step] = []
        self.pending: list[Forward] = []
        self.known = {_key(row): ("training", i, len(row)) for i, row in enumerate(train)}
        self.known |= {_key(row): ("validation", i, len(row)) for i, row in enumerate(val)}
        self.padded = not isinstance(train, Tensor)
        self.lr_at, self.step_count = lr_at, 0
        self.model = RecordedModel(net, self)
        self.parameters = list(net.parameters())
        self.total = [torch.zeros_like(p) for p in self.parameters]
        self.recent = [torch.zeros_like(p) for p in self.parameters]
        for i, parameter in enumerate(self.parameters):
            parameter.register_hook(lambda grad, i=i: self.add_gradient(i, grad))
        self.optimizer = RecordedSGD(self.parameters, self)

    def __deepcopy__(self, memo: Any) -> Recorder:
        return self  # a copy of the model goes on recording here

    def add_gradient(self, i: int, grad: Tensor) -> None:
        """Called in each backward pass for each parameter."""
        self.total[i] += grad
        self.recent[i] += grad

    def add_forward(self, model: nn.Module, inputs: Tensor, stateful: bool, output: Tensor, weights: Any) -> None:
        """Called after each forward pass."""
        found = [self.known.get(_key(row)) for row in inputs]
        if None in found:
            where = "; padding goes behind a sequence, as zeros" if self.padded else ""
            unknown = [row.tolist() for row, sample in zip(inputs, found, strict=True) if sample is None]
            raise Failure(f"the model gets a sample that is not in the data{where}", got=torch.tensor(min(unknown)))
        samples = [sample for sample in found if sample]
        splits, ids = {split for split, _, _ in samples}, [i for _, i, _ in samples]
        lengths = [length if self.padded else None for _, _, length in samples]
        modes = {module.training for module in model.modules()}
        mode = "mixed" if len(modes) > 1 else "training" if modes == {True} else "evaluation"
        split = splits.pop() if len(splits) == 1 else "both"
        rows = output.detach().clone()
        outputs = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        forward = Forward(split, ids, mode, output.requires_grad, stateful, outputs)
        forward.weights = weights
        if output.requires_grad:
            output.register_hook(lambda grad: self.add_output_gradient(forward, grad, lengths))
        self.events.append(forward)

    def add_output_gradient(self, forward: Forward, grad: Tensor, lengths: list[int | None]) -> None:
        """Called in each backward pass for the outputs of a forward pass."""
        rows = list(zip(grad.detach().clone(), lengths, strict=True))
        forward.grads = [row[:length] for row, length in rows]
        if self.padded:
            forward.leaked = max([0.0, *(row[length:].abs().max().item() for row, length in rows if length != len(row))])
        self.pending.append(forward)

    def add_step(self) -> None:
        """Called before each step of the optimizer."""
        self.events.append(Step(self.pending, self._gradient()))
        self.pending = []
        self.recent = [torch.zeros_like(p) for p in self.parameters]
        self.optimizer.param_groups[0]["lr"] = self.lr_at(self.step_count)
        self.step_count += 1

    def _gradient(self) -> str:
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        for name, expected in (("of its batch", self.recent), ("of all batches so far", self.total)):
            if all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(grads, expected, strict=True)):
                return name
        return "something else" if any(grad.any() for grad in grads) else "nothing"

    def epochs(self) -> list[Epoch]:
        """Epochs: steps up to a validation. A validation before the first step is none."""
        epochs: list[Epoch] = []
        for event in self.events:
            if isinstance(event, Step):
                if not epochs or epochs[-1].validation:
                    epochs.append(Epoch())
                epochs[-1].steps.append(event)
            elif event.split != "training" and epochs and not event.grads:
                epochs[-1].validation.append(event)
        return epochs


class RecordedModel(nn.Module):
    """Network whose forward passes are recorded."""

    def __init__(self, net: nn.Module, recorder: Recorder) -> None:
        super().__init__()
        self.net, self.recorder = net, recorder

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> Any:
        before = {} if torch.is_grad_enabled() else {name: value.clone() for name, value in self.state_dict().items()}
        result = self.net(inputs) if state is None else self.net(inputs, state)
        output = result[0] if isinstance(result, tuple) else result
        stateful = state is not None and bool(state.any())
        self.recorder.add_forward(self.net, inputs, stateful, output, before)
        return result


class PlainSGD(torch.optim.Optimizer):
    """Stochastic gradient descent that does not import torch._dynamo, for which torch.optim's take a second at first use."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "differentiable": False})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        inspect.unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)

    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        return loss

    @torch.no_grad()
    def update(self) -> None:
        """Moves every parameter that has a gradient against it."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= group["lr"] * parameter.grad


class RecordedSGD(PlainSGD):
    """Stochastic gradient descent whose steps are recorded."""

    def __init__(self, parameters: list[nn.Parameter], recorder: Recorder) -> None:
        super().__init__(parameters, lr=0.1)
        self.recorder = recorder

    def update(self) -> None:
        self.recorder.add_step()
        super().update()
        step = self.recorder.events[-1]
        assert isinstance(step, Step)
        step.weights = [parameter.detach().clone() for parameter in self.recorder.parameters]


def _key(row: Tensor) -> tuple[int | float, ...]:
    """A sample as a key: its entries, without zeros at the end if they are integers."""
    values = row.detach().reshape(-1).tolist()
    while values and not row.is_floating_point() and values[-1] == 0:
        values.pop()
    return tuple(values)
