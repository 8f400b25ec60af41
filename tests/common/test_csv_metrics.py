"""`metrics.csv` of a run survives resumes, damage and kills."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities import rank_zero_only

from common.io.csv_metrics import csv_logger
from common.io.metrics import parse_metrics, read_metrics


def write_rows(folder: Path, rows: list[dict[str, float]]) -> None:
    logger = csv_logger(folder)
    for row in rows:
        logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))
    logger.save()


ROWS = [
    {"step": 1, "train/loss": 3.0},
    {"step": 2, "train/loss": 2.0},
    {"step": 2, "val/loss": 2.5, "epoch": 0},  # the end of an epoch of two steps
    {"step": 3, "train/loss": 1.0},
    {"step": 4, "train/loss": 0.5},
    {"step": 4, "val/loss": 0.7, "epoch": 1},
    {"step": 4, "test/loss": 0.6},
]


def test_metrics_are_read_back_as_logged(tmp_path):
    write_rows(tmp_path, ROWS)
    assert read_metrics(tmp_path / "metrics.csv") == ROWS


@pytest.mark.parametrize("steps_done, kept", [(0, 0), (1, 1), (2, 3), (3, 4), (4, 6), (5, 6)])
def test_resumed_run_keeps_the_metrics_of_steps_that_it_does_not_repeat(tmp_path, capsys, steps_done, kept):
    write_rows(tmp_path, ROWS)
    logger = csv_logger(tmp_path, steps_done)
    assert (read_metrics(tmp_path / "metrics.csv") if kept else []) == ROWS[:kept]
    logger.log_metrics({"train/loss": 9.0, "new": 1.0}, step=steps_done)
    logger.save()
    assert read_metrics(tmp_path / "metrics.csv") == [*ROWS[:kept], {"step": steps_done, "train/loss": 9.0, "new": 1.0}]
    assert read_metrics(tmp_path / "metrics.dropped.csv") == ROWS[kept:], "nothing is lost"
    assert f"metrics.csv: {len(ROWS) - kept} row" in capsys.readouterr().out


def test_a_resume_that_drops_no_row_says_nothing(tmp_path, capsys):
    write_rows(tmp_path, ROWS[:-1])
    csv_logger(tmp_path, 4)
    assert read_metrics(tmp_path / "metrics.csv") == ROWS[:-1] and capsys.readouterr() == ("", "")
    assert not (tmp_path / "metrics.dropped.csv").exists()


def test_rows_that_several_resumes_drop_are_all_kept(tmp_path):
    write_rows(tmp_path, ROWS)
    csv_logger(tmp_path, 3)
    csv_logger(tmp_path, 1)
    csv_logger(tmp_path)  # from the start, as there was no checkpoint yet
    assert not (tmp_path / "metrics.csv").exists()
    assert read_metrics(tmp_path / "metrics.dropped.csv") == [*ROWS[4:], *ROWS[1:4], *ROWS[:1]]


# damaged files


def line(number: int, new: bytes) -> Callable[[bytes], bytes]:
    """Replaces a line of the file, the header being 0; its line end as well."""

    def damage(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        return b"".join([*lines[:number], new, *lines[number + 1 :]])

    return damage


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], list[int], int]] = {  # which rows are readable, and the other lines
    "NUL bytes at the end": (lambda data: data + b"\0" * 900, [0, 1, 2, 3, 4, 5, 6], 1),
    "NUL bytes in a line": (line(3, b"0,2,\0\0\0,,2.5\r\n"), [0, 1, 3, 4, 5, 6], 1),
    "NUL bytes for a line and its end": (line(3, b"\0" * 20), [0, 1, 4, 5, 6], 1),
    "half a last line": (lambda data: data + b",5,", [0, 1, 2, 3, 4, 5, 6], 1),
    "a last number cut short": (lambda data: data + b",5,,0.12", [0, 1, 2, 3, 4, 5, 6], 1),
    "half a line inside": (line(2, b",2\r\n"), [0, 2, 3, 4, 5, 6], 1),
    "two lines in one": (line(2, b",2,,2.0,"), [0, 3, 4, 5, 6], 1),
    "a cell too many": (line(1, b",1,,3.0,,7.0\r\n"), [1, 2, 3, 4, 5, 6], 1),
    "no number": (line(4, b",3,,x,\r\n"), [0, 1, 2, 4, 5, 6], 1),
    "no step": (line(4, b",,,1.0,\r\n"), [0, 1, 2, 4, 5, 6], 1),
    "an infinite step": (line(4, b",inf,,1.0,\r\n"), [0, 1, 2, 4, 5, 6], 1),
    "a quote": (line(2, b',"2,,2.0,\r\n'), [0, 2, 3, 4, 5, 6], 1),
    "a long cell": (line(2, b"1" * 200_000 + b"\r\n"), [0, 2, 3, 4, 5, 6], 1),
    "not UTF-8": (line(2, b",2,,2.\xe4,\r\n"), [0, 2, 3, 4, 5, 6], 1),
    "UTF-8 with its mark": (lambda data: b"\xef\xbb\xbf" + data, [0, 1, 2, 3, 4, 5, 6], 0),
    "UTF-16": (lambda data: data.decode().encode("utf-16"), [0, 1, 2, 3, 4, 5, 6], 0),
    "other line ends": (lambda data: data.replace(b"\r\n", b"\n"), [0, 1, 2, 3, 4, 5, 6], 0),
    "blank lines": (lambda data: data.replace(b"\r\n", b"\r\n\r\n"), [0, 1, 2, 3, 4, 5, 6], 0),
    "the header again": (lambda data: data + data[: data.index(b"\n") + 1], [0, 1, 2, 3, 4, 5, 6], 0),
    "the header of other columns": (lambda data: b"x,step\r\n" + data, [0, 1, 2, 3, 4, 5, 6], 0),
    "an extra column without a name": (lambda data: data.replace(b"\r\n", b",\r\n"), [0, 1, 2, 3, 4, 5, 6], 0),
    "no header": (line(0, b""), [], 7),
    "half a header": (lambda data: data[:5], [], 1),
}


@pytest.fixture(params=DAMAGES)
def damaged(request, tmp_path) -> tuple[Path, list[dict[str, float]], int]:
    """A run folder whose metrics.csv is damaged, its readable rows, and the number of its other lines."""
    damage, readable, lost = DAMAGES[request.param]
    write_rows(tmp_path, ROWS)
    path = tmp_path / "metrics.csv"
    path.write_bytes(damage(path.read_bytes()))
    return tmp_path, [ROWS[i] for i in readable], lost


def test_readable_rows_of_a_damaged_file_are_read(damaged, capsys):
    folder, readable, lost = damaged
    assert read_metrics(folder / "metrics.csv") == readable
    assert capsys.readouterr().err == (f"{folder}/metrics.csv: {lost} unreadable line{'s' * (lost > 1)}\n" if lost else "")


def test_readable_rows_of_a_damaged_file_survive_a_resume(damaged, capsys):
    folder, readable, lost = damaged
    before = parse_metrics((folder / "metrics.csv").read_bytes())
    logger = csv_logger(folder, 3)
    logger.log_metrics({"new": 1.0}, step=4)
    out, err = capsys.readouterr()
    assert err == "" and (f"{lost} unreadable line{'s' * (lost > 1)}: moved to metrics.dropped.csv\n" in out) == (lost > 0)
    kept = [row for row in readable if row["step"] <= 3]
    assert read_metrics(folder / "metrics.csv") == [*kept, {"step": 4, "new": 1.0}]
    dropped = (folder / "metrics.dropped.csv").read_text()
    assert all(line.strip() in dropped for line, row in before if row is None)


def test_an_empty_file_is_said_to_be_empty(tmp_path, capsys):
    (tmp_path / "metrics.csv").touch()
    assert read_metrics(tmp_path / "metrics.csv") == []
    csv_logger(tmp_path, 3)
    assert capsys.readouterr() == tuple([f"{tmp_path}/metrics.csv: the file is empty\n"] * 2)
    assert not (tmp_path / "metrics.dropped.csv").exists()


# kills


class Killed(BaseException):
    """End of the process."""


@pytest.fixture
def kill_at(monkeypatch) -> Callable[[int | None], None]:
    """Sets how many operations on files the process survives; None for all."""
    left: list[int | None] = [None]

    def patch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return original(*args, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, name in [(os, "fsync"), (os, "replace"), (os, "rename"), (os, "unlink"), (os, "remove")]:
        patch(owner, name)
    for name in ("writeheader", "writerow", "writerows"):  # a file that is open for writing is empty at first
        patch(csv.DictWriter, name)
    return lambda count: left.__setitem__(0, count)


def survives(operation: Callable[[], object]) -> bool:
    """Calls `operation`; whether the process was not killed."""
    try:
        operation()
    except Killed:
        return False
    return True


@pytest.mark.parametrize("resumed_step, kept", [(2, 3), (0, 0), (4, 6)])
def test_a_kill_at_any_moment_of_a_resume_loses_no_row(tmp_path, kill_at, resumed_step, kept):
    for count in itertools.count():
        folder = tmp_path / str(count)
        kill_at(None)
        write_rows(folder, ROWS)
        kill_at(count)
        survived = survives(lambda folder=folder: csv_logger(folder, resumed_step))
        kill_at(None)
        logger = csv_logger(folder, resumed_step)
        logger.log_metrics({"train/loss": 9.0}, step=9)
        rows = read_metrics(folder / "metrics.csv")
        assert rows == [*ROWS[:kept], {"step": 9, "train/loss": 9.0}]
        assert all(row in [*rows, *read_metrics(folder / "metrics.dropped.csv")] for row in ROWS)
        if survived:
            break
    assert count > 3


def test_a_kill_at_any_moment_of_a_new_metric_loses_no_row(tmp_path, kill_at):
    for count in itertools.count():
        folder = tmp_path / str(count)
        kill_at(None)
        write_rows(folder, ROWS)
        logger = csv_logger(folder, 4)
        kill_at(count)
        survived = survives(lambda logger=logger: logger.log_metrics({"new": 9.0}, step=5))
        kill_at(None)
        assert read_metrics(folder / "metrics.csv") == [*ROWS[:6], {"step": 5, "new": 9.0}][: 7 if survived else 6]
        if survived:
            break
    assert count > 3


def test_only_rank_0_touches_the_file(tmp_path, monkeypatch):
    write_rows(tmp_path, ROWS)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    csv_logger(tmp_path, 1).save()
    assert [path.name for path in tmp_path.glob("metrics*")] == ["metrics.csv"]
    assert read_metrics(tmp_path / "metrics.csv") == ROWS
