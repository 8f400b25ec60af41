"""Functions that would give an exercise away, in another library too."""

import pytest

from foundations.sandbox import run_sandboxed


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
