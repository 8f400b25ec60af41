"""Weights & Biases (W&B), the logger of a run with `--wandb`: whatever its server does, the run goes on."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from common.errors import Preempted, UserError, one_line
from common.io.connectivity import within
from common.io.ranks import print_rank_zero
from common.io.wandb_files import next_step, run_folder, shown, sync_command
from common.io.wandb_server import import_wandb, offline_reason, stop_wandb

WANDB_MODES = ("online", "offline", "disabled", "dryrun", "run", "shared")
WANDB_STEP = "trainer/global_step"  # x-axis of every panel, as Lightning logs it
ENVIRONMENT = {  # unless the user's environment says otherwise
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",  # which would wait for the server too, and print that it has failed
    "WANDB_X_DISABLE_VIEWER": "true",  # which asks the server once more whose the key is, for a message
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",  # seconds of the run that are lost if W&B's process dies
}
MAX_DELAY = 10.0  # seconds that a run loses at most to a failing server, at its start and end together
INIT_SECONDS = 3.0  # of these, for the server to register the run
MARGIN = 0.5  # of these, for W&B's background process to keep to its own limit at the end
STOP_SECONDS = 1.0  # of these, for it to end
REJECTED = re.compile(r"returned error 4(?!08|29)\d\d")  # an answer that another try would not change
LOST = "filestream: (fatal|json decode) error|runfiles: CreateRunFiles|runupserter: failed to upload|file transfer: upload"
NOT_UPLOADED = re.compile(rf'"level":"ERROR.*"msg":"({LOST})')  # in W&B's log


def wandb_logger(
    run_path: Path, project: str, summary_modes: dict[str, str], config: dict[str, Any], **options: Any
) -> WandbLogger:
    """W&B logger: online with a key and a healthy server, else offline; it never prompts and never hangs.

    WANDB_PROJECT, WANDB_NAME, WANDB_RUN_ID and WANDB_DIR replace the project, the run's name, its id and its folder.

    Args:
        run_path: The run folder; W&B's files go to `run_path/wandb`.
        project: W&B project.
        summary_modes: Metric name -> "max" or "min": which value W&B's summary keeps, instead of the last.
        config: Configuration of the run.
        options: `tags`, `notes` and `group` of `wandb.init`; where one is None, W&B takes it from WANDB_TAGS, WANDB_NOTES
            or WANDB_RUN_GROUP.

    Raises:
        UserError: wandb cannot be imported, WANDB_MODE is not one of its modes, or W&B rejects the key or the run.
    """
    import_wandb()
    if (mode := os.environ.get("WANDB_MODE") or "online") not in WANDB_MODES:
        raise UserError(f"WANDB_MODE {mode!a}: use one of {', '.join(WANDB_MODES)}")
    run = None
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        # without the characters that W&B does not take in an id
        run_id = re.sub(r"[:;,#?%/\\']", lambda found: f"_{ord(found[0]):x}_", f"{project}-{run_path.name}")
        run = start_run(
            name=os.environ.get("WANDB_NAME") or run_path.name,
            project=os.environ.get("WANDB_PROJECT") or project,
            dir=Path(os.environ.get("WANDB_DIR") or run_path).resolve(),  # W&B's process may have another working directory
            id=os.environ.get("WANDB_RUN_ID") or run_id,
            resume="allow",
            config=config,
            **options,
        )
    logger = RunLogger(project=project, save_dir=run_path, experiment=run)
    if run is not None:
        attempt(logger, partial(define_metrics, run, summary_modes))
        attempt(logger, partial(continue_steps, run))
    return logger


def start_run(**options: Any) -> Any:
    """W&B's run: online, or offline with a line that says why.

    WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT replace the seconds that W&B's server has at the start and at the end.
    """
    wandb = import_wandb()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    began = time.monotonic()
    reason = offline_reason()
    if not reason:
        left = MAX_DELAY - (time.monotonic() - began) - INIT_SECONDS - MARGIN - STOP_SECONDS
        limits = {"init_timeout": INIT_SECONDS, "finish_timeout": left, "finish_timeout_raises": True}
        settings = {name: value for name, value in limits.items() if f"WANDB_{name.upper()}" not in os.environ}
        try:
            run = wandb.init(mode=os.environ.get("WANDB_MODE") or None, settings=wandb.Settings(**settings), **options)
            if not run.disabled:
                print_rank_zero(f"W&B: {run.url}")
            return run
        except Preempted:
            raise
        except Exception as error:  # what goes wrong on the way to a server has a dozen types
            stop_wandb(STOP_SECONDS)
            if isinstance(error, wandb.errors.AuthenticationError | wandb.errors.UsageError) or REJECTED.search(str(error)):
                raise UserError(f"--wandb: {one_line(error)}; set WANDB_MODE=offline to log without a server") from error
            reason = str(error).partition("\n")[0] or type(error).__name__
    try:
        run = wandb.init(mode="offline", **options)
    except wandb.Error as error:
        raise UserError(f"--wandb: {one_line(error)}") from error
    print_rank_zero(f"W&B: offline, {reason}; files in {shown(run_folder(run))}; upload later with `{sync_command(run)}`")
    return run


def define_metrics(run: Any, summary_modes: dict[str, str]) -> None:
    """Tells W&B the x-axis of all metrics, and of which its summary keeps the best."""
    run.define_metric(WANDB_STEP)
    run.define_metric("*", step_metric=WANDB_STEP, step_sync=True)
    for metric, mode in summary_modes.items():
        # without its own step_metric a metric that is defined later loses its x-axis
        run.define_metric(metric, step_metric=WANDB_STEP, summary=mode)


def continue_steps(run: Any) -> None:
    """Continues W&B's own `_step`, by which its server tells rows apart: W&B begins at 0 where a run resumes offline."""
    if (step := next_step(run)) > run.step:
        run.log({}, step=step)


class RunLogger(WandbLogger):
    """W&B's logger, whose faults end the logging to W&B, with one line, but never the run."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        attempt(self, partial(super().log_metrics, metrics, step))

    def log_hyperparams(self, params: Any) -> None:
        attempt(self, partial(super().log_hyperparams, params))


def attempt(logger: Logger, log: Callable[[], object]) -> None:
    """Calls `log`, unless a call before has failed for `logger`: W&B's background process may have died."""
    if getattr(logger, "has_failed", False):
        return
    try:
        log()
    except Preempted:
        raise
    except Exception as error:
        logger.has_failed = True  # type: ignore[attr-defined]
        print_rank_zero(f"W&B: logging has stopped ({type(error).__name__}: {one_line(error, 100)}); metrics.csv has it all")


@contextmanager
def closing_wandb() -> Iterator[None]:
    """Context that finishes W&B's run at its end, as failed after an exception; the process's next run has its own."""
    exit_code = 1
    try:
        yield
        exit_code = 0
    finally:
        if "wandb" in sys.modules and (run := sys.modules["wandb"].run) is not None:
            finish_run(run, exit_code)


def finish_run(run: Any, exit_code: int) -> None:
    """Finishes W&B's run, within seconds; a line says how to upload later what its server has not taken."""
    online = not (run.offline or run.disabled)
    url = online and run.url
    limit = run.settings.finish_timeout if online else 0  # 0 for none
    uploaded = False
    try:
        within(limit + MARGIN if limit else None, partial(run.finish, exit_code=exit_code))
        uploaded = not (online and has_upload_errors(run_folder(run)))
    except Exception as error:  # the limit of either, or W&B's background process has died
        stop_wandb(STOP_SECONDS)
        if isinstance(error, Preempted):
            raise
    except BaseException:  # Ctrl-C, once more
        stop_wandb(0)
        raise
    finally:
        if run.offline:
            print_rank_zero(f"W&B: offline; upload with `{sync_command(run)}`")
        elif not uploaded:
            print_rank_zero(f"W&B: the upload has not finished; upload what is kept later with `{sync_command(run)}`")
        if url:
            print_rank_zero(f"W&B: {url}")


def has_upload_errors(folder: Path) -> bool:
    """Whether W&B's log in the run's `folder` has an error after which it gives up the upload, of which it says nothing."""
    path = folder / "logs" / "debug-internal.log"
    return path.is_file() and NOT_UPLOADED.search(path.read_text(errors="replace")) is not None
