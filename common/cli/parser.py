"""Command-line parser of all capstones: LightningCLI with short flags, one-line errors and quick help."""

from __future__ import annotations

import itertools
import math
from argparse import SUPPRESS
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from common.cli.flags import MAX_INTEGER, TRAINER_FLAGS, TRAINER_MINIMA, normalize_arguments
from common.cli.messages import one_line_message
from common.cli.recipes import find_config, uses_sample
from common.cli.suggestions import suggestion
from common.data.sources import SourceDataModule
from common.errors import UserError
from common.io.loggers import new_logger
from common.io.ranks import print_rank_zero
from common.options import Seed, instantiate_plain
from common.project import Project, RunRequest


class CapstoneCLI(LightningCLI):
    """LightningCLI with short flags for `trainer.*`, whose flags always override the YAML file. It builds nothing.

    Args:
        project: The capstone.
        args: Command-line arguments.

    Raises:
        UserError: An argument or a configuration file is not valid.
    """

    def __init__(self, project: Project, args: list[str]) -> None:
        self.project = project
        self.args = args
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
                "allow_abbrev": False,  # else an abbreviated flag would reach the configuration as another one
            },
            parser_class=TrainParser,
            args=args,
        )
        self.config.pop("seed_everything")

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the flags of a run as a whole."""
        parser.add_instantiator(instantiate_plain, object)
        parser.add_argument("--seed", type=Seed, default=0, help="Random seed of the whole run.")
        parser.add_argument("--name", type=str | None, help="The run's name; default: its recipe and the time.")
        parser.add_argument(
            "--recipe", type=str | None, help="Name of these settings in the summary; default: the last --config's name."
        )
        add_logging_arguments(parser)
        parser.add_argument(
            "--resume",
            type=str | None,
            help="Resume from a checkpoint: a path, wandb:ENTITY/PROJECT/ARTIFACT:ALIAS, or auto for the latest valid one "
            "of the run of that --name; allow continues that run if it has one, and starts it else.",
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
            help="Early stopping: validations in a row without a better monitored metric.",
        )
        parser.add_argument(
            "--compile",
            type=bool,
            default=False,
            help="torch.compile the networks: minutes at the start, faster steps on a GPU.",
        )
        group = parser.add_argument_group("Short flags, each the same as --trainer.<flag>")
        for flag, (kind, sentence) in TRAINER_FLAGS.items():
            group.add_argument(f"--{flag}", metavar=kind, help=f"{sentence} (type: {kind})", default=SUPPRESS)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Links arguments: attributes of the data once it is built, options while parsing."""
        for source, target in self.project.links:
            parser.link_arguments(source, target, apply_on="instantiate" if source.startswith("data.") else "parse")
        parser.set_defaults(dict.fromkeys(self.project.derived))

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the arguments, with short flags expanded and the default recipe in front."""
        recipe = self.project.default_recipe
        sample = recipe.with_name("sample.yaml")
        if sample.is_file() and uses_sample(list(args), self.project.data, recipe):
            recipe = sample
        args = normalize_arguments(list(args), recipe if recipe.is_file() else None)
        folder = self.project.folder
        args = [find_config(b, folder) if a == "--config" else b for a, b in itertools.pairwise(["", *args])]
        self.config = parser.parse_args(args)
        for flag in TRAINER_FLAGS:
            if (value := self.config.get(flag)) is not None:
                raise UserError(f"the configuration sets {flag}: {value} at its top; write it below trainer:")
        check_numbers(self.config)
        files = self.config.get("config") or ["plain"]
        self.config.recipe = self.config.recipe or Path(str(files[-1])).stem
        self.config.seed_everything = False  # LightningCLI's own switch: `common.run` seeds, before it builds the model

    def instantiate_classes(self) -> None:
        """Builds nothing: `common.run` does, once the run folder and the device are known."""

    def derive_options(self) -> SourceDataModule | None:
        """Sets unset options that follow from the data, and prints them; returns the data, if it was read."""
        unset = [key for key in self.project.derived if self.config[key] is None]
        if not unset:
            return None
        data = new_data(self.project, self.config.data)
        data.prepare_data()
        for key in unset:
            self.config[key] = getattr(data, key.rpartition(".")[2])
        print_rank_zero("from the data: " + ", ".join(f"--{key} {self.config[key]}" for key in unset))
        return data

    def request(self) -> RunRequest:
        """Run request of the parsed command line."""

        def build(run_path: Path | None = None) -> tuple[LightningModule, SourceDataModule, dict[str, Any]]:
            data = self.derive_options()
            config = self.config.clone()
            loggers = instantiate_loggers(config.trainer.pop("logger"), run_path)
            objects = self.parser.instantiate_classes(config)
            return objects.model, data or objects.data, dict(objects.trainer) | {"logger": loggers}

        def adopt(text: str) -> Namespace:
            self.config = self.parser.parse_string(text)
            return self.config

        return RunRequest(self.project, self.config, self.args, build, self.parser.dump, adopt)


def new_data(project: Project, options: Namespace) -> SourceDataModule:
    """Datamodule of a capstone with these options."""
    parser = LightningArgumentParser()
    parser.add_instantiator(instantiate_plain, object)
    parser.add_lightning_class_args(project.data, "data")
    data: SourceDataModule = parser.instantiate_classes(Namespace(data=options)).data
    return data


def add_logging_arguments(parser: LightningArgumentParser) -> None:
    """Adds the flags of W&B and of other loggers."""
    parser.add_argument("--wandb", type=bool, default=False, help="Log to W&B too: online with a key, else offline.")
    tags = "W&B's tags of the run, separated by commas, or a list."
    parser.add_argument("--tags", type=list[str] | str | None, help=tags)
    parser.add_argument("--notes", type=str | None, help="W&B's notes of the run.")
    parser.add_argument("--group", type=str | None, help="W&B's group of the run.")
    parser.add_argument(
        "--wandb_artifact", type=bool, default=False, help="Upload the best checkpoint to W&B as a model artifact."
    )
    parser.add_argument(
        "--logger",
        type=Literal["tensorboard", "mlflow", "none"] | None,
        help="Log to TensorBoard or MLflow too; any other logger by --trainer.logger CLASS, or none of these by none.",
    )


def instantiate_loggers(option: Any, run_path: Path | None) -> list[Logger]:
    """Loggers of `--trainer.logger`, one or a list; apart from the Trainer's other options, so that an error is theirs."""
    parser = LightningArgumentParser()
    parser.add_instantiator(partial(new_logger, run_path), Logger)  # type: ignore[arg-type, type-abstract]
    parser.add_argument("--logger", type=Logger)
    chosen = [each for each in (option if isinstance(option, list) else [option]) if isinstance(each, Namespace)]
    return [parser.instantiate_classes(Namespace(logger=each)).logger for each in chosen]


def check_numbers(config: Namespace) -> None:
    """Raises UserError for a number that no type of the parser refuses: too large a one, and those of the Trainer."""
    for key, value in config.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{key} {value}: use a finite number")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise UserError(f"--{key} {value}: use a number of at most {MAX_INTEGER}")
    for name, minimum in TRAINER_MINIMA.items():
        value = config.trainer[name]
        is_fraction = name.startswith(("limit_", "val_check")) and isinstance(value, float)  # else a number of batches
        if isinstance(value, int | float) and not minimum <= value <= (1 if is_fraction else math.inf):
            raise UserError(f"--trainer.{name} {value}: use {minimum} {'to 1.0' if is_fraction else 'or more'}")
    if config.trainer.val_check_interval == 0:
        raise UserError("--trainer.val_check_interval 0: use 1 or more batches, or a fraction of an epoch")


class TrainParser(LightningArgumentParser):
    """Parser whose errors are one line, and for which a logger's folder is no required option."""

    def add_class_arguments(self, theclass: Any, *args: Any, **options: Any) -> list[str]:
        """Adds the options of a class; of a logger `save_dir` is empty, which `new_logger` replaces by the run folder."""
        added = super().add_class_arguments(theclass, *args, **options)
        if "save_dir" in added and isinstance(theclass, type) and issubclass(theclass, Logger):
            self.set_defaults(save_dir="")
            self.required_args.discard("save_dir")
        return added

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises UserError with jsonargparse's message in one line."""
        text = one_line_message(str(message))
        if "did you mean" in text:  # the parser of a class has looked for it
            raise UserError(f"{text} (see --help)") from ex
        flags = [flag.removeprefix("--") for action in self._actions for flag in action.option_strings]
        raise UserError(f"{text}{suggestion(text, flags)} (see --help)") from ex
