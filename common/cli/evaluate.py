"""Entry point of every capstone's `evaluate` command: the test of a checkpoint, on any data, without training."""

from __future__ import annotations

import inspect
import shlex
import sys
from pathlib import Path
from typing import Any

from common.cli.command import add_checkpoint, report_errors
from common.cli.flags import TRAINER_FLAGS, flag_values
from common.cli.parser import TrainParser, new_data
from common.errors import UserError
from common.io.artifacts import local_checkpoint
from common.io.checkpoints import check_project, content_errors, read_checkpoint, version_error
from common.io.yaml_files import CODE, leaves, read_yaml
from common.options import instantiate_plain
from common.project import EvaluationRequest, Project


def main(project: Project, args: list[str] | None = None) -> int:
    """Evaluates a checkpoint from the command line and returns the exit code (see `common.errors`)."""
    return report_errors(lambda: start(project, sys.argv[1:] if args is None else args))


def start(project: Project, args: list[str]) -> None:
    """Evaluates a checkpoint: `main` with errors as exceptions."""
    request = parse(project, args)
    from common.run.evaluate import evaluate  # after the parser has answered --help

    evaluate(request)


def parse(project: Project, args: list[str]) -> EvaluationRequest:
    """Evaluation request of a command line. Raises UserError if it is not valid, or the checkpoint cannot be read."""
    parser = new_parser(project)
    path = local_checkpoint(parser.parse_args(args).checkpoint)
    checkpoint = read_checkpoint(path)
    check_project(checkpoint, project.name, path)
    recorded = recorded_options(project, checkpoint, path)
    flags = flag_values(args)
    check_code(recorded, flags, path)
    if "--data.source" not in flags:
        check_source(recorded["data"].get("source"), checkpoint, path)
    try:
        defaults = parser.parse_object({"checkpoint": str(path), **recorded})
    except UserError as error:
        raise version_error(path, checkpoint, error) from error
    config = parser.parse_args(args, namespace=defaults)
    is_other = config.data.source != recorded["data"].get("source")
    return EvaluationRequest(project, path, checkpoint, config, args, is_other, lambda: new_data(project, config.data))


def new_parser(project: Project) -> TrainParser:
    """Parser of the command's own flags and of the options of data and model."""
    parser = TrainParser(
        usage=f"python -m projects.{project.name}.evaluate --checkpoint PATH [flags]",
        description="Tests a checkpoint, on the data of its run or on others. What no flag sets is as in its run.",
        allow_abbrev=False,
    )
    parser.add_instantiator(instantiate_plain, object)
    add_checkpoint(parser)
    sentence = "Folder of evaluation.json and plots/; unset, RUN/evaluations/CHECKPOINT-DATA-SPLIT."
    parser.add_argument("--to", type=Path | None, metavar="FOLDER", help=sentence)
    parser.add_argument("--split", choices=("test", "val"), default="test", help="Split of the data.")
    parser.add_argument("--accelerator", type=str, default="auto", help=TRAINER_FLAGS["accelerator"][1])
    parser.add_argument("--precision", type=str | None, help="Number format.")
    for group, names in option_names(project).items():
        class_type: Any = project.data if group == "data" else project.module
        skip: set[Any] = set(inspect.signature(class_type).parameters) - set(names)
        parser.add_class_arguments(class_type, group, skip=skip, fail_untyped=False)
    return parser


def option_names(project: Project) -> dict[str, list[str]]:
    """Options of data and model: without those that follow from each other, which a checkpoint has once and for all."""
    follow = {target for _, target in project.links} | {key for key in project.derived if key.startswith("model.")}
    classes: dict[str, Any] = {"data": project.data, "model": project.module}
    return {
        group: [name for name in inspect.signature(class_type).parameters if f"{group}.{name}" not in follow]
        for group, class_type in classes.items()
    }


def recorded_options(project: Project, checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """Options of data and model, and the precision, as the checkpoint or else the run's `config.yaml` beside it has them."""
    config = path.resolve().parent.parent / "config.yaml"
    saved: Any = {}
    if "datamodule_hyper_parameters" not in checkpoint and config.is_file():
        saved = read_yaml(config, str(config))
    with content_errors(path, checkpoint):
        data = dict(checkpoint.get("datamodule_hyper_parameters") or saved.get("data", {}))
        if data.get("source") == "auto":
            data["source"] = checkpoint["data"]["source"]  # what it was then
        options = {"data": data, "model": checkpoint["hyper_parameters"]}
        recorded: dict[str, Any] = {}
        for group, names in option_names(project).items():
            recorded[group] = {name: options[group][name] for name in names if name in options[group]}
        precision = checkpoint.get("precision") or saved.get("trainer", {}).get("precision") or "32-true"  # Lightning's own
        return recorded | {"precision": precision}


def check_code(recorded: dict[str, Any], flags: dict[str, str], path: Path) -> None:
    """Raises UserError if an option names code that no flag does: the checkpoint may be a stranger's."""
    for key, text in leaves(recorded):
        if CODE.fullmatch(text) and f"--{key}" not in flags:
            trust = f"if you trust it, add --{key} {shlex.quote(text)}"
            raise UserError(f"checkpoint {path}: {key} names code, {text}; {trust}")


def check_source(source: str | None, checkpoint: dict[str, Any], path: Path) -> None:
    """Raises UserError if the data of the checkpoint's run are not known, or are a path that is not here."""
    if source is None:
        raise UserError(f"checkpoint {path}: does not record its data; name them with --data.source")
    label = checkpoint.get("data", {}).get("source", source)  # of a path its last part
    if label != source and source != "sample" and not Path(source).exists():
        raise UserError(f"checkpoint {path}: the data of its run, {source}, are not here; name others with --data.source")
