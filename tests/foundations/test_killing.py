"""Watching how a file is replaced: every way by which a kill would lose the old contents is seen, and no other."""

import io
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import save

from foundations.killing import watched


def into_memory_first(path):
    buffer = io.BytesIO()
    torch.save({"step": 2}, buffer)
    path.write_bytes(buffer.getvalue())


def by_another_name(path):
    save({"step": 2}, path)


def copied(path):
    save({"step": 2}, path.with_suffix(".new"))
    shutil.copy(path.with_suffix(".new"), path)


def opened_again(path):
    with path.open("r+b") as file:
        file.write(b"x")


def unlinked(path):
    save({"step": 2}, path.with_suffix(".new"))
    path.unlink(missing_ok=True)
    path.with_suffix(".new").rename(path)


def moved_away(path):
    path.rename(f"{path}.old")
    save({"step": 2}, path)


def replaced(path):
    save({"step": 2}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def renamed_within_the_folder(path):
    before = Path.cwd()
    os.chdir(path.parent)
    save({"step": 2}, "new")
    Path("new").rename(path.name)
    os.chdir(before)


def copied_aside(path):
    shutil.copy(path, path.with_suffix(".before"))
    replaced(path)
    path.with_suffix(".before").unlink()


CASES = [(into_memory_first, True, False), (by_another_name, True, False), (copied, True, False)]
CASES += [(opened_again, True, False), (unlinked, False, True), (moved_away, False, True)]
CASES += [(way, False, False) for way in (replaced, renamed_within_the_folder, copied_aside)]


@pytest.mark.parametrize(("way", "in_place", "gone"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_ways_to_replace_a_file(way, in_place, gone, tmp_path):
    path = tmp_path / "run.pt"
    torch.save({"step": 1}, path)
    with watched(path) as replacement:
        way(path)
    assert (replacement.in_place, replacement.gone) == (in_place, gone)
    assert not path.with_name("old.link").exists()
