"""Trained regressor: evaluated on its run's data and on others, and used from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sklearn.metrics import r2_score

from common.cli.evaluate import main as evaluate
from common.cli.main import main as train
from projects.blank import predict
from projects.blank.inference import load
from projects.blank.module import BlankModule
from projects.blank.train import PROJECT
from trained import check_batches, check_evaluation, check_load, checkpoint_of, results


def rows(count: int, seed: int) -> list[list[float]]:
    """Rows a, b, a + 2 b."""
    inputs = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))
    return [[a, b, a + 2 * b] for a, b in inputs.tolist()]


def write(path: Path, header: str, table: list[list[float]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in table), ""]))
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run on a table of 300 rows, of which a tenth is held out for the test."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("common.run.summary.draw_curves", lambda *args: None)
        write(folder / "table" / "rows.csv", "a,b,target", rows(300, seed=0))
        assert (
            train(PROJECT, ["--data.source", "table/rows.csv", "--name", "a", "--max_epochs", "2", "--accelerator", "cpu"])
            == 0
        )
    return folder / "runs" / "blank" / "a"


@pytest.fixture
def run(run_dir, tmp_path, monkeypatch):
    """Evaluates the run's checkpoint in an empty folder, and returns the exit code."""
    monkeypatch.chdir(tmp_path)
    common = ["--checkpoint", str(checkpoint_of(run_dir)), "--accelerator", "cpu", "--precision", "32-true", "--to", "x"]
    return lambda *flags: evaluate(PROJECT, [*common, *flags])


def test_an_evaluation_repeats_the_test_of_the_run_where_the_data_have_moved(run_dir, tmp_path):
    moved = write(tmp_path / "moved" / "rows.csv", "a,b,target", rows(300, seed=0))
    check_evaluation(PROJECT, run_dir, tmp_path, "--data.source", str(moved))


def test_all_of_another_table_is_evaluated_whatever_the_order_of_its_columns(run_dir, run, tmp_path, capsys):
    table = rows(31, seed=1)
    write(tmp_path / "other.csv", "name,target,b,a", [[0, y, b, a] for a, b, y in table])
    assert run("--data.source", "other.csv") == 0
    assert "data source other.csv: all of it is evaluated\n" in capsys.readouterr().out
    predictions = load(checkpoint_of(run_dir))([row[:2] for row in table])
    assert results(tmp_path / "x")["metrics"]["test/r2"] == pytest.approx(
        r2_score([row[2] for row in table], predictions), rel=1e-4
    )


def test_of_another_folder_its_test_split_is_evaluated_also_without_train(run, tmp_path):
    write(tmp_path / "other" / "test.csv", "a,b,target", rows(31, seed=1))
    assert run("--data.source", "other") == 0
    alone = results(tmp_path / "x")["metrics"]
    write(tmp_path / "other" / "train.csv", "a,b,target", rows(50, seed=2))
    assert run("--data.source", "other") == 0
    assert results(tmp_path / "x")["metrics"] == alone


@pytest.mark.parametrize(
    "flags, message",
    [
        ("", "checkpoint {checkpoint}: the data of its run, table/rows.csv, are not here; name others with --data.source"),
        ("--data.source less.csv", "data source less.csv: train has no column b"),
        ("--data.source unlabeled.csv", "--data.target target: the columns are a, b"),
        (
            "--data.source less.csv --model.hidden_dim 3",
            "--model: these options and the weights of the checkpoint do not fit",
        ),
        ("--data.source less.csv --model.hidden_dim no", "--model.hidden_dim: "),
        ("--data.source less.csv --modle.lr 3", "Unrecognized arguments: --modle.lr 3"),
        ("--data.source sample --to {run}", "--to {run}: a run folder, whose results stay as they are"),
        ("--data.source sample --to less.csv", "--to less.csv"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(run_dir, run, tmp_path, capsys, flags, message):
    write(tmp_path / "less.csv", "a,target", [[1, 2], [3, 4]])
    write(tmp_path / "unlabeled.csv", "a,b", [[1, 2], [3, 4]])
    places = {"checkpoint": checkpoint_of(run_dir), "run": run_dir}
    before = json.loads((run_dir / "summary.json").read_text())
    assert run(*flags.format(**places).split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message.format(**places) in error, error
    assert json.loads((run_dir / "summary.json").read_text()) == before


def test_a_checkpoint_predicts_from_python(run_dir, tmp_path):
    table = [row[:2] for row in rows(3, seed=1)]
    regressor = check_load(load, BlankModule, checkpoint_of(run_dir), tmp_path, rows=table)
    check_batches(regressor, table, 10_001)


def test_columns_of_a_file_with_a_header_are_found_by_name(run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = rows(3, seed=1)
    flags = ["--checkpoint", str(checkpoint_of(run_dir))]
    expected = [f"{value:.4f}" for value in load(checkpoint_of(run_dir))([row[:2] for row in table])]
    write(tmp_path / "plain.csv", ",".join(map(str, table[0][:2])), [row[:2] for row in table[1:]])
    write(tmp_path / "named.csv", 'a,b,"target"', table)
    write(tmp_path / "turned.csv", "b,name,a", [[b, 0, a] for a, b, _ in table])
    for file, left_out in (("plain.csv", ""), ("named.csv", "target"), ("turned.csv", "name")):
        assert predict.main([file, *flags]) == 0
        captured = capsys.readouterr()
        assert captured.out.split() == expected
        assert captured.err == (left_out and f"{file}: columns that are no features are left out: {left_out}\n")


@pytest.mark.parametrize(
    "text, line",
    [
        ("a,c\n1,2\n", "no column b, a feature of the training; the header has a, c"),
        ("a,b\n1,2\n1\n", "row 2 has 1 cells, the header 2"),
        ("1,2\n1,x\n", "row 2: 'x' is not a number"),
        ("1,2\n1,nan\n", "row 2 has a value that is not a finite number"),
        ("1,2,3\n", "row 1 has 3 features, not 2"),
    ],
)
def test_files_that_cannot_be_predicted_are_one_line(run_dir, tmp_path, monkeypatch, capsys, text, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text(text)
    assert predict.main(["x.csv", "--checkpoint", str(checkpoint_of(run_dir))]) == 2
    assert capsys.readouterr().err == f"error: x.csv: {line}\n"
