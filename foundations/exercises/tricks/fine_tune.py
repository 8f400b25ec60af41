"""Exercise fine_tune: a pretrained body under a new head."""

import random
from collections import OrderedDict
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import Failure, call, check_raises, check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Fine-tuning: a pretrained body, a new head, and nothing of the body moves",
    level="core",
    minutes=20,
    link="projects.bert_sentiment.networks:freeze_layers",
    why="the embeddings and the lowest layers of BERT can be frozen",
    hints=(
        "Keep of the state what fits by name and shape. Then: no gradients for the body, no training mode for the body, "
        "and an optimizer that does not know it.",
        "train() reaches every submodule, so the body's eval() comes after it; requires_grad_(False) leaves old gradients.",
        "model.body.requires_grad_(False); model.train(); model.body.eval(); make_optimizer(list(model.head.parameters()))",
    ),
    source="torch.nn:Module.load_state_dict",
    look_at="strict=False forgives names that are missing. What does it do about an entry of another shape?",
)


class Model(nn.Module):
    """Body with batch normalization and dropout, and a head with dropout; remembers the modes in which it was called."""

    def __init__(self, classes: int = 2, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
            self.head = nn.Sequential(nn.Dropout(0.0), nn.Linear(2, classes))
        self.body_modes: list[bool] = []
        self.head_modes: list[bool] = []
        self.body[1].register_forward_pre_hook(lambda module, inputs: self.body_modes.append(module.training))
        self.head[0].register_forward_pre_hook(lambda module, inputs: self.head_modes.append(module.training))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def small(names: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """State dict with entries of the given shapes."""
    rng = torch.Generator().manual_seed(seed)
    return OrderedDict((name, torch.randn(shape, generator=rng)) for name, shape in names.items())


class Tiny(nn.Module):
    """Parameters of the given names, `part.name`, and shapes."""

    def __init__(self, names: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in names.items():
            part, _, rest = name.partition(".")
            if not hasattr(self, part):
                self.add_module(part, nn.Module())
            setattr(getattr(self, part), rest, nn.Parameter(torch.zeros(shape)))


def check_loading(answer: ModuleType, state: dict[str, Tensor], own: dict[str, tuple[int, ...]], prefix: str = "") -> None:
    """Loads `state`, its names after `prefix`, into a model with the entries `own`, and compares what arrived."""
    model = Tiny(own)
    renamed = OrderedDict((prefix + name, value.clone()) for name, value in state.items())
    shown = {
        "model": {name: tuple(shape) for name, shape in own.items()},
        "state": {n: tuple(v.shape) for n, v in renamed.items()},
    }
    fits = {name for name in own if name in state and state[name].shape == own[name]}
    try:
        result = answer.load_body(model, renamed)
    except NotImplementedError:
        raise
    except Exception as error:
        raise Failure(f"raises {type(error).__name__}", shown, got=error) from error
    expected = (sorted(own.keys() - fits), sorted(state.keys() - fits))
    for name, value in model.state_dict().items():
        want = state[name] if name in fits else torch.zeros(own[name])
        reason = difference(value, want, 0.0, 0.0)
        check_that(not reason, f"{name} after loading: {reason}", want, value, **shown)
    got = tuple(list(names) for names in result) if isinstance(result, tuple | list) and len(result) == 2 else result
    check_that(got == expected, "the names that were not loaded, and not used", expected, got, **shown)
    check_that(list(renamed) == [prefix + name for name in state], "the state has changed", **shown)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    same = all(torch.equal(value, state[name]) for name, value in zip(state, renamed.values(), strict=True))
    check_that(same, "the model shares memory with the state: training one would change the other", **shown)


BODY = {"body.w": (2,), "body.embed": (1, 2)}


@exercise.property("loading")
def loading(answer: ModuleType, rng: random.Random) -> None:
    check_loading(answer, small(BODY, 0), BODY)
    check_loading(answer, small({"body.w": (2,)}, 0), {"body.w": (2,), "head.w": (1,)})
    check_loading(answer, small({**BODY, "head.b": (1,)}, 1), {**BODY, "head.w": (2,)})


@exercise.property("loading: names with module.")
def prefixes(answer: ModuleType, rng: random.Random) -> None:
    check_loading(answer, small({**BODY, "head.b": (1,)}, 0), {**BODY, "head.w": (2,)}, "module.")
    own = {"embed.w": (2,), "decoder.module": (1,)}
    check_loading(answer, small(own, 2), own, "module.")


@exercise.property("loading: a head of another size")
def sizes(answer: ModuleType, rng: random.Random) -> None:
    check_loading(answer, small({**BODY, "head.w": (3,)}, 0), {**BODY, "head.w": (2,)})
    check_loading(answer, small({"body.w": (1,), "body.embed": (1, 2)}, 1), BODY)  # neither is broadcast
    model = Model(3)
    pretrained = Model(2, seed=1).state_dict()
    pretrained["body.1.num_batches_tracked"] += 7
    result = call(answer.load_body, model, pretrained)
    check_that(model.body[1].num_batches_tracked == 7, "buffers are loaded, too")
    check_that([list(names) for names in result] == [["head.1.bias", "head.1.weight"]] * 2, "the names", got=result)


@exercise.property("loading nothing raises ValueError")
def nothing(answer: ModuleType, rng: random.Random) -> None:
    check_raises(answer.load_body, Tiny(BODY), small({"encoder.w": (2,)}, 0), error=ValueError)
    check_raises(answer.load_body, Tiny(BODY), {}, error=ValueError)


def run(answer: ModuleType, options: dict[str, float], old: bool, mode: str, steps: int = 10) -> None:
    """Fine-tunes a model with gradients from before, and compares body, head, losses and modes."""
    model, reference = Model(), Model()
    generator = torch.Generator().manual_seed(steps)
    batches = [(torch.randn(5, 3, generator=generator) + 1, torch.arange(5) % 2) for _ in range(steps)]
    for one in (model, reference):
        one.train(mode == "train")
    if old:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in model.body.state_dict().items()}
    shown: dict[str, Any] = {"steps": steps, **options, "old gradients": old, "mode before": mode}
    losses = answer.fine_tune(model, iter(batches), lambda parameters: torch.optim.SGD(parameters, lr=0.1, **options))
    for name, value in model.body.state_dict().items():
        reason = difference(value, before[name], 0.0, 0.0)
        check_that(not reason, f"body.{name} has moved: {reason}", before[name], value, **shown)
    check_that(not any(model.body_modes), "the body was in training mode in a step", **shown)
    check_that(all(model.head_modes), "the head was in evaluation mode in a step", **shown)
    wanted = []
    reference.eval()
    optimizer = torch.optim.SGD(reference.head.parameters(), lr=0.1, **options)
    for x, y in batches:
        loss = nn.functional.cross_entropy(reference(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    reason = difference(losses, wanted, 1e-4, 1e-5)
    check_that(not reason, f"the losses: {reason}", wanted, losses, **shown)
    for (name, value), want in zip(model.head.state_dict().items(), reference.head.state_dict().values(), strict=True):
        reason = difference(value, want, 1e-4, 1e-5)
        check_that(not reason, f"head.{name}: {reason}", want, value, **shown)
    asked = [name for name, parameter in model.body.named_parameters() if parameter.requires_grad]
    check_that(not asked, "parameters of the body require a gradient afterwards", [], asked, **shown)


@exercise.property("nothing of the body moves")
def frozen(answer: ModuleType, rng: random.Random) -> None:
    run(answer, {}, old=False, mode="eval", steps=1)
    run(answer, {}, old=False, mode="train", steps=1)


@exercise.property("… with old gradients, momentum and weight decay")
def old_gradients(answer: ModuleType, rng: random.Random) -> None:
    run(answer, {}, old=True, mode="train", steps=1)
    run(answer, {"momentum": 0.9, "weight_decay": 0.1}, old=True, mode="eval")
    run(answer, {"momentum": 0.9}, old=True, mode="train")


def load_with(fault: str) -> Any:
    """load_body with one of the known faults."""

    def load_body(model: nn.Module, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
        if fault == "strict_false":
            result = model.load_state_dict(state, strict=False)
            return sorted(result.missing_keys), sorted(result.unexpected_keys)
        if fault == "lstrip":
            state = {name.lstrip("module."): value for name, value in state.items()}
        if fault == "replaced":
            state = {name.replace("module.", ""): value for name, value in state.items()}
        state = {name.removeprefix("module."): value for name, value in state.items()}
        own = model.state_dict()
        fitting = {k: v for k, v in state.items() if k in own and (v.shape == own[k].shape or fault == "any_shape")}
        if not fitting and fault != "silent":
            raise ValueError("nothing fits")
        if fault == "any_shape":
            model.load_state_dict(fitting, strict=False)
        for name, value in fitting.items():
            if fault == "shared":
                dict(model.named_parameters())[name].data = value
            else:
                own[name].copy_(value)
        return sorted(own.keys() - fitting.keys()), sorted(state.keys() - fitting.keys())

    return load_body


def tune_with(fault: str) -> Any:
    """fine_tune with one of the known faults."""

    def fine_tune(model: nn.Module, batches: Any, make_optimizer: Any) -> list[float]:
        model.body.requires_grad_(fault == "optimizer_only")
        if fault == "all_eval":
            model.eval()
        elif fault == "mode_left":
            model.head.train()
        else:
            model.body.eval()
            model.train()
            if fault != "statistics":
                model.body.eval()
        trained = model.parameters() if fault in ("all", "zeros") else model.head.parameters()
        optimizer = make_optimizer(list(trained))
        losses = []
        for x, y in batches:
            loss = nn.functional.cross_entropy(model(x), y)
            if fault != "all":
                optimizer.zero_grad(set_to_none=fault != "zeros")
            loss.backward()
            optimizer.step()
            if fault == "all":
                optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    return fine_tune


exercise.wrong(
    "load_body", "strict=False says nothing: names with `module.` before them fit nowhere, and nothing is loaded."
)(load_with("strict_false"))
exercise.wrong(
    "load_body", "lstrip takes letters away, not a prefix: all of m, o, d, u, l, e and the dot. Use removeprefix."
)(load_with("lstrip"))
exercise.wrong(
    "load_body", "An entry of another shape: load_state_dict raises, strict=False or not. Leave such entries out."
)(load_with("any_shape"))
exercise.wrong("load_body", "Nothing fits and nobody is warned: the model would train from random weights.")(
    load_with("silent")
)
exercise.wrong("load_body", "The model's tensors are those of the state itself: copy the values.")(load_with("shared"))
exercise.wrong(
    "fine_tune",
    "The parameters are frozen, but batch normalization in training mode moves its running statistics. train() reaches "
    "every submodule: the body's eval() has to come after it.",
)(tune_with("statistics"))
exercise.wrong("fine_tune", "The body is left in the mode that it came in: put it into evaluation mode yourself.")(
    tune_with("mode_left")
)
exercise.wrong(
    "fine_tune", "The optimizer has the body's parameters, and an old gradient moves one that requires none any more."
)(tune_with("all"))
exercise.wrong(
    "fine_tune",
    "A gradient of zeros is still a gradient: weight decay and momentum move the body. Give the optimizer the head alone.",
)(tune_with("zeros"))
exercise.wrong("fine_tune", "The head is in evaluation mode: its dropout is off while it trains.")(tune_with("all_eval"))
exercise.wrong("fine_tune", "The body still requires gradients: they are computed in each step, for nothing.")(
    tune_with("optimizer_only")
)


@exercise.also_right("load_body")
def by_copy(model, state):
    taken, unused = set(), []
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, value in state.items():
        name = name[7:] if name.startswith("module.") else name
        if name in own and own[name].size() == value.size():
            with torch.no_grad():
                own[name].copy_(value)
            taken.add(name)
        else:
            unused.append(name)
    if len(taken) == 0:
        raise ValueError
    return sorted(set(own) - taken), sorted(unused)


@exercise.also_right("fine_tune")
def with_features_first(model, batches, make_optimizer):
    for parameter in model.body.parameters():
        parameter.requires_grad, parameter.grad = False, None
    optimizer, losses = make_optimizer([p for p in model.parameters() if p.requires_grad]), []
    for x, y in batches:
        model.train()
        for module in model.body.modules():
            module.training = False
        optimizer.zero_grad()
        with torch.no_grad():
            features = model.body(x)
        value = -model.head(features).log_softmax(1)[torch.arange(len(y)), y].mean()
        value.backward()
        optimizer.step()
        losses += [float(value.detach())]
    return losses
