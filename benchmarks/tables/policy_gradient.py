"""Tables of the policy-gradient capstone: results of each recipe, and the benchmark."""

from __future__ import annotations

from typing import Any

import yaml

from benchmarks import results
from benchmarks.tables.cells import comparison_table, duration, hardware, markdown_table

RECIPES = ["default", "reinforce", "acrobot", "lunarlander", "pendulum"]


def merge_runs(recipe: str) -> dict[str, Any]:
    """Runs of a recipe as one result. They stop at the reward threshold, so that their steps differ from seed to seed."""
    runs = list(results.read_result(f"policy_gradient-{recipe}")["runs"].values())
    path = results.RESULTS.parent / "projects" / "policy_gradient" / "recipes" / f"{recipe}.yaml"
    data = yaml.safe_load(path.read_text())["data"]
    metrics = [
        {
            **run["test"],
            "train_seconds": run["train_seconds"],
            "environment_steps": environment_steps(run, data["num_envs"] * data["num_steps"]),
        }
        for run in runs
    ]
    return {
        "data_source": runs[0]["data_source"],
        "device": runs[0]["device"],
        "seeds": [int(run["command"].partition("--seed ")[2].split()[0]) for run in runs],
        **results.statistics_over_seeds(metrics),
    }


def environment_steps(run: dict[str, Any], rollout_size: int) -> int:
    """Transitions that a run has counted; where it has not, the steps of its rollouts, with those that reset."""
    return int(run.get("metadata", {}).get("environment_steps", rollout_size * run["steps"]))


def results_table() -> str:
    """Mean return, environment steps and training time, over seeds."""
    header = ["recipe", "environment", "mean return", "worst seed", "environment steps", "maximum", "training time"]
    header += ["maximum", "seeds", "hardware"]
    body = []
    for recipe in RECIPES:
        result = merge_runs(recipe)
        mean, per_seed = result["mean"], result["per_seed"]
        row = [f"`{recipe}`", f"`{result['data_source']}`"]
        row += [f"{mean['test/return_mean']:.1f} ± {result['std']['test/return_mean']:.1f}"]
        row += [f"{min(per_seed['test/return_mean']):.1f}"]
        steps = (mean["environment_steps"], max(per_seed["environment_steps"]))
        row += [f"{count / 1000:,.0f}k" for count in steps]
        row += [duration(seconds) for seconds in (mean["train_seconds"], max(per_seed["train_seconds"]))]
        body.append([*row, str(len(result["seeds"])), hardware(result)])
    return markdown_table(header, body)


def benchmark_table() -> str:
    """Results of `benchmarks/policy_gradient.py`."""
    result = results.read_result("policy_gradient-benchmark")
    body = []
    for key, name in [("cartpole", "CartPole"), ("lunarlander", "LunarLander")]:
        measured = result[key]
        for ours, ratio, steps in [("ours", "ratio", 128), ("ours_short", "short_ratio", 5)]:
            title = f"{name}, environment steps per second, rollouts of {steps} steps"
            row = [f"{measured[ours]:,.0f}", f"{measured['a2c']:,.0f}", f"{measured[ratio]:.1f}×"]
            body.append([title, "A2C, rollouts of 5 steps", *row])
    time, loop = result["time_to_475"], result["loop"]
    reached = ", ".join(f"{time[side]['reached']} of {time['seeds']}" for side in ("ours", "ppo"))
    title = f"CartPole, training time to a mean return of {time['target']:.0f}, median of the seeds ({reached})"
    body.append(
        [title, "PPO", *(duration(time[side]["median_seconds"]) for side in ("ours", "ppo")), f"{time['ratio']:.1f}×"]
    )
    step_ms = [f"{loop[side]:.1f} ms" for side in ("trainer_step_ms", "plain_step_ms")]
    body.append(["rollout and update with all callbacks", "plain PyTorch loop", *step_ms, f"{loop['median_of_ratios']:.3f}"])
    return comparison_table(result, body)
