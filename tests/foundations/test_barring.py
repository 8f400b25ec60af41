"""Barred functions: torch can still be imported around them; a learner's code cannot get past them."""

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
