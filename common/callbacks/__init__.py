"""The shared callbacks, one file each."""

from lightning.pytorch import Trainer


def is_log_step(trainer: Trainer) -> bool:
    """Whether Lightning hands the figures of the training step at hand to the loggers; true from its start to its end.

    What is logged in other steps is lost at the end of the epoch, if not overwritten before.
    """
    return trainer._logger_connector.should_update_logs
