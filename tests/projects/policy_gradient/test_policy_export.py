"""Export: the folder and its ONNX act as the checkpoint does, from raw observations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from projects.policy_gradient import export
from projects.policy_gradient.environments import inspect_env
from projects.policy_gradient.inference import load
from projects.policy_gradient.module import PolicyGradientModule
from trained import run_onnx, save_checkpoint


@pytest.mark.parametrize(("id", "kwargs"), [("CartPole-v1", {}), ("Pendulum-v1", {}), ("Scripted-v0", {"masked": True})])
def test_an_exported_policy_acts_as_its_checkpoint(id, kwargs, tmp_path):
    pytest.importorskip("onnxscript")
    info = inspect_env(id, kwargs)
    module = PolicyGradientModule(info.obs_dim, info.action_dim, info.discrete, normalize_observations=True)
    observations = torch.randn(20, info.obs_dim) * 5 + 3
    module.obs_rms.update(torch.tensor(20.0), observations.mean(0).double(), observations.var(0).double())
    module.policy.mlp[-1].weight.data.mul_(300)  # else all actions are alike
    environment = {"environment": {"id": id, "kwargs": kwargs}}
    checkpoint = save_checkpoint(tmp_path / "best.ckpt", module, "policy_gradient", **environment)
    assert export.main(["--checkpoint", str(checkpoint), "--to", str(tmp_path / "model")]) == 0
    agent, again = load(checkpoint), load(tmp_path / "model")
    assert info.has_action_masks == bool(kwargs)
    masks = np.random.default_rng(0).random((20, info.action_dim)) < 0.7 if info.has_action_masks else None
    if masks is not None:
        masks[:, 0] = True
    expected = agent(observations, masks)
    np.testing.assert_array_equal(again(observations, masks), expected)
    inputs = {"observations": observations} if masks is None else {"observations": observations, "action_masks": masks}
    (found,) = run_onnx(tmp_path / "model" / "model.onnx", **inputs)
    if not info.discrete:
        assert found.shape == expected.shape and found.dtype == expected.dtype and np.unique(found).size > 5
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        return
    log_probs, _ = module.policy(
        module.obs_rms(observations).repeat_interleave(info.action_dim, 0),
        torch.arange(info.action_dim).repeat(20),
        None if masks is None else torch.from_numpy(masks).repeat_interleave(info.action_dim, 0),
    )
    np.testing.assert_allclose(found, log_probs.exp().view(20, -1).detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.argmax(1) + info.low, expected)
