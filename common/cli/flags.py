"""Short flags, expanded to the arguments that LightningCLI expects."""

from __future__ import annotations

import itertools
from collections import deque
from pathlib import Path

# short flag -> its type and sentence in `--help`; each means the Trainer's argument of that name
TRAINER_FLAGS: dict[str, tuple[str, str]] = {
    "accelerator": ("auto|cpu|gpu|...", "Device type; auto takes a GPU if there is one."),
    "devices": ("int|list|auto", "Number of devices (or which): processes on a CPU, GPUs otherwise."),
    "num_nodes": ("int", "Number of machines."),
    "strategy": ("auto|ddp|...", "Distributed strategy; ddp gives each device its shard of every batch."),
    "precision": (
        "32-true|bf16-mixed|...",
        "Number format; unset, bf16-mixed where the hardware has it, else 32-true.",
    ),
    "max_epochs": ("int", "Passes over the training data."),
    "max_steps": ("int", "Optimizer steps, if training is to stop before max_epochs."),
    "fast_dev_run": ("bool|int", "One batch (or as many) of train, validation and test, writing nothing."),
}
MAX_INTEGER = 2**62  # above it an integer fits no tensor
# the least that a number of the Trainer may be: it would take others, or end in a traceback
TRAINER_MINIMA: dict[str, int] = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "fast_dev_run": 0,
    "gradient_clip_val": 0,
    "limit_predict_batches": 0,
    "limit_test_batches": 0,
    "limit_train_batches": 0,
    "limit_val_batches": 0,
    "log_every_n_steps": 0,
    "max_epochs": -1,
    "max_steps": -1,
    "min_epochs": 0,
    "min_steps": 0,
    "num_nodes": 1,
    "num_sanity_val_steps": -1,
    "overfit_batches": 0,
    "reload_dataloaders_every_n_epochs": 0,
    "val_check_interval": 0,
}
SWITCHES = ("--wandb", "--wandb_artifact", "--fast_dev_run")  # true where no value follows


def normalize_arguments(args: list[str], default_recipe: Path | None) -> list[str]:
    """Arguments with short flags as `--trainer.*`, and every `--config` in front, so that flags override files.

    >>> normalize_arguments(["--devices", "2", "--config", "x.yaml"], None)
    ['--config', 'x.yaml', '--trainer.devices', '2']
    """
    configs: list[str] = []
    rest: list[str] = []
    queue = deque(args)
    while queue:
        flag, equals, value = queue.popleft().partition("=")
        if flag in SWITCHES and not equals and (not queue or queue[0].startswith("-")):
            equals, value = "=", "true"
        if flag in ("--config", "-c"):
            configs += ["--config", value if equals or not queue else queue.popleft()]
        else:
            short = flag.startswith("--") and flag[2:] in TRAINER_FLAGS
            rest.append(f"{'--trainer.' + flag[2:] if short else flag}{equals}{value}")
    if not configs and default_recipe is not None:
        configs = ["--config", str(default_recipe)]
    return configs + rest


def flag_values(args: list[str]) -> dict[str, str]:
    """Flag -> its value, after a space or an equals sign."""
    return dict(itertools.pairwise([*args, ""])) | dict(arg.split("=", 1) for arg in args if "=" in arg)
