"""Exercise lightning_modules: five losses, five metrics, and a Trainer."""

import copy
import random
import tempfile
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from foundations.comparing import Failure, check_that, difference
from foundations.exercise import Exercise
from foundations.exercises.loops import imbalanced_loop, multilabel_loop, sequence_loop
from foundations.exercises.loops.lightning_answers import image_module, imbalanced_module, sequence_module

exercise = Exercise(
    title="Lightning modules: the same five loops, without the loops",
    level="core",
    minutes=40,
    link="projects.blank.module:BlankModule",
    why="a capstone's module has the same three parts: a step, a validation step, the optimizer",
    hints=(
        "training_step returns the loss and does nothing else. validation_step logs. Modes and gradients are Lightning's.",
        "log(name, mean, batch_size=n): the epoch has sum(n * mean) / sum(n). A schedule per step has interval 'step'.",
        'return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}',
    ),
    source="lightning.pytorch.loops.optimization.automatic:_AutomaticOptimization._make_closure",
    look_at="The closure is the inner part of your loops: training_step, zero_grad, backward. The step calls it. "
    "What does it do where training_step returns None?",
    uses=("imbalanced_loop",),
)

LR, TOTAL = 0.5, 10
Batch = tuple[Tensor, Tensor]
SIZES = (4, 4, 2, 3, 3)


class Case:
    """A module's network, batches, arguments, loss and metric."""

    def __init__(
        self,
        name: str,
        metric_name: str,
        make: Callable[[int], Batch],
        net: Callable[[], nn.Module],
        loss: Callable[[Tensor, Tensor], Tensor],
        metric: Callable[[list[Batch]], float],
        mode: str = "max",
        **arguments: float,
    ) -> None:
        self.name, self.metric_name, self.make, self.net, self.loss = name, metric_name, make, net, loss
        self.metric, self.mode, self.arguments = metric, mode, arguments

    def module(self, answer: ModuleType, total: int = TOTAL) -> tuple[Any, nn.Module]:
        """The learner's module and its network, with the same weights each time."""
        torch.manual_seed(3)
        net = self.net()
        return getattr(answer, self.name)(net, LR, total, **self.arguments), net

    def batches(self, sizes: tuple[int, ...]) -> list[Batch]:
        """Batches of so many samples."""
        torch.manual_seed(4)
        return [self.make(size) for size in sizes]


def sequences(count: int) -> Batch:
    """Padded tokens and labels; later batches have shorter sequences."""
    tokens, labels = sequence_loop.samples(count, 1 + count)
    return pad_sequence(tokens, batch_first=True), pad_sequence(labels, batch_first=True, padding_value=-100)


def mean_where(right: Callable[[Tensor, Tensor], Tensor]) -> Callable[[list[Batch]], float]:
    """Mean over all entries of all batches."""
    return lambda pairs: torch.cat([right(output, target).double().flatten() for output, target in pairs]).mean().item()


def images(count: int) -> Batch:
    """Images and labels."""
    labels = torch.randint(3, (count,))
    return torch.randn(count, 1, 2, 2) + labels[:, None, None, None], labels


def numbers(count: int) -> Batch:
    """Inputs and targets far from 0."""
    inputs = torch.randn(count, 2)
    return inputs, 20 + 5 * inputs.sum(1)


def f1_of_all(pairs: list[Batch]) -> float:
    """Highest F1 over all samples."""
    scores = torch.cat([output[:, 0].sigmoid() for output, _ in pairs])
    return imbalanced_loop.highest_f1(scores, torch.cat([target for _, target in pairs]))


def weighted(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with a positive weight of 3."""
    return F.binary_cross_entropy_with_logits(output[:, 0], target.float(), pos_weight=torch.tensor(3.0))


CASES = (
    Case(
        "ImageModule",
        "val/accuracy",
        images,
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)),
        F.cross_entropy,
        mean_where(lambda output, target: output.argmax(1) == target),
    ),
    Case(
        "RegressionModule",
        "val/mse",
        numbers,
        lambda: nn.Linear(2, 1),
        lambda output, target: F.mse_loss(output[:, 0], (target - 20) / 7),
        mean_where(lambda output, target: (output[:, 0] * 7 + 20 - target).square()),
        mode="min",
        mean=20.0,
        std=7.0,
    ),
    Case(
        "SequenceModule",
        "val/accuracy",
        sequences,
        lambda: sequence_loop.Tagger(),
        lambda output, target: F.cross_entropy(output[target != -100], target[target != -100]),
        mean_where(lambda output, target: (output.argmax(2) == target)[target != -100]),
    ),
    Case(
        "ImbalancedModule",
        "val/f1",
        lambda count: imbalanced_loop.samples(count, 3),
        lambda: nn.Linear(2, 1),
        weighted,
        f1_of_all,
        pos_weight=3.0,
    ),
    Case(
        "MultilabelModule",
        "val/accuracy",
        multilabel_loop.samples,
        lambda: nn.Linear(2, 4),
        F.binary_cross_entropy_with_logits,
        mean_where(lambda output, target: (output > 0) == target.bool()),
    ),
)


def run(name: str, shown: dict[str, Any], call: Callable[[Any], Any], **options: Any) -> Any:
    """Calls `call` with a silent Trainer. Raises Failure if the learner's module raises."""
    import logging

    from lightning.pytorch import Trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        try:
            return call(Trainer(**silent, enable_checkpointing=False, num_sanity_val_steps=0, **options))
        except NotImplementedError:
            raise
        except Exception as error:
            raise Failure(f"{name} raises {type(error).__name__}", shown, got=error) from error


def loader(batches: list[Batch]) -> DataLoader:
    """The batches as they are."""
    return DataLoader(batches, batch_size=None)


def check_steps(answer: ModuleType, case: Case, count: int) -> None:
    """Compares the weights after so many steps with those of a loop by hand."""
    module, net = case.module(answer)
    theirs, batches = copy.deepcopy(net), case.batches(SIZES[:count])
    for k, (inputs, targets) in enumerate(batches):
        output = theirs(inputs)
        loss = case.loss(output[0] if isinstance(output, tuple) else output, targets)
        theirs.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter -= LR * (1 - k / TOTAL) * parameter.grad
    shown = {"steps": count, "lr": LR, "total_steps": TOTAL, **case.arguments}
    run(case.name, shown, lambda trainer: trainer.fit(module, loader(batches)), max_steps=count)
    for (name, got), want in zip(net.named_parameters(), theirs.parameters(), strict=True):
        reason = difference(got, want, 1e-4, 1e-5)
        check_that(not reason, f"{case.name}: {name} after {count} steps: {reason}", want, got, **shown)


def other_labels(targets: Tensor) -> Tensor:
    """Labels of which some differ, the padding as it is."""
    if targets.ndim == 2 and targets.is_floating_point():
        return 1 - targets
    if targets.is_floating_point():
        return targets + 1
    return torch.where(targets < 0, targets, (targets + 1) % 2)


def check_metric(answer: ModuleType, case: Case, sizes: tuple[int, ...]) -> None:
    """Compares the metric of a validation with that over all samples."""
    module, net = case.module(answer)
    batches = case.batches(sizes)
    with torch.no_grad():
        outputs = [net(inputs) for inputs, _ in batches]
    pairs = [(out[0] if isinstance(out, tuple) else out, batch[1]) for out, batch in zip(outputs, batches, strict=True)]
    shown = {"samples of each batch": sizes}
    result = run(case.name, shown, lambda trainer: trainer.validate(module, loader(batches), verbose=False))[0]
    check_that(case.metric_name in result, f"{case.name} does not log {case.metric_name}", got=sorted(result))
    expected = case.metric(pairs)
    reason = difference(result[case.metric_name], expected, 1e-4, 1e-5)
    check_that(not reason, f"{case.name}: {case.metric_name}", expected, result[case.metric_name], **shown)
    flipped = [(inputs, other_labels(targets)) for inputs, targets in batches[:1]]
    result = run(case.name, shown, lambda trainer: trainer.validate(module, loader(flipped), verbose=False))[0]
    expected = case.metric([(pairs[0][0], flipped[0][1])])
    reason = difference(result[case.metric_name], expected, 1e-4, 1e-5)
    says = f"{case.name}: {case.metric_name} of a second validation, with the first batch and other labels"
    check_that(not reason, says, expected, result[case.metric_name], **shown)


def register(case: Case) -> None:
    """Registers the properties of one module."""

    @exercise.property(f"{case.name}: weights")
    def weights(answer: ModuleType, rng: random.Random) -> None:
        for count in (1, 2, 5):
            check_steps(answer, case, count)

    @exercise.property(f"{case.name}: validation")
    def validation(answer: ModuleType, rng: random.Random) -> None:
        for sizes in ((3,), (2, 1), (4, 1, 2)):
            check_metric(answer, case, sizes)


for each in CASES:
    register(each)


def best_by_hand(case: Case, batch: Batch, val: list[Batch], total: int, epochs: int) -> float:
    """Best metric of a loop by hand with one step an epoch; beyond step `total` the learning rate is negative."""
    torch.manual_seed(3)
    net, metrics = case.net(), []
    for k in range(epochs):
        net.zero_grad()
        case.loss(net(batch[0]), batch[1]).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= LR * (1 - k / total) * parameter.grad
            metrics.append(case.metric([(net(inputs), targets) for inputs, targets in val]))
    return max(metrics) if case.mode == "max" else min(metrics)


@exercise.property("fit: the weights of the best epoch")
def best_weights(answer: ModuleType, rng: random.Random) -> None:
    module, _ = CASES[3].module(answer)
    names = list(module.state_dict())
    check_that("threshold" in names, "ImbalancedModule's state dict has no threshold", got=names)
    for case in (CASES[0], CASES[1], CASES[3]):
        module, net = case.module(answer, total=3)
        batches, val = case.batches((8,)), case.batches((5, 7))
        best = best_by_hand(case, batches[0], val, 3, 6)
        shown = {"module": case.name, "epochs": 6, "monitor": case.metric_name, "mode": case.mode}
        with tempfile.TemporaryDirectory() as folder:
            score = run(
                "fit",
                shown,
                lambda _, m=module, b=batches, v=val, c=case, f=folder: answer.fit(
                    m, loader(b), loader(v), 6, c.metric_name, c.mode, f
                ),
            )
        check_that(not difference(score, best, 1e-4, 1e-5), "the best value of the metric", best, score, **shown)
        with torch.no_grad():
            outputs = [(net(inputs), targets) for inputs, targets in val]
        reached = case.metric(outputs)
        check_that(not difference(reached, best, 1e-4, 1e-5), "metric of the weights at the end", best, reached, **shown)
        parts = [type(part).__name__ for part in module.trainer.callbacks]
        noisy = [name for name in parts if "Progress" in name or "Summary" in name]
        noisy += [type(logger).__name__ for logger in module.trainer.loggers]
        check_that(not noisy, "the Trainer has a logger, progress bar or summary", [], noisy, **shown)
    scores, labels = torch.cat([output[:, 0].sigmoid() for output, _ in outputs]), torch.cat([y for _, y in outputs])
    reached = imbalanced_loop.f1_of(scores, labels, module.threshold.item())
    check_that(abs(reached - best) < 1e-5, "F1 at the module's threshold", best, reached, **shown)


exercise.wrong(
    "ImageModule", "training_step returns nothing: Lightning skips the step, with a warning at most. Return the loss."
)(image_module("no_loss"))
exercise.wrong(
    "ImageModule",
    "backward() and step() inside of training_step: Lightning does both itself, with the loss that you return.",
)(image_module("stepped"))
exercise.wrong(
    "ImageModule", 'The learning rate moves once an epoch, which is Lightning\'s default: say "interval": "step".'
)(image_module("per_epoch"))
exercise.wrong("ImageModule", "The learning rate is in LambdaLR as well: its function gives a factor, so lr counts twice.")(
    image_module("lr_twice")
)
exercise.wrong(
    "ImageModule", "The sum of right answers is logged, and its mean over batches means nothing: log the fraction."
)(image_module("sum"))
exercise.wrong("ImageModule", "Batches of unequal size weigh the same in the metric: batch_size is the number of samples.")(
    image_module("mean_of_means")
)


exercise.wrong(
    "SequenceModule",
    "Without batch_size Lightning weighs a batch by its rows; this mean is over tokens. Say how many there are.",
    "https://github.com/Lightning-AI/pytorch-lightning/issues/10093",
)(sequence_module("rows"))


exercise.wrong(
    "ImbalancedModule", "The lists still hold the last validation, and F1 is over both: empty them after, or before, each."
)(imbalanced_module("not_emptied"))
exercise.wrong(
    "ImbalancedModule",
    "The threshold is a plain attribute, and is not saved with the weights: register_buffer, then fill_.",
)(imbalanced_module("no_buffer"))
exercise.also_right("ImbalancedModule")(imbalanced_module(""))


@exercise.wrong("fit", "The module is left with the last epoch's weights: load those of checkpoint.best_model_path.")
def last_weights(module: Any, train: Any, val: Any, epochs: int, monitor: str, mode: str, folder: str) -> float:
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    kept = ModelCheckpoint(folder, monitor=monitor, mode=mode)
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    Trainer(max_epochs=epochs, callbacks=[kept], accelerator="cpu", **silent).fit(module, train, val)
    return kept.best_model_score.item()


exercise.also_right("ImageModule")(image_module("manual"))
exercise.also_right("SequenceModule")(sequence_module(""))
