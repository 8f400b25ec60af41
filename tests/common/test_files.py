"""Files of a run are replaced as a whole, and what killed writes have left is removed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.io.files import remove_leftovers, write_text_atomically

ROOT = Path(__file__).resolve().parents[2]


class PowerCut(BaseException):
    """End of a process in the middle of a write."""


def test_written_text_is_read_back_and_nothing_is_left_beside_it(tmp_path):
    write_text_atomically(tmp_path / "a.txt", "one")
    write_text_atomically(tmp_path / "a.txt", "två\n")
    assert (tmp_path / "a.txt").read_bytes() == "två\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_link_points_to_is_replaced_and_not_the_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a.txt")
    write_text_atomically(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a.txt").read_text() == "one"


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_end_at_any_step_leaves_the_old_file(tmp_path, monkeypatch, step):
    (tmp_path / "a.txt").write_text("old")

    def fail(*args: Any, **options: Any) -> None:
        raise PowerCut

    monkeypatch.setattr(*{"write": (Path, "write_text"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[step], fail)
    with pytest.raises(PowerCut):
        write_text_atomically(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("name", ["config.yaml", "summary.json"])
def test_end_in_a_write_leaves_the_file_of_the_run_before(train, monkeypatch, name):
    path = train("--name", "a").run("a") / name
    before = path.read_bytes()

    def write_half(path: Path, text: str, **options: Any) -> int:
        half = text[: len(text) // 2] if name in path.name else text
        written = path.write_bytes(half.encode())
        if name in path.name:
            raise PowerCut
        return written

    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(PowerCut):
        train("--name", "a", "--resume", "auto", "--max_epochs", "3")
    assert path.read_bytes() == before


def test_no_text_file_is_written_in_place():
    written = re.compile(r"""\.write_text\(|open\(.*["']w[+t]*["']""")
    sources = [path for tree in ("common", "projects") for path in (ROOT / tree).rglob("*.py") if path.name != "files.py"]
    assert not [str(path) for path in sources if written.search(path.read_text())]


# leftovers


def test_leftovers_of_ended_processes_are_removed_and_no_others(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    leftovers = [
        f".summary.json.{ended.pid}.tmp",
        f".step-00000400.ckpt.{ended.pid}.tmp",
        f".a.{os.getpid()}.tmp",
        f".b.{10**12}.tmp",
    ]
    others = [f".summary.json.{os.getppid()}.tmp", "notes.tmp", ".notes.tmp", f"a.{ended.pid}.tmp", ".a.1x.tmp"]
    for name in [*leftovers, *others]:
        (tmp_path / name).touch()
    (tmp_path / f".folder.{ended.pid}.tmp").mkdir()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*others, f".folder.{ended.pid}.tmp"}
    remove_leftovers(tmp_path / "missing")


def test_start_of_a_run_removes_the_leftovers_of_its_folders(train):
    folders = [train("--name", "a").run("a") / part for part in (".", "checkpoints", "plots")]
    for folder in folders:
        (folder / f".x.{10**12}.tmp").touch()
    assert train("--name", "a", "--resume", "auto", "--max_epochs", "3").code == 0
    assert not [path for folder in folders for path in folder.glob(".*.tmp")]
