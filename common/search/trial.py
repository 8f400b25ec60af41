"""Trial of a search: a run of the capstone with values of the search space, which its pruner may stop."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer

from common.callbacks.progress import EpochMetrics
from common.cli.main import start
from common.errors import UserError
from common.io.run_dir import ALLOW, RUNS
from common.project import Project
from common.run.best import BestCheckpoint

if TYPE_CHECKING:
    import optuna


class Pruned(UserError):
    """Run that the pruner has stopped."""


class PruneTrial(EpochMetrics):
    """Reports the monitored metric of each epoch that was validated, and stops the run once Optuna's pruner gives it up."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        best = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestCheckpoint)]
        if not best:
            raise UserError("there is no validation set, by which a search selects")
        self.monitor = str(best[0].monitor)
        self.trial.set_user_attr("metric", self.monitor)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.is_new(trainer, self.monitor):
            return
        epoch, value = trainer.current_epoch + 1, trainer.callback_metrics[self.monitor].item()
        if math.isnan(value):  # the trial fails in the end, unless a later epoch is better
            return
        self.trial.report(value, epoch)
        if self.trial.should_prune():
            raise Pruned(f"pruned after epoch {epoch}")


def train_trial(project: Project, name: str, flags: list[str], trial: optuna.Trial, resumes: bool) -> float:
    """Trains the run `name`, or continues it, and returns its best monitored metric, which may be NaN.

    Args:
        project: The capstone.
        name: Name of the run.
        flags: All other flags of train.
        trial: Optuna's trial.
        resumes: Whether the trial was begun before, so that its run may be there.

    Raises:
        UserError: The run has failed.
        Pruned: The pruner has stopped it.
        Preempted: The process was asked to stop; the run's state is saved.
    """
    path = RUNS / project.name / name / "summary.json"
    if not (resumes and path.is_file()):  # it may have ended just before the search was killed
        start(project, [*flags, "--name", name, *(["--resume", ALLOW] if resumes else [])], [PruneTrial(trial)])
    summary: dict[str, Any] = json.loads(path.read_text())
    return float(summary["best_validation"][summary["monitor"]])
