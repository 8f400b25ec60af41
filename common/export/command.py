"""Export command of every capstone: `python -m projects.X.export --checkpoint PATH --to FOLDER`.

Everything is checked before anything is written, and written to a folder beside its place, which is renamed when all of it
has been compared with torch: a failed or killed export leaves nothing of that name.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import OneLineParser, add_checkpoint
from common.errors import UserError
from common.io.artifacts import local_checkpoint
from common.io.disk import named
from common.io.files import write_text_atomically

if TYPE_CHECKING:
    from common.export.graph import Export, Int8, Written
    from common.project import Project


@dataclass(frozen=True)
class Engine:
    """Inference engine that a network is written for.

    Args:
        name: Its name.
        packages: What has to be installed.
        requirement: What pip installs for that, an extra of this suite.
    """

    name: str
    packages: tuple[str, ...]
    requirement: str


ONNX = Engine("ONNX", ("onnxruntime", "onnxscript"), "lightning-capstones[onnx]")


def new_parser(project: str, engine: Engine, int8: bool = False) -> OneLineParser:
    """Parser of the flags that all capstones share; imports no torch, so that `--help` answers at once.

    Args:
        project: The capstone's name.
        engine: What the network is written for, beside its weights.
        int8: Whether there is an int8 version too.
    """
    parser = OneLineParser(
        prog=f"python -m projects.{project}.export",
        description="Writes a run's network to a folder: weights (safetensors), configuration, model card, and "
        f"{engine.name}, each compared with torch. `load` of the capstone takes the folder like a checkpoint.",
        allow_abbrev=False,
    )
    add_checkpoint(parser)
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="Folder to write; a new or an empty one.")
    parser.add_argument(
        "--weights_only",
        action="store_true",
        help=f"No {engine.name}, which needs {engine.requirement}, and does not exist for every network.",
    )
    parser.set_defaults(engine=engine, int8=False, source=None, **{"data.source": None})
    if int8:
        text = "An int8 version too, if on the run's validation split it is not significantly worse (paired test, 5 %%)."
        parser.add_argument("--int8", action="store_true", help=text)
        parser.add_argument("--data.source", metavar="SOURCE", help="With --int8: where the run's data are now.")
    parser.add_argument("--push", metavar="HUB_ID", help="Upload the folder to this model repository, ORGANIZATION/NAME.")
    parser.add_argument("--public", action="store_true", help="With --push: a new repository is public, not private.")
    return parser


def export(options: argparse.Namespace, new_export: Callable[[argparse.Namespace], tuple[Project, Export]]) -> None:
    """Exports a checkpoint.

    Args:
        options: Of a parser of `new_parser`.
        new_export: Loads the checkpoint, and says what is exported of it. Raises UserError if it cannot be exported.

    Raises:
        UserError: The flags, the checkpoint, its data, the folder or the hub cannot be used, or an exported file is not
            what it should be.
    """
    check_options(options)
    if options.push:
        from common.export.hub import check_hub

        check_hub(options.push)
    options.checkpoint = local_checkpoint(options.checkpoint)
    project, made = new_export(options)
    data = None
    if options.int8:
        from common.export.validation import validation_data

        data = validation_data(project, options.checkpoint, getattr(options, "data.source"))
    with new_folder(options.to) as folder:
        written = [made.write_weights(folder)]
        if not options.weights_only:
            written.append(write_engine(made, folder))
        tested = [write_int8(made, folder, data)] if data is not None else []
        write_card(made, [*written, *(file for file, test in tested if test.kept)], tested, options.checkpoint, folder)
        names = ", ".join(sorted(path.name for path in folder.iterdir()))
    print(f"written to {options.to}: {names}")
    for file in written:
        print(f"{file.name}: {file.check}")
    for file, test in tested:
        print(f"{file.name}: {test}{'' if test.kept else ': a significant loss, not written'}")
    if options.push:
        from common.export.hub import push

        print(f"pushed to {push(options.to, options.push, private=not options.public)}")


def check_options(options: argparse.Namespace) -> None:
    """Raises UserError if the folder is not empty, a package is missing, or flags contradict each other."""
    folder: Path = options.to
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--to {folder}: exists and is not an empty folder; choose another")
    if options.int8 and options.weights_only:
        raise UserError("--int8: it is made of what --weights_only leaves out; choose one")
    if options.public and not options.push:
        raise UserError("--public: it is for --push HUB_ID")
    if getattr(options, "data.source") and not options.int8:
        raise UserError("--data.source: it is for --int8")
    if not options.weights_only:
        import_engine(options.engine)


def import_engine(engine: Engine) -> None:
    """Imports the packages of an engine. Raises UserError if one is not installed."""
    try:
        for package in engine.packages:
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(f'{engine.name}: run `pip install "{engine.requirement}"`, or add --weights_only') from error


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Context with a temporary folder beside `folder`, which takes its place at the end, and is removed after an exception.

    Raises:
        UserError: It cannot be written.
    """
    target = folder.resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with named(folder):
            partial.mkdir(parents=True)
            yield partial
            partial.replace(target)  # in place of an empty folder, if there is one
    except OSError as error:
        raise UserError(f"--to {folder}: {error.strerror or error}; name a folder that can be written") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_engine(made: Export, folder: Path) -> Written:
    """Writes ONNX, or what the capstone has in its place."""
    from common.export.onnx_model import write_onnx

    if made.graph is not None:
        return write_onnx(made.graph, folder)
    assert made.write_engine is not None
    return made.write_engine(folder)


def write_int8(made: Export, folder: Path, data: object) -> tuple[Written, Int8]:
    """Writes the int8 version, and removes it if it is significantly worse."""
    assert made.write_int8 is not None
    file, test = made.write_int8(folder, data)
    if not test.kept:
        path = folder / file.name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return file, test


def write_card(
    made: Export, written: list[Written], tested: list[tuple[Written, Int8]], checkpoint: Path, folder: Path
) -> None:
    """Writes the model card, `README.md`."""
    from common.export.model_card import model_card, read_summary

    results = [(file.name, test) for file, test in tested]
    card = model_card(made, written, results, read_summary(checkpoint), checkpoint.name)
    write_text_atomically(folder / "README.md", card)
