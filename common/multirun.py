"""Multirun over seeds and a grid: `python -m common.multirun PROJECT --seeds 0 1 2 [--grid model.lr=0.1,0.2] [train flags]`.

GNU make runs them, one after another or `--jobs` at a time; it stops at a failure or keeps going, and forwards signals.
Finished runs are skipped, killed ones resumed; at the end all are compared.

`--search FILE --trials N` searches with Optuna instead, see `common.search`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import OneLineParser, positive, report_errors, seed_value
from common.errors import UserError
from common.io.run_name import check_run_name

if TYPE_CHECKING:
    from common.project import Project

RUNS = Path("runs")
RESUME = ["--resume", "allow"]  # starts a run, and continues one that was killed, also before its first checkpoint


@dataclass
class PlannedRun:
    """Run to be done: its directory, the module for `python -m`, and the flags."""

    folder: Path
    module: str
    flags: list[str]

    @property
    def command(self) -> str:
        """Command line that starts it."""
        return f"python -m {self.module} {shlex.join([*self.flags, *RESUME])}"


def new_parser() -> OneLineParser:
    """Parser of the command's flags; all others go to train."""
    parser = OneLineParser(
        prog="python -m common.multirun",
        usage="%(prog)s PROJECT [--seeds N ...] [--grid OPTION=VALUE,...] [flags of train]",
        description="Trains a project with each of several seeds, and with each combination of the values of a grid; "
        "or searches for the values that are best.",
        epilog="All other flags go to train unchanged. The runs are named NAME-OPTIONVALUE-seedN, below runs/PROJECT.",
        allow_abbrev=False,
    )
    parser.add_argument("project", metavar="PROJECT", help="A folder below projects/.")
    parser.add_argument("--seeds", nargs="+", type=seed_value, default=[0], metavar="N", help="Random seeds (default: 0).")
    parser.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        default=[],
        metavar="OPTION=VALUE,...",
        help="Options of train with their values, as in model.lr=0.1,0.2.",
    )
    parser.add_argument(
        "--search",
        type=Path,
        metavar="FILE",
        help="Search space for Optuna, as in recipes/sweep.yaml: the monitored metric is optimized (see docs/sweeps.md).",
    )
    parser.add_argument("--trials", type=positive, metavar="N", help="Trials of the whole search.")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="Database that the processes of a search share (default: a file in the search's folder).",
    )
    parser.add_argument("--name", metavar="NAME", help="Prefix of the runs' names (default: the recipe's name).")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="Runs at the same time (default: 1).")
    parser.add_argument("--keep_going", action="store_true", help="Continue with the other runs if one fails.")
    parser.add_argument("--dry_run", action="store_true", help="Print the commands instead of running them.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code (see `common.errors`)."""
    options, flags = new_parser().parse_known_args(args)
    return report_errors(lambda: multirun(options, flags))


def multirun(options: argparse.Namespace, flags: list[str]) -> None:
    """Searches; or plans the runs and replaces this process by make, which does them."""
    if options.project not in (known := project_names()):
        raise UserError(f"{options.project}: no such project; there are {', '.join(known)}")
    if taken := {"--seed", "--resume"} & {flag.partition("=")[0] for flag in flags}:
        raise UserError(f"{taken.pop()}: multirun sets it for every run; use --seeds")
    if options.search is not None:
        start_search(options, flags)
        return
    if given := [flag for flag in ("trials", "storage") if getattr(options, flag) is not None]:
        raise UserError(f"--{given[0]}: only with --search FILE")
    grid = read_grid(options.grid)
    runs = plan_runs(options.project, options.seeds, grid, options.name, flags)
    plan = makefile(runs)
    if options.dry_run:
        for run in runs:
            if not is_done(run):
                print(run.command)
        return
    make = shutil.which("make")
    if make is None:
        raise UserError("several runs need GNU make; install it, or run what --dry_run prints")
    check_options(options.project, grid, flags)
    os.environ.setdefault("WANDB_RUN_GROUP", recipe_name(flags))  # of W&B, where its runs are one line
    with tempfile.TemporaryFile("w+") as file:
        file.write(plan)
        file.seek(0)
        sys.stdout.flush()
        os.dup2(file.fileno(), 0)
        os.execv(make, ["make", "--file=-", f"--jobs={options.jobs}", *(["--keep-going"] if options.keep_going else [])])


def check_options(project: str, grid: dict[str, list[str]], flags: list[str]) -> None:
    """Raises UserError for an option or a value that train refuses, before the first run has begun."""
    from common.cli.main import parse  # after the parser has answered --help
    from common.search.space import check_values

    described = find_project(project)
    parse(described, flags)
    if grid:
        check_values(grid, described, flags, "--grid")


def start_search(options: argparse.Namespace, flags: list[str]) -> None:
    """Searches with Optuna. Raises UserError for options that are not a search's."""
    from common.search.study import search  # after the parser has answered --help

    if options.trials is None:
        raise UserError("--search: how many trials? add --trials N")
    if options.grid or options.keep_going or options.jobs > 1:
        name = "grid" if options.grid else "keep_going" if options.keep_going else "jobs"
        raise UserError(f"--{name}: not with --search; to train several trials at once, start the command several times")
    if len(options.seeds) > 1:
        raise UserError("--seeds: a search has one; train its best values again with several")
    name = f"{recipe_name(flags)}-search" if options.name is None else options.name
    check_run_name(name)
    path = find_space(options.search, options.project)
    project = find_project(options.project)
    os.environ.setdefault("WANDB_RUN_GROUP", recipe_name(flags))
    search(project, path, options.trials, options.storage, name, options.seeds[0], flags, options.dry_run)


def find_project(name: str) -> Project:
    """What the project called `name` declares of itself."""
    project: Project = importlib.import_module(f"projects.{name}.train").PROJECT
    return project


def find_space(path: Path, project: str) -> Path:
    """File of a search space, here or in the project's folder, as train finds recipes."""
    package = importlib.util.find_spec(f"projects.{project}")
    folders = package.submodule_search_locations if package else None
    return next((each for each in [path, *(Path(folder) / path for folder in folders or ())] if each.is_file()), path)


def project_names() -> list[str]:
    """Projects that `python -m projects.NAME.train` finds from here."""
    package = importlib.util.find_spec("projects")
    folders = package.submodule_search_locations if package else None
    return sorted({path.parent.name for folder in folders or () for path in Path(folder).glob("*/train.py")})


def read_grid(grid: Sequence[str]) -> dict[str, list[str]]:
    """Option -> its values, from `--grid`. A comma inside brackets belongs to a value.

    >>> read_grid(["model.lr=0.1,0.2", "model.dims=[8,8],[16,16]"])
    {'model.lr': ['0.1', '0.2'], 'model.dims': ['[8,8]', '[16,16]']}
    """
    values: dict[str, list[str]] = {}
    for axis in grid:
        name, equals, text = axis.partition("=")
        name = name.removeprefix("--")
        options = re.split(r",(?![^\[]*\])", text)
        if not (name and equals and all(options)):
            raise UserError(f"--grid {axis}: write it as OPTION=VALUE,VALUE")
        if name in values or name in ("seed", "name"):
            raise UserError(f"--grid {axis}: {'use --seeds' if name == 'seed' else f'{name} is given already'}")
        values[name] = options
    return values


def plan_runs(
    project: str, seeds: Sequence[int], grid: dict[str, list[str]], name: str | None, flags: Sequence[str]
) -> list[PlannedRun]:
    """A run for each seed and each combination of values, with `flags` in all.

    Raises:
        UserError: Two runs would have the same name, or one has a name that is not one folder's.
    """
    name = recipe_name(flags) if name is None else name
    check_run_name(name)
    runs = []
    for values in itertools.product(*grid.values()):
        chosen = list(zip(grid, values, strict=True))
        parts = [f"{option.rpartition('.')[2]}{re.sub(r'[^0-9A-Za-z.]+', '_', value)}" for option, value in chosen]
        settings = [f"--{option}={value}" for option, value in chosen]
        for seed in seeds:
            run_name = "-".join([name, *parts, f"seed{seed}"])
            check_run_name(run_name)
            run_flags = [*flags, *settings, "--seed", str(seed), "--name", run_name]
            runs.append(PlannedRun(RUNS / project / run_name, f"projects.{project}.train", run_flags))
    names = [run.folder.name for run in runs]
    if duplicates := [each for each in names if names.count(each) > 1]:
        raise UserError(f"two runs would be called {duplicates[0]}; every seed and value once")
    return runs


def recipe_name(flags: Sequence[str]) -> str:
    """Name of the recipe that runs with `flags` have."""
    configs = [after for flag, after in itertools.pairwise([*flags, ""]) if flag in ("--config", "-c")]
    configs += [flag.partition("=")[2] for flag in flags if flag.startswith("--config=")]
    return Path(configs[-1]).stem if configs else "default"


def is_done(run: PlannedRun) -> bool:
    """Whether the run is finished. Raises UserError if its directory holds a run with other flags."""
    summary = run.folder / "summary.json"
    if not summary.is_file():
        return False
    try:
        flags = shlex.split(json.loads(summary.read_text())["command"])[3:]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{run.folder}: its summary.json is damaged; choose another --name") from error
    original = flags[:-2] if flags[-2:-1] == ["--resume"] else flags
    # a resumed run has its own configuration in front
    without_config = original[2:] if original[:2] == ["--config", str(run.folder / "config.yaml")] else original
    if run.flags not in (original, without_config):
        raise UserError(f"{run.folder} is of another command, with {shlex.join(flags)}; choose another --name")
    return True


def makefile(runs: Sequence[PlannedRun]) -> str:
    """Makefile: every run that is not finished, then the comparison of all."""
    targets = [f"run-{i}" for i in range(len(runs))]
    compare = ["-m", "common.compare", *(str(run.folder) for run in runs)]
    lines = [f".PHONY: all {' '.join(targets)}", f"all: {' '.join(targets)}", f"\t@{make_command(compare)}"]
    for target, run in zip(targets, runs, strict=True):
        lines.append(f"{target}:")
        if not is_done(run):
            lines.append(f"\t{make_command(['-m', run.module, *run.flags, *RESUME])}")
    return "\n".join(lines) + "\n"


def make_command(args: Sequence[str]) -> str:
    """Python with `args`, quoted for the shell and for make."""
    return shlex.join([sys.executable, *args]).replace("$", "$$")


if __name__ == "__main__":
    sys.exit(main())
