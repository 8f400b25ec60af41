"""Short flags: the command line's arguments as LightningCLI expects them."""

from __future__ import annotations

import itertools
from collections import deque
from pathlib import Path

# short flag -> trainer setting; `--help` shows each with the type and sentence given here
TRAINER_FLAGS: dict[str, tuple[str, str]] = {
    "accelerator": ("auto|cpu|gpu|...", "What to train on; auto takes a GPU if there is one."),
    "devices": ("int|list|auto", "How many devices (or which): processes on a CPU, GPUs otherwise."),
    "num_nodes": ("int", "How many machines take part."),
    "strategy": ("auto|ddp|...", "How several devices share the work; ddp gives each its part of every batch."),
    "precision": (
        "32-true|bf16-mixed|...",
        "Number format; unset, bf16-mixed where the hardware has it, else 32-true.",
    ),
    "max_epochs": ("int", "Passes over the training data."),
    "max_steps": ("int", "Optimizer steps, if training is to stop before max_epochs."),
    "fast_dev_run": ("bool|int", "One batch (or as many) of train, validation and test, writing nothing."),
}
SWITCHES = ("--wandb", "--fast_dev_run")  # mean true where no value follows


def normalize_arguments(args: list[str], default_recipe: Path | None) -> list[str]:
    """Short flags to `--trainer.*`, and every `--config` in front, so that a flag wins wherever it stands.

    >>> normalize_arguments(["--devices", "2", "--config", "x.yaml"], None)
    ['--config', 'x.yaml', '--trainer.devices', '2']
    """
    configs: list[str] = []
    rest: list[str] = []
    words = deque(args)
    while words:
        flag, equals, value = words.popleft().partition("=")
        if flag in SWITCHES and not equals and (not words or words[0].startswith("-")):
            equals, value = "=", "true"
        if flag in ("--config", "-c"):
            configs += ["--config", value if equals or not words else words.popleft()]
        else:
            short = flag.startswith("--") and flag[2:] in TRAINER_FLAGS
            rest.append(f"{'--trainer.' + flag[2:] if short else flag}{equals}{value}")
    if not configs and default_recipe is not None:
        configs = ["--config", str(default_recipe)]
    return configs + rest


def flag_values(args: list[str]) -> dict[str, str]:
    """What stands behind each flag, after a space or an equals sign."""
    return dict(itertools.pairwise([*args, ""])) | dict(arg.split("=", 1) for arg in args if "=" in arg)
