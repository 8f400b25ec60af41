"""The command line that all capstones share: LightningCLI with short flags, one-line errors and quick help.

`train.py` of a capstone calls `main` with its two classes; `common.run` does what follows.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from argparse import SUPPRESS
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse.typing import NonNegativeInt
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from common.command import guarded
from common.errors import UserError

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
SAMPLE_VARIABLE = "CAPSTONES_SAMPLE"  # how the first process tells those that it starts whether the data is the sample
SWITCHES = ("--wandb", "--fast_dev_run")  # mean true where no value follows


@dataclass
class Project:
    """What `main` needs to know of a capstone.

    Args:
        name: of its package below `projects/`, and of its folder below `runs/`.
        module: the LightningModule class.
        data: the LightningDataModule class.
        monitor: the validation metric that picks the best checkpoint.
        mode: whether more of it is better, "max", or less, "min".
        pictures: callbacks that draw; each is made with the folder that its pictures go to.
        links: pairs of where a value is and the argument that takes it; such an argument is no option. The value is an
            attribute of the data, as in ("data.vocabularies", "model.vocabularies"), or an option of the model's that the
            data needs too, as in ("model.checkpoint", "data.checkpoint").
        use: the package's command that uses a checkpoint, with its arguments before `--checkpoint`.
    """

    name: str
    module: type[LightningModule]
    data: type[LightningDataModule]
    monitor: str = "val/loss"
    mode: Literal["min", "max"] = "min"
    pictures: tuple[Callable[[Path], Any], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    use: str = "predict FILE"

    @property
    def folder(self) -> Path:
        """The package's folder."""
        return Path(str(sys.modules[self.module.__module__].__file__)).parent

    @property
    def default_recipe(self) -> Path:
        """The settings that `train` runs without `--config`; on the embedded sample it is `sample.yaml`, if there is one."""
        return self.folder / "recipes" / "default.yaml"


class CapstoneCLI(LightningCLI):
    """LightningCLI whose short flags become `trainer.*` and whose flags always win over the YAML file."""

    def __init__(self, project: Project, args: list[str]) -> None:
        self.project = project
        self.arguments = args
        super().__init__(
            project.module,
            project.data,
            save_config_callback=None,  # `common.run` writes config.yaml, into the run folder
            seed_everything_default=False,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={
                "usage": f"python -m projects.{project.name}.train [--config recipes/NAME.yaml] [flags]",
                "allow_abbrev": False,  # else half a flag would reach the configuration as another one
            },
            parser_class=OneLineParser,
            args=args,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The flags of a run as a whole."""
        parser.add_argument("--seed", type=int, default=0, help="Seed of every random number of the run.")
        parser.add_argument("--name", type=str | None, help="The run's name; default: its recipe and the time.")
        parser.add_argument(
            "--recipe", type=str | None, help="What the summary calls these settings; default: the last --config's name."
        )
        parser.add_argument("--wandb", type=bool, default=False, help="Log to W&B too: online with a key, else offline.")
        parser.add_argument(
            "--resume",
            type=str | None,
            help="Continue from a checkpoint: a path, or auto for the newest good one of the run of that --name.",
        )
        parser.add_argument(
            "--debug",
            type=Literal["overfit", "shapes", "gradients"] | None,
            help="Check the model instead of training it: drive one batch's loss to zero, list layer shapes, "
            "compare gradients with numerical ones.",
        )
        parser.add_argument(
            "--checkpoint_every",
            type=NonNegativeInt,
            default=200,
            help="Steps between the checkpoints that --resume continues from; 0 for the ends of epochs only.",
        )
        parser.add_argument(
            "--patience",
            type=NonNegativeInt | None,
            help="Stop after so many validations without a better monitored metric.",
        )
        group = parser.add_argument_group("Short flags, each the same as --trainer.<flag>")
        for flag, (kind, sentence) in TRAINER_FLAGS.items():
            group.add_argument(f"--{flag}", metavar=kind, help=f"{sentence} (type: {kind})", default=SUPPRESS)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What the module takes from the data is handed over once the data is built, an option of its own at once."""
        for source, target in self.project.links:
            parser.link_arguments(source, target, apply_on="instantiate" if source.startswith("data.") else "parse")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the arguments after putting them in the order and the form that the parser means."""
        recipe = self.project.default_recipe
        sample = recipe.with_name("sample.yaml")
        if sample.is_file() and means_sample(list(args), self.project.data, recipe):
            recipe = sample
        words = normalize_arguments(list(args), recipe if recipe.is_file() else None)
        folder = self.project.folder
        words = [find_config(b, folder) if a == "--config" else b for a, b in itertools.pairwise(["", *words])]
        self.config = parser.parse_args(words)
        for flag in TRAINER_FLAGS:
            if (value := self.config.get(flag)) is not None:
                raise UserError(f"the configuration sets {flag}: {value} at its top; write it below trainer:")
        files = self.config.get("config") or ["plain"]
        self.config.recipe = self.config.recipe or Path(str(files[-1])).stem

    def _set_seed(self) -> None:
        pass  # `common.run` seeds, before it builds the model

    def instantiate_classes(self) -> None:
        """Nothing is built while parsing; `common.run` does it once the run folder and the device are settled."""


class OneLineParser(LightningArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises UserError with jsonargparse's message, shortened where it goes through the members of a union."""
        text = " ".join(line.strip(" -") for line in str(message).splitlines() if line.strip())
        union = r'Parser key "(.+?)": Does not validate .*?Subtypes: \[(.*)\] Errors: .* Given value: (.*)'
        if found := re.match(union, text):
            key, types, value = found.groups()
            types = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.", r"\1", types)
            text = f"{key}: {value} is none of {types.replace('NoneType, ', '')}"
        raise UserError(f"{text[:400]} (see --help)") from ex


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


def means_sample(args: list[str], data: type[LightningDataModule], recipe: Path) -> bool:
    """Whether a run of the default `recipe` with these arguments and no `--config` would train on the embedded sample.

    The processes that a run starts are told, as the hub may answer one of them and not another.
    """
    flags = flag_values(args)
    if {"--help", "-h", "--config", "-c"} & set(flags):
        return False
    if int(os.environ.get("LOCAL_RANK", "0")) > 0 and SAMPLE_VARIABLE in os.environ:
        return os.environ[SAMPLE_VARIABLE] == "1"
    from common.data import resolve_source

    settings = yaml.safe_load(recipe.read_text()) or {}
    source = flags.get("--data.source") or (settings.get("data") or {}).get("source", "auto")
    sample = source == "sample" or (
        source == "auto" and resolve_source(source, getattr(data, "HUB_ID", "")).kind == "sample"
    )
    os.environ[SAMPLE_VARIABLE] = str(int(sample))
    return sample


def flag_values(args: list[str]) -> dict[str, str]:
    """What stands behind each flag, after a space or an equals sign."""
    return dict(itertools.pairwise([*args, ""])) | dict(arg.split("=", 1) for arg in args if "=" in arg)


def find_config(name: str, folder: Path) -> str:
    """The path of a configuration file that is named from where we are, or else from a capstone's `folder`.

    Raises:
        UserError: there is no such file, it is not YAML, or it is a sweep.
    """
    path = next((path for path in (Path(name), folder / name) if path.is_file()), None)
    if path is None:
        raise UserError(f"--config {name}: no such file, neither here nor in {folder}")
    try:
        settings = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {name}: not YAML: {' '.join(str(error).split())}") from error
    if isinstance(settings, dict) and {"method", "parameters"} <= settings.keys():
        raise UserError(f"--config {name}: a sweep, not a recipe; start it with `wandb sweep {path}`")
    return str(path)


def main(project: Project, args: list[str] | None = None) -> int:
    """Runs a capstone from the command line and returns the exit code (see `common.errors`)."""
    return guarded(lambda: _main(project, sys.argv[1:] if args is None else args))


def _main(project: Project, args: list[str]) -> int:
    cli = CapstoneCLI(project, with_saved_config(args, project.name))
    from common.run import run  # after the parser has answered --help

    return run(cli)


def with_saved_config(args: list[str], project: str) -> list[str]:
    """`args`, with the `config.yaml` of the run that `--resume` takes up unless they name a configuration themselves."""
    flags = flag_values(args)
    resume = flags.get("--resume")
    if resume is None or "--config" in flags or "-c" in flags:
        return args
    folder = Path("runs", project, flags.get("--name", "")) if resume == "auto" else Path(resume).resolve().parent.parent
    saved = folder / "config.yaml"
    return ["--config", str(saved), *args] if saved.is_file() else args
