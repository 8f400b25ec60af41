"""Exercise init_and_hooks: what flows through a network, and how it begins."""

import contextlib
import random
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from foundations.comparing import check_that, difference
from foundations.exercise import Exercise

exercise = Exercise(
    title="Initialization and hooks: look at what flows through a network",
    level="core",
    minutes=25,
    link="common.callbacks.activations:ActivationStats",
    why="every run logs each layer's fraction of dead units this way",
    hints=(
        "register_forward_hook(f) calls f(module, inputs, output) after each forward, and returns a handle to remove it.",
        "Dead: the fraction of outputs that are exactly 0. He's initialization: variance 2 / in_features.",
        "try: yield stats, finally: remove each handle; weight.normal_(0, (2 / in_features) ** 0.5, generator=rng)",
    ),
    source="torch.nn:Module.register_forward_hook",
    look_at="What happens to the output if the hook returns something? Look at _call_impl, too.",
    barred=("torch.nn.init.kaiming_normal_", "torch.nn.init.kaiming_uniform_"),
)


def network() -> nn.Module:
    """A small network with a module inside of a module."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))


def hooks_of(model: nn.Module) -> int:
    """Number of forward hooks in a model."""
    return sum(len(module._forward_hooks) for module in model.modules())


@exercise.property("statistics of each leaf module")
def statistics(answer: ModuleType, rng: random.Random) -> None:
    model, x = network(), torch.randn(5, 3)
    with answer.activation_stats(model) as stats:
        model(x)
    values, expected = x, {}
    for name, module in (("0", model[0]), ("1", model[1]), ("2.0", model[2][0])):
        values = module(values).detach()
        expected[name] = (values.mean().item(), values.std(correction=0).item(), (values == 0).float().mean().item())
    check_that(sorted(stats) == sorted(expected), "names of the modules", sorted(expected), sorted(stats))
    for name, want in expected.items():
        reason = difference(tuple(map(float, stats[name])), want, 1e-4, 1e-5)
        check_that(not reason, f"(mean, std, zeros) of {name!r}: {reason}", want, stats[name])


@exercise.property("the model gives what it gave, and no hook is left")
def harmless(answer: ModuleType, rng: random.Random) -> None:
    model, x = network(), torch.randn(5, 3)
    before = model(x)
    with answer.activation_stats(model):
        inside = model(x)
    check_that(torch.equal(before, inside), "the output differs inside of the context", before, inside)
    check_that(hooks_of(model) == 0, "hooks are left after the context", 0, hooks_of(model))
    with contextlib.suppress(ZeroDivisionError), answer.activation_stats(model):
        raise ZeroDivisionError
    check_that(hooks_of(model) == 0, "hooks are left after an exception in the context", 0, hooks_of(model))


@exercise.property("no graph is kept, gradients still flow")
def graphs(answer: ModuleType, rng: random.Random) -> None:
    model, x = network(), torch.randn(5, 3)
    with answer.activation_stats(model) as stats:
        model(x).sum().backward()
    check_that(all(p.grad is not None for p in model.parameters()), "the gradient does not reach the parameters")
    kept = [name for name, values in stats.items() for value in values if isinstance(value, Tensor) and value.requires_grad]
    check_that(not kept, "statistics with a graph", "numbers", kept)


@exercise.property("thirty layers begin alive")
def deep(answer: ModuleType, rng: random.Random) -> None:
    layers = [part for _ in range(30) for part in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 200, bias=False), nn.LayerNorm(200))
    norm = model[-1].state_dict()
    answer.init_relu_network(model, torch.Generator().manual_seed(0))
    x, sizes = torch.randn(256, 64, generator=torch.Generator().manual_seed(1)), []
    with torch.no_grad():
        for part in model[:60]:
            x = part(x)
            if isinstance(part, nn.Linear):
                sizes.append(x.std().item())
    check_that(
        all(0.5 < size < 2.5 for size in sizes), "standard deviation before each ReLU", "between 0.5 and 2.5", sizes[::6]
    )
    check_that(not any(part.bias.any() for part in model[:60:2]), "the biases do not begin at zero")
    weight = model[60].weight
    check_that(
        abs(weight.std().item() - (2 / 64) ** 0.5) < 0.02, "std of a weight (200, 64)", (2 / 64) ** 0.5, weight.std().item()
    )
    check_that(
        all(torch.equal(norm[k], v) for k, v in model[-1].state_dict().items()), "another module than nn.Linear was changed"
    )
    other = nn.Sequential(nn.Linear(64, 64))
    answer.init_relu_network(other, torch.Generator().manual_seed(0))
    check_that(torch.equal(other[0].weight, model[0].weight), "the same generator gives other weights: take all from it")


Stats = dict[str, Any]


def stats_with(fault: str) -> Any:
    """The context manager with one of the known faults."""

    @contextlib.contextmanager
    def activation_stats(model: nn.Module) -> Iterator[Stats]:
        stats: Stats = {}
        handles = []
        for name, module in model.named_modules():
            if list(module.children()) and fault != "parents":
                continue

            def hook(module: nn.Module, inputs: Any, output: Tensor, name: str = name) -> Tensor | None:
                values = output if fault == "graph" else output.detach()
                numbers = values.mean(), values.std(correction=1 if fault == "unbiased" else 0), (values == 0).float().mean()
                stats[name] = numbers if fault == "graph" else tuple(number.item() for number in numbers)
                return output.clamp(min=0) if fault == "returns" else None

            handles.append(module.register_forward_hook(hook))
        if fault == "left":
            yield stats
        elif fault == "no_finally":
            yield stats
            for handle in handles:
                handle.remove()
        else:
            try:
                yield stats
            finally:
                for handle in handles:
                    handle.remove()

    return activation_stats


exercise.wrong("activation_stats", "The hooks are never removed: every later forward pass runs them too.")(
    stats_with("left")
)
exercise.wrong("activation_stats", "After an exception the hooks stay: remove them in a finally.")(stats_with("no_finally"))
exercise.wrong("activation_stats", "The statistics hold the graph of the forward pass: detach, and take numbers by item().")(
    stats_with("graph")
)
exercise.wrong("activation_stats", "What a hook returns replaces the output: return None.")(stats_with("returns"))
exercise.wrong("activation_stats", "Modules with children are recorded as well: only leaf modules are asked for.")(
    stats_with("parents")
)
exercise.also_right("activation_stats")(stats_with(""))


def init_with(variance: Any) -> Any:
    """Initialization of a given variance, as a function of in and out features."""

    @torch.no_grad()
    def init_relu_network(model: nn.Module, rng: torch.Generator) -> None:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                std = variance(module.in_features, module.out_features) ** 0.5
                module.weight.copy_(torch.randn(module.weight.shape, generator=rng) * std)
                if module.bias is not None:
                    module.bias.zero_()

    return init_relu_network


exercise.wrong("init_relu_network", "Half of the variance is lost in each ReLU: 2 / in_features, not 1 / in_features.")(
    init_with(lambda i, o: 1 / i)
)
exercise.wrong("init_relu_network", "A standard deviation of 0.01 for every layer: after thirty nothing is left.")(
    init_with(lambda i, o: 1e-4)
)
exercise.wrong("init_relu_network", "A variance of 1 makes the activations grow eightfold in each layer of 64.")(
    init_with(lambda i, o: 1.0)
)
exercise.wrong("init_relu_network", "The forward pass wants the fan-in: 2 / in_features, not 2 / out_features.")(
    init_with(lambda i, o: 2 / o)
)
exercise.also_right("init_relu_network")(init_with(lambda i, o: 2 / i))
