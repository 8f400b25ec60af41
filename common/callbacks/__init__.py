"""The shared callbacks, one file each."""

from lightning.pytorch import Trainer


def log_interval(trainer: Trainer) -> int:
    """Steps between two loggings; never 0, which Lightning uses for "no logging"."""
    return getattr(trainer, "log_every_n_steps", 0) or 50
