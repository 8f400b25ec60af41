"""Data sources: a hub id, a local folder or file, or the embedded sample, read as splits of `datasets`."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import LightningDataModule

from common.data.image_files import split_of
from common.data.tables import READERS, find_tables, read_tables
from common.errors import UserError, one_line
from common.io.connectivity import reachable
from common.io.ranks import print_rank_zero
from common.trainer import rank_and_world_size

HUB = "https://huggingface.co"
ARCHIVE = ".tar.gz"  # of CIFAR's pickles
T = TypeVar("T")


@dataclass
class Source:
    """Data source.

    Args:
        kind: `sample`, `folder`, `file` or `hub`.
        name: Path or hub id; `sample` for the sample.
        fell_back: Whether this is the fallback of `auto`: the real data set is out of reach.
        configuration: Configuration of the data set, where it has several.
        test_only: Whether it is evaluated and nothing is trained on it, see `evaluated_splits`.
    """

    kind: str
    name: str
    fell_back: bool = False
    configuration: str | None = None
    test_only: bool = False

    @property
    def label(self) -> str:
        """Name that stands beside results: `sample`, the hub id, or the folder's or file's own name."""
        return Path(self.name).resolve().name if self.kind in ("folder", "file") else self.name


def resolve_source(source: str, hub_id: str) -> Source:
    """Source that `--data.source` means: `auto`, `sample`, a path, or a hub id. Opens nothing but a connection to the hub.

    Args:
        source: Value of the option.
        hub_id: Data set that `auto` stands for.

    Raises:
        UserError: A path does not exist, or is a file of a type that cannot be read.
    """
    if source == "sample":
        return Source("sample", "sample")
    if source == "auto":
        if dataset_is_cached(hub_id) or hub_is_reachable():
            return Source("hub", hub_id)
        return Source("sample", "sample", fell_back=True)
    if Path(source).is_dir():
        return Source("folder", str(Path(source)))
    if Path(source).is_file():
        if Path(source).suffix.lower() not in READERS and not source.endswith(ARCHIVE):
            raise UserError(f"data source {source}: not a file of a type that can be read: {', '.join(READERS)}")
        return Source("file", str(Path(source)))
    if source.count("/") <= 1 and not source.startswith((".", "/", "~")):
        return Source("hub", source)
    raise UserError(f"data source {source}: no such folder; give a folder, a hub id, `sample` or `auto`")


class SourceDataModule(LightningDataModule):
    """LightningDataModule with a `--data.source`: what every capstone's has in common.

    Args:
        source: Value of the option.
        configuration: Configuration of a hub data set or a folder that has several.
    """

    HUB_ID: str  # the data set that `auto` stands for
    BATCH_OPTION = "batch_size"  # option that says how much each process takes in a step
    evaluated_checkpoint = ""  # name of the checkpoint that is evaluated on the data, for captions; empty in a run

    def __init__(self, source: str, configuration: str | None = None) -> None:
        super().__init__()
        # the options of the subclass, which checkpoints record; not for loggers, which have those of the module
        self.save_hyperparameters(logger=False)
        self.source_option = source
        self.configuration = configuration
        self.source: Source | None = None
        self.formed_for: int | None = None  # processes of the run that is resumed, whose batches go on

    def resolve(self) -> Source:
        """Resolved source; the hub is asked once."""
        if self.source is None:
            self.source = resolve_source(self.source_option, self.HUB_ID)
            self.source.configuration = self.configuration
        return self.source

    @property
    def source_label(self) -> str:
        """Name of the data beside results."""
        return self.resolve().label

    @property
    def source_description(self) -> str:
        """Name of the data, which says if it is the sample."""
        note = " (EMBEDDED SAMPLE, not the real data set)" if self.resolve().kind == "sample" else ""
        return f"{self.source_label}{note}"

    @property
    def sharding(self) -> tuple[int, int, int]:
        """Rank, number of processes, and number of processes that the batches are formed for."""
        rank, world_size = rank_and_world_size(self.trainer)
        return rank, world_size, self.formed_for or world_size

    def batch_state(self) -> dict[str, int]:
        """What a checkpoint records of the batches: the option's value, and the processes that they are formed for."""
        return {self.BATCH_OPTION: getattr(self, self.BATCH_OPTION), "processes": self.sharding[2]}

    def resume_batches(self, state: dict[str, int]) -> None:
        """Goes on with the batches of a checkpoint, whatever the number of processes is now; prints a line if it differs."""
        _, world_size, _ = self.sharding
        if state.get(self.BATCH_OPTION) != getattr(self, self.BATCH_OPTION) or state["processes"] == world_size:
            return
        self.formed_for = state["processes"]
        print_rank_zero(
            f"resuming with {world_size} processes instead of {self.formed_for}: batches stay as they are, "
            f"--data.{self.BATCH_OPTION} {state[self.BATCH_OPTION]} x {self.formed_for}, dealt out to {world_size}"
        )

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of examples in each of train and val; empty for data without end."""
        return {}

    def adapt_to(self, checkpoint: dict[str, Any]) -> None:
        """Adapts data that are not set up yet to a trained network: its classes, tokenizers or features.

        Raises:
            UserError: The network cannot be evaluated on them.
        """

    def fingerprint(self) -> dict[str, str | int]:
        """What a checkpoint records of the data that it is trained on: source, number of examples, and class names."""
        classes = {f"class {label}": name for label, name in enumerate(getattr(self, "class_names", []))}
        sizes = {f"{split} examples": size for split, size in self.split_sizes.items()}
        return {"source": self.resolve().label, **sizes, **classes}


def evaluated_splits(source: Source, splits: dict[str, T]) -> dict[str, T]:
    """`splits`; of a source that is `test_only` its test data under every name, which is all that it has without splits.

    Code that reads training data then works as it is, and holds nothing out.
    """
    found = next((name for name in ("test", "validation", "train") if name in splits), None)
    if not source.test_only or found is None:
        return splits
    what = "all of it is" if found == "train" else f"its {found} split is"
    print_rank_zero(f"data source {source.name}: {what} evaluated")
    return dict.fromkeys(("train", "validation", "test"), splits[found])


def hub_is_reachable(timeout: float = 3.0) -> bool:
    """Whether the hub answers within `timeout` seconds, and no environment variable asks to stay offline."""
    if any(os.environ.get(name, "0") not in ("0", "") for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")):
        return False
    return reachable(os.environ.get("HF_ENDPOINT") or HUB, timeout)


def dataset_is_cached(hub_id: str) -> bool:
    """Whether `datasets` has prepared `hub_id` on this machine before."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets"))
    name = hub_id.replace("/", "").replace("_", "").lower()  # the folder's name is in snake case
    folders = [folder for folder in cache.glob("*___*") if folder.name.replace("_", "").lower() == name]
    return any(any(folder.glob("*/*/*/dataset_info.json")) for folder in folders)


def load_splits(source: Source) -> dict[str, Any]:
    """Splits of a path or a hub data set: name -> `datasets.Dataset`; those of a single file are "train".

    Tables in files are read here, anew each time, see `common.data.tables`; all else by `datasets`, which caches it.

    Raises:
        UserError: A file cannot be read, the folder has several configurations, or the hub is out of reach and there is no
            cached copy.
    """
    if source.kind == "hub" and not hub_is_reachable():
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read before `datasets` is imported
        if not dataset_is_cached(source.name):
            raise UserError(
                f"data source {source.name}: no such folder, and the hub cannot be reached; "
                "give a local folder or `--data.source sample`"
            )
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "15")
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "10")
    import datasets  # two seconds: only where a data set is really read

    datasets.disable_progress_bars()
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)  # the UserError below has it in one line
    try:
        if files := table_files(source):
            return {split: datasets.Dataset(read_tables(paths)) for split, paths in files.items()}
        splits = datasets.load_dataset(source.name, source.configuration)
        return {split_of(name) or name: splits[name] for name in reversed(splits)}  # of two for validation the first
    except UserError:
        raise
    except Exception as error:  # `datasets` raises a dozen types for what is one fault to the user
        raise UserError(f"data source {source.name}: {explain(error)}") from error


def table_files(source: Source) -> dict[str, list[Path]]:
    """Tables of each split of a path, by the configuration where the folder's README.md has some; empty for others."""
    path = Path(source.name)
    if source.kind == "file":
        if path.suffix.lower() not in READERS:
            raise UserError(f"data source {source.name}: not a table; unpack it and give the folder")
        return {"train": [path]}
    if source.kind != "folder":
        return {}
    card = path / "README.md"
    if card.is_file() and re.search(r"^configs:", card.read_text(errors="replace"), re.MULTILINE):
        from datasets import load_dataset_builder

        found = load_dataset_builder(source.name, source.configuration).config.data_files or {}
        files = {str(split): [Path(file) for file in paths] for split, paths in found.items()}
        return files if all(file.suffix.lower() in READERS for paths in files.values() for file in paths) else {}
    if source.configuration is not None:
        raise UserError(f"--data.configuration {source.configuration}: the README.md of {source.name} has no `configs:`")
    return find_tables(path)


def read_column(source: Source, split: Any, column: str) -> list[Any]:
    """Values of a column of one of the splits of `source`. Raises UserError for text that is not UTF-8."""
    try:
        return list(split[column][:])
    except UnicodeDecodeError as error:
        raise UserError(f"data source {source.name}: column {column} is not UTF-8") from error


def explain(error: BaseException) -> str:
    """Error message in one line: the first of `error`, and the beginning of the error that caused it."""
    if found := re.search(r"available configs: \[(.+?)\]|Available: \[(.+?)\]", str(error)):
        names = (found[1] or found[2]).replace("'", "")
        return f"it has several configurations; choose one with --data.configuration: {names}"
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = str(error).strip().splitlines()
    line, reason = lines[0] if lines else type(error).__name__, one_line(cause, 200)
    return line if reason in line or cause is error else f"{line}: {reason}"
