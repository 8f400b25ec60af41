"""Properties that every training loop has, checked with an instrumented model and optimizer."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import Failure, check_that, copy_of, difference
from foundations.exercise import Exercise
from foundations.instrumented import Epoch, Recorder, Rows

ONCE = "each once"
Data = tuple[Rows, Any, Rows, Any]  # training samples and targets, validation samples and targets


@dataclass(frozen=True)
class Loop:
    """What a training loop is to do.

    Args:
        function: Its name in the learner's file; called with (model, optimizer, samples, targets, validation samples,
            validation targets, epochs, batch_size, seed).
        case: (number of training, of validation samples) -> network and data, the same for the same global seed.
        metric: (outputs, targets, training targets) -> metric, from the output of each validation sample in order.
        loss: (outputs, targets, all training targets) -> loss of a batch, from lists; None if that is left open.
        higher: Whether a higher metric is better.
        lr: Learning rate at which a few steps on a case learn something.
        history: Result -> metric of each epoch.
    """

    function: str
    case: Callable[[int, int], tuple[nn.Module, Data]]
    metric: Callable[[list[Tensor], Any, Any], float]
    loss: Callable[[list[Tensor], Any, Any], Tensor] | None
    higher: bool = True
    lr: float = 0.5
    history: Callable[[Any], Any] = lambda result: result


@dataclass
class Recording:
    """A call of a training loop with an instrumented model."""

    result: Any
    recorder: Recorder
    data: Data
    shown: dict[str, Any]

    @property
    def epochs(self) -> list[Epoch]:
        """Its epochs. Raises Failure if there are more or fewer than asked for."""
        found, expected = self.recorder.epochs(), self.shown["epochs"]
        without = "the validation data is not used after each epoch"
        check_that(all(epoch.validation for epoch in found) and len(found) <= expected, without, **self.shown)
        steps = sum(len(epoch.steps) for epoch in found)
        if len(found) < expected:
            check_that(steps > 0, "the optimizer never makes a step", **self.shown)
            raise Failure("there are fewer epochs with a validation", self.shown, expected, len(found))
        return found


def record(
    loop: Loop,
    answer: ModuleType,
    n: int,
    n_val: int,
    epochs: int = 1,
    batch_size: int = 4,
    seed: int = 0,
    rises_at: int = 10**9,
    global_seed: int = 0,
    training: bool = True,
    draws: int = 0,
) -> Recording:
    """Calls a training loop with an instrumented model and optimizer.

    Args:
        loop: What it is to do.
        answer: Learner's module.
        n: Number of training samples.
        n_val: Number of validation samples.
        epochs: Number of epochs.
        batch_size: Samples of a step.
        seed: Seed that the loop gets.
        rises_at: Step from which the optimizer walks uphill, and spoils what was learned.
        global_seed: Seed of torch's global generator, on which no order may depend.
        training: Mode in which the model comes; pretrained ones often come in evaluation mode.
        draws: Random numbers that the model takes from torch's global generator in each pass, as dropout does.
    """
    torch.manual_seed(7)
    net, data = loop.case(n, n_val)
    recorder = Recorder(net, data[0], data[2], lambda step: loop.lr if step < rises_at else -4 * loop.lr)
    shown = {"training samples": n, "validation samples": n_val, "epochs": epochs, "batch_size": batch_size}
    recorder.model.train(training)
    if draws:
        net.register_forward_pre_hook(lambda module, inputs: (torch.rand(draws), None)[1])
    before = copy_of(data)
    torch.manual_seed(global_seed)
    try:
        result = getattr(answer, loop.function)(recorder.model, recorder.optimizer, *data, epochs, batch_size, seed)
    except (NotImplementedError, Failure) as error:
        if isinstance(error, Failure):
            error.inputs = {**shown, **error.inputs}
        raise
    except Exception as error:
        raise Failure(f"raises {type(error).__name__}", shown, got=error) from error
    for value, old in zip(data, before, strict=True):
        pairs = [(value, old)] if isinstance(value, Tensor) else list(zip(value, old, strict=True))
        check_that(all(torch.equal(a, b) for a, b in pairs), "changes the data that it is given", **shown)
    return Recording(result, recorder, data, shown)


def how_often(ids: list[int], count: int) -> str:
    """How often the samples 0 to count - 1 are among `ids`, in words that do not depend on which they are."""
    counts = {ids.count(i) for i in range(count)}
    if len(counts) == 1:
        return ONCE if counts == {1} else f"all {counts.pop()} times"
    return (
        "some several times" if 0 not in counts else "some never" if max(counts) == 1 else "some never, some several times"
    )


def check_loss(loop: Loop, answer: ModuleType) -> None:
    """Checks the gradient of the loss with respect to the outputs, of a batch of all samples and of a part of them."""
    assert loop.loss is not None
    for n, batch_size in ((3, 3), (4, 9), (6, 3)):
        recording = record(loop, answer, n, 6, 1, batch_size)
        step = recording.epochs[0].steps[0]
        ids, size, targets = sorted(step.ids), min(n, batch_size), recording.data[1]
        check_that(len(set(ids)) == size == len(ids), "samples of the first step", size, len(ids), **recording.shown)
        pairs = [pair for f in step.forwards for pair in zip(f.ids, f.outputs, f.grads, strict=True)]
        ordered = sorted(pairs, key=lambda item: item[0])
        leaves = [output.clone().requires_grad_() for _, output, _ in ordered]
        leaked = max(forward.leaked for forward in step.forwards)
        check_that(leaked == 0, "the loss depends on outputs at padding", 0.0, leaked, **recording.shown)
        seen = [targets[i] for i in ids]
        expected = torch.autograd.grad(loop.loss(leaves, seen, targets), leaves)
        got = [grad for _, _, grad in ordered]
        reason = difference(_joined(got), _joined(expected), 1e-4, 1e-6)
        if size == n:
            shown = {"outputs": _joined([output for _, output, _ in ordered]), "targets": _joined(targets)}
            says = f"gradient of the loss with respect to the outputs: {reason}"
            check_that(not reason, says, _joined(expected), _joined(got), **shown)
        check_that(not reason, "the gradient is right for all samples at once, not for a part of them", **recording.shown)


def check_batches(loop: Loop, answer: ModuleType) -> None:
    """Checks that every epoch has each sample once, in batches of batch_size and a last short one."""
    for n, batch_size in ((4, 2), (10, 4), (6, 50)):
        recording = record(loop, answer, n, 8, 2, batch_size)
        for epoch in recording.epochs:
            sizes = sorted((len(step.ids) for step in epoch.steps), reverse=True)
            expected = [batch_size] * (n // batch_size) + [n % batch_size] * (n % batch_size > 0)
            check_that(sizes == expected, "sizes of an epoch's batches", expected, sizes, **recording.shown)
            seen = how_often([i for step in epoch.steps for i in step.ids], n)
            check_that(seen == ONCE, "how often each sample is seen in an epoch", ONCE, seen, **recording.shown)


def check_modes(loop: Loop, answer: ModuleType) -> None:
    """Checks mode, data and gradients of each step."""
    for epochs, training in ((1, True), (2, True), (1, False)):
        recording = record(loop, answer, 8, 6, epochs, 4, training=training)
        for number, epoch in enumerate(recording.epochs, 1):
            shown = {**recording.shown, "epoch": number, "model comes in mode": "training" if training else "evaluation"}
            for step in epoch.steps:
                for forward in step.forwards:
                    check_that(forward.split == "training", "a step uses validation data", **shown)
                    check_that(forward.mode == "training", "mode in a step", "training", forward.mode, **shown)
                    check_that(not forward.stateful, "a batch begins with the state of another one", **shown)
                held = "what .grad holds at a step"
                check_that(step.gradient == "of its batch", held, "the gradient of its batch", step.gradient, **shown)


def check_validation(loop: Loop, answer: ModuleType) -> None:
    """Checks mode and graph of the validation, and that it has each sample once."""
    for n_val in (3, 5):
        recording = record(loop, answer, 6, n_val, 2, 3)
        for epoch in recording.epochs:
            for forward in epoch.validation:
                check_that(forward.split == "validation", "training data among the validation data", **recording.shown)
                check_that(forward.mode == "evaluation", "mode in validation", "evaluation", forward.mode, **recording.shown)
                check_that(not forward.graph, "validation builds a graph", **recording.shown)
                check_that(not forward.stateful, "a batch begins with the state of another one", **recording.shown)
            seen = how_often([i for forward in epoch.validation for i in forward.ids], n_val)
            what = "how often each validation sample is seen in an epoch"
            equally = seen == ONCE or seen.startswith("all ")  # one pass for the loss and one for the metric are allowed
            check_that(equally, what, ONCE, seen, **recording.shown)


def check_history(loop: Loop, answer: ModuleType) -> None:
    """Checks the metric of each epoch, whatever the validation batches are."""
    for n_val, epochs in ((3, 1), (6, 1), (11, 3)):
        recording = record(loop, answer, 4, n_val, epochs, 4)
        expected = _metrics(loop, recording)
        got = loop.history(recording.result)
        got = got.tolist() if isinstance(got, Tensor) else got
        reason = difference(got, expected, 1e-4, 1e-5)
        outputs, targets = recording.epochs[-1].outputs(), recording.data[3]
        shown = {"outputs at last": _joined(outputs), "targets": _joined(targets)} if n_val < 7 else {}
        check_that(not reason, f"the history: {reason}", expected, got, **recording.shown, **shown)


def check_best(loop: Loop, answer: ModuleType) -> None:
    """Checks that the weights and statistics at the end are those of the best epoch."""
    for rises_at, epochs in ((1, 3), (2, 4), (3, 3)):
        recording = record(loop, answer, 12, 9, epochs, 12, rises_at=rises_at)
        metrics = _metrics(loop, recording)
        best = max(metrics) if loop.higher else min(metrics)
        numbers = [i + 1 for i, metric in enumerate(metrics) if metric == best]
        final = recording.recorder.model.state_dict()
        kept = [epoch.validation[0].weights for epoch in recording.epochs]
        trained = {name for name, _ in recording.recorder.model.named_parameters()}
        found = [i for i, state in enumerate(kept, 1) if _same(final, state, trained)]
        shown = {**recording.shown, "metric of each epoch": metrics}
        right = bool(set(found) & set(numbers))
        says = f"those of epoch {found[0]}" if found else "those of no epoch"
        check_that(right, "the weights at the end", f"those of epoch {numbers[0]}", says, **shown)
        whole = any(_same(final, kept[i - 1], final.keys()) for i in set(found) & set(numbers))
        check_that(whole, "the running statistics at the end are not those of the best epoch", **shown)


def check_order(loop: Loop, answer: ModuleType) -> None:
    """Checks that each epoch has a new order, which depends on the seed alone."""
    orders = []
    for seed, global_seed, draws in ((3, 0, 0), (3, 1, 0), (4, 1, 0), (3, 0, 1)):
        recording = record(loop, answer, 12, 4, 2, 4, seed, global_seed=global_seed, draws=draws)
        orders.append([[step.ids for step in epoch.steps] for epoch in recording.epochs])
    shown = {**recording.shown, "seed": 3}
    sorted_ids = [sorted(i for batch in epoch for i in batch) for epoch in orders[0]]
    unshuffled = orders[0][0] == orders[0][1] and [i for batch in orders[0][0] for i in batch] == sorted_ids[0]
    check_that(not unshuffled, "the samples come in the order of the data", **shown)
    check_that(orders[0][0] != orders[0][1], "both epochs have the same order", **shown)
    check_that(orders[0] == orders[1], "the same seed gives another order", **shown)
    check_that(orders[0] != orders[2], "another seed gives the same order", **shown)
    check_that(orders[0] == orders[3], "the order depends on the random numbers that dropout draws", **shown)


def add_loop_properties(exercise: Exercise, loop: Loop) -> None:
    """Registers what every training loop has in common, the easy properties first."""
    checks: Sequence[tuple[str, Callable[[Loop, ModuleType], None]]] = [
        ("modes and cleared gradients", check_modes),
        ("validation", check_validation),
        ("history", check_history),
        ("best weights", check_best),
        ("order by the seed", check_order),
    ]
    if loop.loss is not None:
        checks = [("loss", check_loss), ("each sample once an epoch", check_batches), *checks]
    for title, check in checks:
        exercise.property(title)(_bound(check, loop))


def _bound(check: Callable[[Loop, ModuleType], None], loop: Loop) -> Callable[[Any, random.Random], None]:
    return lambda answer, rng: check(loop, answer)


def _metrics(loop: Loop, recording: Recording) -> list[float]:
    """Metric of each epoch, from the outputs that were recorded."""
    targets, val_targets = recording.data[1], recording.data[3]
    return [loop.metric(epoch.outputs(), val_targets, targets) for epoch in recording.epochs]


def _same(a: dict[str, Tensor], b: dict[str, Tensor], names: Any) -> bool:
    return all(torch.allclose(a[name], b[name], rtol=1e-6, atol=1e-8) for name in names)


def _joined(values: Any) -> Tensor:
    """One tensor of the values of all samples, for the comparison and a failure's lines."""
    if isinstance(values, Tensor):
        return values
    same = len({value.shape for value in values}) == 1
    return torch.stack(list(values)) if same else torch.cat(list(values))
