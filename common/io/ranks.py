"""Global rank: as the environment has it, until `common.run.rendezvous` has asked Lightning. Needs no torch."""

import os
import sys

from common.errors import OtherProcessFailed, UserError

_rank: int | None = None


def set_global_rank(rank: int) -> None:
    """Sets the rank that Lightning's cluster environment has found."""
    global _rank
    _rank = rank


def guess_global_zero() -> bool:
    """Whether the environment's variables say that this is the process of rank 0: torchrun's, SLURM's or Lightning's."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        return environment.get("RANK") == "0"
    if "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return environment.get("SLURM_PROCID", "0") == "0"
    node = environment.get("NODE_RANK", environment.get("GROUP_RANK", "0"))
    return node == "0" and environment.get("LOCAL_RANK", "0") == "0"


def is_global_zero() -> bool:
    """Whether this is the process of rank 0."""
    return guess_global_zero() if _rank is None else _rank == 0


def error_of_all(message: str) -> UserError:
    """User error that all processes have alike: rank zero prints the line."""
    return (UserError if is_global_zero() else OtherProcessFailed)(message)


def print_rank_zero(text: str) -> None:
    """Prints a line, on rank 0 only; above a progress bar."""
    if is_global_zero():
        from tqdm import tqdm

        tqdm.write(text)
        sys.stdout.flush()
