"""Predictions about gradients: what .grad holds, and which error comes."""

import random

from foundations.predictions import Family, Question

GRAD = "What is it? A number, none, or error."


def twice(rng: random.Random) -> Question:
    a, b = rng.sample(range(2, 9), 2)
    code = f"x = torch.tensor(1.0, requires_grad=True)\n({a} * x).backward()\n({b} * x).backward()\nx.grad.item()"
    return Question(
        code,
        GRAD,
        "backward() adds to .grad: zero_grad() is not decoration.",
        {b: "It is not replaced.", "error": "Two graphs, one backward each."},
    )


def same_graph_twice(rng: random.Random) -> Question:
    power = rng.choice([2, 3])
    value = rng.choice([2.0, 3.0])
    code = f"x = torch.tensor({value}, requires_grad=True)\ny = x ** {power}\ny.backward()\ny.backward()\nx.grad.item()"
    return Question(
        code,
        GRAD,
        "The first backward frees what the graph has saved; the second finds it gone.",
        {12.0: "Only with retain_graph=True."},
    )


def vector(rng: random.Random) -> Question:
    n = rng.randrange(2, 6)
    code = f"x = torch.ones({n}, requires_grad=True)\n(2 * x).backward()\nx.grad.sum().item()"
    return Question(
        code,
        GRAD,
        "backward() without an argument is for a tensor of one entry: sum or average first.",
        {2 * n: "Nothing says how the entries are weighed."},
    )


def non_leaf(rng: random.Random) -> Question:
    factor = rng.randrange(2, 6)
    code = f"x = torch.tensor(1.0, requires_grad=True)\ny = {factor} * x\n(y * y).backward()\ny.grad"
    return Question(
        code,
        GRAD,
        "Only leaves keep their gradient; y.retain_grad() asks for it.",
        {2 * factor: "It was computed and thrown away."},
    )


def in_place_on_leaf(rng: random.Random) -> Question:
    step = rng.choice(["-=", "+=", "*="])
    code = f"w = torch.tensor(1.0, requires_grad=True)\nw {step} 0.5\nw.item()"
    return Question(
        code,
        GRAD,
        "A leaf that requires a gradient may not change in place while autograd records: torch.no_grad().",
        {0.5: "It raises first."},
    )


def detached(rng: random.Random) -> Question:
    a = rng.randrange(2, 6)
    code = f"x = torch.tensor({a}.0, requires_grad=True)\n(x * x.detach()).backward()\nx.grad.item()"
    return Question(
        code,
        GRAD,
        "detach() makes the second factor a constant: the derivative of c x is c.",
        {2 * a: "Only one of the two factors is seen."},
    )


def detach_shares(rng: random.Random) -> Question:
    value = rng.randrange(5, 99)
    code = f"x = torch.zeros(2)\ny = x.detach()\ny[0] = {value}\nx[0].item()"
    return Question(code, GRAD, "detach() forgets the graph, it shares the memory: clone() copies.", {0: "It is no copy."})


def frozen_input(rng: random.Random) -> Question:
    n = rng.randrange(2, 6)
    code = f"layer = nn.Linear({n}, 1)\nx = torch.ones(1, {n})\nlayer(x).sum().backward()\nx.grad"
    return Question(
        code,
        GRAD,
        "x does not require a gradient: only the layer's parameters do.",
        {"error": "The layer's weights have a graph."},
    )


def no_grad_result(rng: random.Random) -> Question:
    factor = rng.randrange(2, 9)
    code = f"x = torch.tensor(1.0, requires_grad=True)\nwith torch.no_grad():\n    y = {factor} * x\ny.backward()\nx.grad"
    return Question(
        code, GRAD, "Under no_grad nothing is recorded: y has no graph to go back through.", {factor: "y was not recorded."}
    )


families: dict[str, Family] = {
    "twice": twice,
    "same_graph_twice": same_graph_twice,
    "vector": vector,
    "non_leaf": non_leaf,
    "in_place_on_leaf": in_place_on_leaf,
    "detached": detached,
    "detach_shares": detach_shares,
    "frozen_input": frozen_input,
    "no_grad_result": no_grad_result,
}
