"""Barred functions: torch itself is whole around them; a learner cannot get past them, nor by another library."""

import pytest

from foundations.sandbox import run_sandboxed

CODE = """
import torch
from torch._ops import OpOverloadPacket
from foundations.barring import Barred, barred

def use(x):
    return {use}

before = torch.ops.aten.relu
with barred(["relu"], {folders!r}):
    after = torch.ops.aten.relu
    assert after is not before and isinstance(after, OpOverloadPacket)
    assert after == before and before == after and hash(after) == hash(before) and repr(after) == repr(before)
    assert eval("torch.ops.aten.relu.overloads()") == before.overloads()
    assert eval("torch.ops.aten.relu.default") is before.default, "as torch's own modules see it"
    exec(compile("def of_learner(x): return {use}", "/of_learner/relu.py", "exec"))
    try:
        print(of_learner(torch.tensor([-1.0, 2.0])).tolist())
    except Barred as error:
        print(error)
"""


@pytest.mark.parametrize("use", ["torch.ops.aten.relu(x)", "torch.ops.aten.relu.default(x)", "torch.relu(x)", "x.relu()"])
def test_operators_are_barred_for_a_learner_and_whole_for_torch(use):
    result = run_sandboxed("builtins:exec", CODE.format(use=use, folders=["/of_learner"]), {}, seconds=20)
    assert result.ended == "" and "is what this exercise builds" in result.printed, result
    result = run_sandboxed("builtins:exec", CODE.format(use=use, folders=["/elsewhere"]), {}, seconds=20)
    assert result.ended == "" and result.printed == "[0.0, 2.0]\n", result


@pytest.mark.parametrize(
    "imported, call",
    [
        ("import numpy as np", "np.broadcast_shapes(a, b)"),
        ("from numpy import broadcast_shapes as shapes", "shapes(a, b)"),
        ("import numpy as np", "np.broadcast_arrays(np.empty(a), np.empty(b))[0].shape"),
        ("import torch", "tuple(torch.broadcast_shapes(a, b))"),
    ],
)
def test_shape_of_a_sum_is_not_asked_of_a_library(imported, call, tmp_path):
    file = tmp_path / "broadcast_shapes.py"
    file.write_text(f"{imported}\n\n\ndef broadcast_shapes(a, b):\n    return {call}\n")
    result = run_sandboxed("foundations.worker:check_file", "broadcast_shapes", str(file), {}, seconds=60)
    assert result.value.reason == "uses a function that is barred here", result
