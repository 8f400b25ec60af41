"""Distributed ranks, as far as the environment tells them: before there is a Trainer, and without torch."""

import os

RANK_VARIABLES = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")  # of torchrun, SLURM and Lightning's launcher


def is_global_zero() -> bool:
    """Whether this is the process of rank 0."""
    return all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES)


def print_rank_zero(text: str) -> None:
    """Prints a line, on rank 0 only."""
    if is_global_zero():
        print(text, flush=True)
