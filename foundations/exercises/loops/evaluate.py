"""Exercise evaluate: exact for any batches, and without a trace."""

import random
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foundations.comparing import Failure, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Evaluate: the loss and the accuracy of a whole data set",
    level="warm-up",
    minutes=12,
    link="projects.bert_sentiment.module:BertSentimentModule.on_validation_epoch_end",
    why="the logits of all texts are put together before a metric is computed: no mean of means",
    hints=(
        "Add up over samples, divide once at the end. Before: eval() and no_grad(); afterwards: each module's own mode.",
        "loss = sum of all samples' losses / N, accuracy = number of right ones / N, with N = sum of the batches' sizes.",
        'total += F.cross_entropy(logits, labels, reduction="sum").item(); modes = {m: m.training for m in model.modules()}',
    ),
    source="torch.nn:Module.train",
    look_at="train(mode) walks over all children. What becomes of a module that was frozen by eval() before?",
)

Batches = Iterable[tuple[Tensor, Tensor]]


class Classifier(nn.Module):
    """Classifier with dropout and batch normalization; records each forward pass's mode, and whether it has a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 3)
        self.recorded: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 3) of (B, 2)."""
        logits = self.head(self.body(x))
        self.recorded.append((self.body[1].training or self.body[2].training, logits.requires_grad))
        return logits

    @property
    def modes(self) -> dict[str, bool]:
        """Each module's mode by its name."""
        return {name or "model": module.training for name, module in self.named_modules()}


def case(sizes: Sequence[int]) -> tuple[Classifier, list[tuple[Tensor, Tensor]]]:
    """A classifier whose statistics have moved, and batches of the given sizes."""
    torch.manual_seed(0)
    model = Classifier()
    model(3 * torch.randn(16, 2) + 1)
    model.recorded.clear()
    return model, [(torch.randn(size, 2), torch.randint(3, (size,))) for size in sizes]


def run(answer: ModuleType, model: nn.Module, batches: Batches, sizes: Sequence[int]) -> tuple[float, float]:
    """The answer's result. Raises Failure if it raises."""
    try:
        return answer.evaluate(model, batches)
    except NotImplementedError:
        raise
    except Exception as error:
        raise Failure(f"raises {type(error).__name__}", {"batch sizes": list(sizes)}, got=error) from error


def check_sizes(answer: ModuleType, sizes: Sequence[int]) -> None:
    """Compares with one batch of all samples."""
    model, batches = case(sizes)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    model.eval()
    with torch.no_grad():
        logits = model(x)
    expected = F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()
    got = run(answer, model.train(), (batch for batch in batches), sizes)
    shown = {"batch sizes": list(sizes)}
    reason = difference(got, expected, 1e-5, 1e-6)
    check_that(not reason, f"(loss, accuracy){reason}", expected, got, **shown)
    check_that(all(isinstance(value, float) for value in got), "Python floats are expected", expected, got, **shown)


@exercise.property("evaluation mode, no graph")
def modes(answer: ModuleType, rng: random.Random) -> None:
    model, batches = case([2])
    run(answer, model, batches, [2])
    training, graph = (any(values) for values in zip(*model.recorded, strict=True))
    check_that(not training, "a module is in training mode in the forward pass", "evaluation mode", "training mode")
    check_that(not graph, "the forward pass builds a graph", "no graph", "logits that require a gradient")


@exercise.property("batches of one size")
def equal(answer: ModuleType, rng: random.Random) -> None:
    for sizes in ([1], [3], [2, 2, 2]):
        check_sizes(answer, sizes)


@exercise.property("a last, shorter batch")
def unequal(answer: ModuleType, rng: random.Random) -> None:
    for sizes in ([4, 1], [4, 4, 3], [1, 5, 2]):
        check_sizes(answer, sizes)


@exercise.property("an empty batch")
def empty(answer: ModuleType, rng: random.Random) -> None:
    check_sizes(answer, [0, 2])
    check_sizes(answer, [2, 0, 1])


@exercise.property("modes afterwards")
def restored(answer: ModuleType, rng: random.Random) -> None:
    for training, frozen in [(False, False), (True, False), (True, True)]:
        model, batches = case([2, 1])
        model.train(training)
        if frozen:
            model.body.eval()
        before = model.modes
        run(answer, model, batches, [2, 1])
        kind = f"{'train' if training else 'eval'}(){', its body eval()' if frozen else ''}"
        check_that(model.modes == before, "which module is in training mode", before, model.modes, model=kind)


@exercise.property("gradients are recorded as before")
def recording(answer: ModuleType, rng: random.Random) -> None:
    model, batches = case([2])
    run(answer, model, batches, [2])
    recorded, frozen = torch.is_grad_enabled(), [name for name, p in model.named_parameters() if not p.requires_grad]
    torch.set_grad_enabled(True)
    check_that(recorded, "after the call nothing is recorded any more", "recording", "torch.no_grad() for good")
    check_that(not frozen, "parameters do not require a gradient any more", [], frozen)
    model.train()
    model(batches[0][0]).sum().backward()
    with torch.no_grad():
        run(answer, model, batches, [2])
        recorded = torch.is_grad_enabled()
    check_that(not recorded, "called under no_grad(), it switches the recording on", "not recording", "recording")


def evaluate_with(fault: str) -> Callable[[nn.Module, Batches], tuple[float, float]]:
    """Evaluation with one of the known faults."""

    def evaluate(model: nn.Module, batches: Batches) -> tuple[float, float]:
        mode, modes = model.training, [(module, module.training) for module in model.modules()]
        if fault != "training":
            model.eval()
        loss, correct, count, number = 0.0, 0.0, 0, 0
        recorded = torch.is_grad_enabled()
        torch.set_grad_enabled(fault == "graph")
        for x, y in batches:
            logits = model(x)
            value, right = F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float()
            weight = 1 if fault in ("mean_of_means", "sum_of_means") else len(y)
            loss += value * weight if fault == "nan" or len(y) else 0.0
            correct += right.mean().item() if fault == "mean_of_means" else right.sum().item()
            count, number = count + len(y), number + 1
        if fault != "never_recording":
            torch.set_grad_enabled(fault == "always_recording" or recorded)
        if fault == "always_train":
            model.train()
        elif fault == "one_mode":
            model.train(mode)
        elif fault != "left_in_eval":
            for module, own in modes:
                module.training = own
        total = number if fault == "mean_of_means" else count
        return loss / total, correct / total

    return evaluate


exercise.wrong(
    "evaluate",
    "A mean of the batches' means: the samples of a short last batch count for more than the others.",
    seen="https://github.com/pytorch/tutorials/pull/1536",
)(evaluate_with("mean_of_means"))
exercise.wrong(
    "evaluate",
    "The sum of the batches' mean losses is divided by the number of samples: too small by the size of a batch.",
    seen="https://github.com/pytorch/tutorials/issues/1486",
)(evaluate_with("sum_of_means"))
exercise.wrong(
    "evaluate", "eval() does not stop the recording of gradients: a graph is built for every batch. Use torch.no_grad()."
)(evaluate_with("graph"))
exercise.wrong("evaluate", "eval() is missing: dropout and the batch's own statistics are in the result.")(
    evaluate_with("training")
)
exercise.wrong("evaluate", "The model is left in evaluation mode: the next epoch would train without dropout.")(
    evaluate_with("left_in_eval")
)
exercise.wrong("evaluate", "train() at the end, whatever it was before: a model that was in evaluation mode would train.")(
    evaluate_with("always_train")
)
exercise.wrong(
    "evaluate",
    "train(mode) gives all modules the mode of the outermost: a part that was frozen by eval() trains from now on.",
)(evaluate_with("one_mode"))
exercise.wrong("evaluate", "The mean loss of an empty batch is nan, and nan * 0 is nan: add up sums of losses.")(
    evaluate_with("nan")
)
exercise.wrong("evaluate", "Recording is switched off and never on again: use `with torch.no_grad():`.")(
    evaluate_with("never_recording")
)
exercise.wrong(
    "evaluate", "Recording is on at the end, whatever it was before: who calls under no_grad() records from now on."
)(evaluate_with("always_recording"))
exercise.also_right("evaluate")(evaluate_with(""))


@exercise.also_right("evaluate")
@torch.inference_mode()
def all_logits_at_once(model: nn.Module, batches: Batches) -> tuple[float, float]:
    training = [module for module in model.modules() if module.training]
    pairs = [(model.eval()(inputs), target) for inputs, target in batches]
    scores, target = torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])
    for module in training:
        module.training = True
    losses = scores.logsumexp(-1) - torch.einsum("nk,nk->n", scores, F.one_hot(target, scores.shape[-1]).float())
    return losses.mean().item(), scores.max(-1).indices.eq(target).double().mean().item()
