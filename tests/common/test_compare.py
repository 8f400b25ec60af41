"""Comparison of runs: means and deviations by hand, differing settings, damaged runs, and reports in every format."""

from __future__ import annotations

import csv
import json
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

from common.compare import __main__ as compare
from common.compare import curves
from common.compare.curves import draw_comparison, mean_curve
from common.compare.groups import Group, MeanStd, group_runs, make_tables, metric_names, seeds_text
from common.compare.page import page
from common.compare.records import choose_curve, flat_settings, read_run, read_runs
from common.compare.wandb_runs import read_wandb
from common.errors import UserError
from common.plots.figures import MAX_LINES

ROOT = Path(__file__).resolve().parents[2]
ACCURACIES = {0: 0.90, 1: 0.92, 2: 0.94}


def write_run(
    root: Path,
    name: str,
    seed: int = 0,
    accuracy: float = 0.9,
    project: str = "painter",
    source: str = "sample",
    **model: Any,
) -> Path:
    """A finished run's folder as `common.run` leaves it, two validations long."""
    folder = root / project / name
    folder.mkdir(parents=True)
    settings = {"lr": 0.1, "dims": [8, 8], **model}
    config = {"seed": seed, "recipe": "default", "wandb": False, "trainer": {"max_epochs": 2}, "model": settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = ["step,train/loss,val/accuracy,val/loss", "4,2.0,,", f"9,,{accuracy - 0.1},1.5", f"19,,{accuracy},0.5"]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    summary = {
        "project": project,
        "name": name,
        "data_source": source,
        "recipe": "default",
        "command": f"python -m projects.{project}.train --seed {seed} <&>",
        "seed": seed,
        "test": {"test/accuracy": accuracy - 0.01, "test/accuracy_tta": accuracy - 0.02, "test/loss": 0.6},
        "monitor": "val/accuracy",
        "mode": "max",
        "best_validation": {"val/accuracy": accuracy, "val/loss": 0.5, "step": 19.0},
        "train_seconds": 60.0 + seed,
        "samples_per_second": 500.0,
        "device": "a processor",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def runs(tmp_path) -> Path:
    """Three seeds of one kind, one run with another learning rate, and a run of another project."""
    for seed, accuracy in ACCURACIES.items():
        write_run(tmp_path / "runs", f"base-seed{seed}", seed, accuracy)
    write_run(tmp_path / "runs", "slow", 0, 0.95, lr=0.01)
    write_run(tmp_path / "runs", "rhymes", 0, 0.5, project="poet", source="sonnets")
    return tmp_path / "runs"


@pytest.fixture
def run_compare(capsys) -> Callable[..., tuple[int, str, str]]:
    """Calls the command; returns exit code, standard output and standard error."""

    def call(*words: Any) -> tuple[int, str, str]:
        try:
            code = compare.main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


def table_of(runs: Path, project: str = "painter") -> list[dict[str, Any]]:
    """Table of one project, a dictionary for each row."""
    (table,) = [table for table in make_tables(group_runs(read_runs([runs])[0])) if table.project == project]
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


# what is in a table


def test_seeds_are_one_row_with_mean_and_deviation(runs):
    slow, base = table_of(runs)  # the best first
    assert (base["run"], base["seeds"], slow["run"]) == ("base-seed*", "0, 1, 2", "slow")
    for name, off in [("val/accuracy", 0.0), ("test/accuracy", 0.01)]:
        values = [accuracy - off for accuracy in ACCURACIES.values()]
        assert base[name].mean == pytest.approx(statistics.mean(values))
        assert base[name].std == pytest.approx(statistics.stdev(values))
        assert (slow[name].mean, slow[name].std) == (pytest.approx(0.95 - off), None)
    assert (base["training seconds"].mean, base["training seconds"].std) == (61.0, 1.0)
    assert (base["samples per second"].mean, base["data"], base["recipe"]) == (500.0, "sample", "default")


def test_runs_of_one_seed_are_counted(runs):
    group = group_runs(read_runs([runs])[0])[0]
    first = replace(group.runs[0], seed=7)
    assert seeds_text(Group([first, replace(first, seed=8)])) == "7, 8"
    assert seeds_text(Group([first, first, replace(first, seed=8)])) == "7 (2 runs), 8"


def test_only_settings_that_differ_are_columns(runs):
    assert [row["model.lr"] for row in table_of(runs)] == ["0.01", "0.1"]
    assert not {"model.dims", "trainer.max_epochs", "device"} & table_of(runs)[0].keys()
    assert "model.lr" not in table_of(runs, "poet")[0]
    write_run(runs, "wide", 0, 0.1, dims=[16, 16], extra=None)
    rows = {row["run"]: row for row in table_of(runs)}
    assert (rows["wide"]["model.dims"], rows["slow"]["model.dims"]) == ("[16, 16]", "[8, 8]")
    assert (rows["wide"]["model.extra"], rows["slow"]["model.extra"]) == ("null", None)


@pytest.mark.parametrize(
    "change",
    [
        {"data_source": "real"},
        {"data_path": "/elsewhere/sample"},
        {"device": "another"},
        {"recipe": "other"},
        {"project": "potter"},
    ],
    ids=str,
)
def test_runs_that_differ_in_more_than_their_seed_are_not_averaged(runs, change):
    summary = runs / "painter" / "base-seed2" / "summary.json"
    summary.write_text(json.dumps({**json.loads(summary.read_text()), **change}))
    names = [group.name for group in group_runs(read_runs([runs])[0])]
    assert sorted(names) == ["base-seed*", "base-seed2", "rhymes", "slow"]


def test_the_best_group_comes_first_in_both_modes(runs):
    for folder in (runs / "painter").iterdir():
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "mode": "min"}))
    assert [row["run"] for row in table_of(runs)] == ["base-seed*", "slow"]


def test_variants_of_a_metric_are_left_to_the_csv(runs):
    metrics = [name for name in table_of(runs)[0] if name.startswith(("val/", "test/"))]
    assert metrics == ["val/accuracy", "test/accuracy", "test/loss"]
    (every,) = [t for t in make_tables(group_runs(read_runs([runs])[0]), all_metrics=True) if t.project == "poet"]
    assert {"val/loss", "test/accuracy_tta"} <= set(every.header)


def test_only_declared_variants_are_hidden():
    variants = [
        "accuracy_tta",
        "calibration_error_scaled",
        "bleu_lc",
        "bleu_moses_lc",
        "bleu_lc_1-8_words",
        "accuracy_41+_words",
    ]
    main = ["accuracy", "accuracy_top5", "accuracy_real", "bleu", "calibration_error", "f1_macro", "return_mean"]
    run = SimpleNamespace(metrics={f"test/{name}": 1.0 for name in main + variants}, monitor="val/loss", curve_name=None)
    groups: Any = [SimpleNamespace(first=run, runs=[run])]
    assert sorted(metric_names(groups, all_metrics=False)) == sorted(f"test/{name}" for name in main)


@pytest.mark.parametrize(
    "value, text",
    [
        (MeanStd(0.90634, 0.00041), "0.9063 ± 0.0004"),
        (MeanStd(42450.4), "42,450"),
        (MeanStd(24.0, 0.5), "24.00 ± 0.50"),
        (MeanStd(0.0), "0.00"),
        (MeanStd(-0.001234), "-0.001234"),
        (MeanStd(float("nan"), 1.0), "nan"),
    ],
    ids=str,
)
def test_values_have_four_significant_digits(value, text):
    assert str(value) == text


def test_what_is_a_runs_own_is_no_setting():
    config = {"seed": 1, "wandb": True, "data": {"source": "/home/me/x", "pad": 2}, "model": {"a": {"seed": 3}, "b": {}}}
    assert flat_settings(config) == {"data.pad": 2, "model.a.seed": 3, "model.b": {}}


def test_metrics_of_a_diverged_run_stay_nan(tmp_path):
    folder = write_run(tmp_path, "lost", 0, 0.9)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "test": {"test/loss": float("nan")}}))
    assert str(group_runs([read_run(folder)])[0].metric("test/loss")) == "nan"


# which folders are read


def test_runs_are_found_below_any_folder_and_listed_once(runs, monkeypatch, run_compare):
    painter = runs / "painter"
    assert len(read_runs([runs])[0]) == 5
    assert len(read_runs([painter])[0]) == 4
    assert [record.name for record in read_runs([painter / "slow", painter / "slow"])[0]] == ["slow"]
    monkeypatch.chdir(runs.parent)
    code, out, err = run_compare()
    assert (code, err) == (0, "") and all(name in out for name in ("base-seed*", "slow", "rhymes"))


def damage(folder: Path, how: str) -> None:
    summary = folder / "summary.json"
    if how in ("config.yaml", "metrics.csv", "summary.json"):
        (folder / how).unlink()
    elif how == "truncated":
        summary.write_text(summary.read_text()[:100])
    elif how == "a list":
        summary.write_text("[1, 2]")
    elif how == "without metrics":
        summary.write_text(json.dumps({"project": "painter"}))
    elif how == "words for numbers":
        (folder / "metrics.csv").write_text("step,val/accuracy\n1,x\n")
    elif how == "half a line":
        (folder / "metrics.csv").write_text((folder / "metrics.csv").read_text() + "20,1")
    elif how == "empty metrics":
        (folder / "metrics.csv").write_text("")
    elif how == "without the monitored column":
        (folder / "metrics.csv").write_text("step,train/loss\n9,0.5\n")
    elif how in ("empty", "NUL bytes"):
        summary.write_text("\0" * 100 * (how == "NUL bytes"))
    elif how == "infinity":
        summary.write_text(json.dumps({**json.loads(summary.read_text()), "seed": float("inf")}))
    elif how == "no settings":
        (folder / "config.yaml").write_text("")
    elif how == "not YAML":
        (folder / "config.yaml").write_text("a: [")
    elif how == "not text":
        (folder / "config.yaml").write_bytes(b"\xff\xfe\x00")
    elif how == "null for a number":
        summary.write_text(json.dumps({**json.loads(summary.read_text()), "train_seconds": None}))
    elif how == "only checkpoints":
        shutil.rmtree(folder)
        (folder / "checkpoints").mkdir(parents=True)


DAMAGES = ["config.yaml", "summary.json", "truncated", "a list", "without metrics", "empty", "NUL bytes", "infinity"]
DAMAGES += ["no settings", "not YAML", "not text", "null for a number", "only checkpoints"]
METRICS_DAMAGES = ["metrics.csv", "words for numbers", "half a line", "empty metrics"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_run_is_skipped_with_one_line(runs, run_compare, how):
    damage(runs / "painter" / "base-seed1", how)
    code, out, err = run_compare(runs)
    assert code == 0 and "base-seed*" in out and "0, 2" in out
    assert re.fullmatch(r"skipped: .*base-seed1.*\n", err), err


@pytest.mark.parametrize(
    "how, line",
    [
        ("metrics.csv", "No such file or directory: no curve"),
        ("words for numbers", "1 unreadable line"),
        ("half a line", "1 unreadable line"),
        ("empty metrics", "the file is empty"),
    ],
)
def test_a_run_with_damaged_metrics_is_compared_with_one_line(runs, run_compare, how, line):
    damage(runs / "painter" / "base-seed0", how)
    code, _, err = run_compare(runs, "--output", runs.parent / "a.md")
    assert code == 0 and "| base-seed* | sample | default | 0, 1, 2 |" in (runs.parent / "a.md").read_text()
    assert err == f"{runs}/painter/base-seed0/metrics.csv: {line}\n"


def test_curves_of_the_undamaged_seeds_are_drawn(runs, tmp_path, drawn):
    damage(runs / "painter" / "base-seed0", "words for numbers")
    damage(runs / "painter" / "base-seed1", "without the monitored column")
    draw_comparison(group_runs(read_runs([runs])[0]), tmp_path / "a.png")
    (painter,) = [axes for axes in drawn[0].axes if axes.get_title() == "painter: val/accuracy"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in painter.get_lines()}
    assert lines["base-seed* (3 seeds)"] == [[9, pytest.approx(0.84)], [19, pytest.approx(0.94)]]


def test_all_kinds_of_damage_in_one_folder_are_a_line_each(runs, run_compare):
    names = [f"run{i:02}" for i, _ in enumerate(DAMAGES + METRICS_DAMAGES)]
    for name, how in zip(names, DAMAGES + METRICS_DAMAGES, strict=True):
        damage(write_run(runs, name), how)
    code, out, err = run_compare(runs)
    lines = err.splitlines()
    assert code == 0 and "slow" in out and len(lines) == len(names)
    assert all(sum(f"/{name}" in line for line in lines) == 1 for name in names)


def test_an_unfinished_run_is_skipped(runs, run_compare):
    (runs / "painter" / "slow" / "summary.json").unlink()
    assert "slow: no summary.json; the run has not ended" in run_compare(runs)[2]


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere"], "nowhere: no such folder; give run folders"),
        (["empty"], "empty: no run in this folder"),
        (["broken"], "no finished run to compare"),
        (["runs", "--output", "a.txt"], "--output a.txt: name a file that ends in .md, .csv, .html"),
        (["runs", "--output", "letter.md"], "letter.md is there already and no comparison"),
        (["runs", "--output", "plot.md"], "plot.png is there already and no comparison"),
        (["runs", "--output", "letter.md/a.md"], "--output letter.md/a.md: "),
        (["--bogus"], "unrecognized arguments: --bogus (see --help)"),
        (["--wandb", "somewhere"], "--wandb somewhere: name it as ENTITY/PROJECT"),
        (["--wandb", "a/b"], "--wandb a/b: no API key"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(runs, monkeypatch, run_compare, words, message):
    monkeypatch.chdir(runs.parent)
    Path("empty").mkdir()
    Path("broken/checkpoints").mkdir(parents=True)
    Path("letter.md").write_text("Dear all")
    Path("plot.png").write_text("mine")
    code, out, err = run_compare(*words)
    errors = [line for line in err.splitlines() if not line.startswith("skipped")]
    assert (code, out) == (2, "") and len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0], err
    assert (Path("letter.md").read_text(), Path("plot.png").read_text()) == ("Dear all", "mine")


def test_help_and_listing_need_no_torch(runs):
    for words in (["--help"], [str(runs)]):
        code = f"import sys; from common.compare.__main__ import main\ntry: main({words})\nexcept SystemExit: pass\n"
        code += "print(sorted({'torch', 'lightning', 'wandb', 'pandas', 'matplotlib'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


# curves


def test_mean_curve_covers_the_steps_that_all_curves_span(tmp_path):
    steps, means, deviations = mean_curve([[(0, 0.0), (10, 10.0)], [(5, 7.0), (10, 14.0), (20, 0.0)]])
    assert (steps.tolist(), means.tolist()) == ([5, 10], [6.0, 12.0])
    assert deviations.tolist() == pytest.approx([statistics.stdev([5, 7]), statistics.stdev([10, 14])])
    assert [values.tolist() for values in mean_curve([[(1, 2.0), (3, 4.0)]])] == [[1, 3], [2.0, 4.0], [0.0, 0.0]]


def test_each_project_has_a_panel_and_each_group_a_line(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: drawn.append(figure) or path)
    draw_comparison(group_runs(read_runs([runs])[0]), tmp_path / "a.png")
    panels = {axes.get_title(): axes for axes in drawn[0].axes if axes.get_visible()}
    assert set(panels) == {"painter: val/accuracy", "poet: val/accuracy"}
    painter = panels["painter: val/accuracy"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in painter.get_lines()}
    assert lines["slow"] == [[9, pytest.approx(0.85)], [19, pytest.approx(0.95)]]
    assert lines["base-seed* (3 seeds)"] == [[9, pytest.approx(0.82)], [19, pytest.approx(0.92)]]
    (band,) = painter.collections
    edges = band.get_paths()[0].vertices
    assert (edges[:, 1].min(), edges[:, 1].max()) == (pytest.approx(0.80), pytest.approx(0.94))


def test_curves_of_several_sources_say_which(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: drawn.append(figure) or path)
    write_run(runs, "real", 0, 0.7, source="museum")
    draw_comparison(group_runs(read_runs([runs / "painter"])[0]), tmp_path / "a.png")
    labels = [line.get_label() for line in drawn[0].axes[0].get_lines()]
    assert labels == ["real, museum", "slow, sample", "base-seed* (3 seeds), sample"]


def test_folders_of_one_name_are_distinguished(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: drawn.append(figure) or path)
    for seed, folder in enumerate(("/a/sample", "/a/sample", "/b/sample")):
        summary = write_run(tmp_path / "new", f"s{seed}", seed) / "summary.json"
        summary.write_text(json.dumps({**json.loads(summary.read_text()), "data_path": folder}))
    rows = [(row["run"], row["data"]) for row in table_of(tmp_path / "new")]
    assert rows == [("s*", "sample (/a/sample)"), ("s2", "sample (/b/sample)")]
    draw_comparison(group_runs(read_runs([tmp_path / "new"])[0]), tmp_path / "a.png")
    labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert labels == ["s* (2 seeds), sample (/a/sample)", "s2, sample (/b/sample)"]


@pytest.mark.parametrize("values", [("nan", "0.9"), ("inf", "0.9"), ("inf", "-inf"), ("nan", "nan")])
@pytest.mark.filterwarnings("error")
def test_curves_and_metrics_that_are_not_finite_are_shown(tmp_path, run_compare, values):
    for seed, value in enumerate(values):
        folder = write_run(tmp_path / "runs", f"_s{seed}", seed)
        table = (folder / "metrics.csv").read_text().replace("19,,0.9,", f"19,,{value},")
        (folder / "metrics.csv").write_text(table)
        summary = json.loads((folder / "summary.json").read_text())
        summary["best_validation"]["val/accuracy"] = float(value)
        (folder / "summary.json").write_text(json.dumps(summary))
    code, _, err = run_compare(tmp_path / "runs", "--output", tmp_path / "a.md")
    assert (code, err) == (0, "")
    assert str(table_of(tmp_path / "runs")[0]["val/accuracy"]) in ("nan", "inf")
    _, mean, std = mean_curve([run.curve for run in read_runs([tmp_path / "runs"])[0]])
    assert mean.tolist() == pytest.approx([0.8, float("nan")], nan_ok=True) and not (std > 0).any()


def test_a_run_whose_name_begins_with_an_underscore_is_in_the_legend(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: drawn.append(figure) or path)
    folder = write_run(tmp_path, "_baseline", 0)
    (folder / "metrics.csv").write_text("step,val/accuracy\n1,0.5\n2,nan\n")
    draw_comparison(group_runs(read_runs([tmp_path])[0]), tmp_path / "a.png")
    (text,) = drawn[0].axes[0].get_legend().get_texts()
    assert text.get_text() == "_baseline, NaN or infinity"


def test_of_many_runs_the_best_have_colors_of_their_own_and_a_legend_beside_the_plot(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: drawn.append(figure) or path)
    record = read_run(write_run(tmp_path, "a", 0))
    records = [
        replace(record, name=f"run{i:03}" + "x" * 90, settings={"lr": i}, metrics={"val/accuracy": 1 - i / 300})
        for i in range(300)
    ]
    draw_comparison(group_runs(records), tmp_path / "a.png")
    (axes,) = drawn[0].axes
    lines, legend = axes.get_lines(), axes.get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(lines) == 300 and len(texts) == MAX_LINES + 1 and texts[-1] == "and 279 more"
    assert texts[0].startswith("run000") and max(map(len, texts)) <= 60
    styles = [(line.get_color(), line.get_linestyle()) for line in lines]
    assert len(set(styles[:MAX_LINES])) == MAX_LINES == 21 and len(set(styles[MAX_LINES:])) == 1
    drawn[0].draw_without_rendering()
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1, "beside the plot"
    assert axes.get_window_extent().width > 0.4 * drawn[0].bbox.width


@pytest.mark.parametrize(
    "monitor, names, chosen",
    [
        ("val/bleu", ["train/loss", "val/bleu", "val/loss"], "val/bleu"),
        ("val/bleu", ["train/loss", "val/loss"], "val/loss"),
        ("val/bleu", ["train/loss"], "train/loss"),
        ("", ["val/bleu_lc", "perf/x"], "val/bleu_lc"),
        ("", ["perf/x"], ""),
    ],
)
def test_the_curve_is_of_the_monitored_metric(monitor, names, chosen):
    assert choose_curve(monitor, [{name: 1.0} for name in names]) == chosen


def test_runs_without_a_curve_have_no_plot(runs, tmp_path):
    for folder in (runs / "painter").iterdir():
        (folder / "metrics.csv").write_text("step\n1\n")
    assert draw_comparison(group_runs(read_runs([runs / "painter"])[0]), tmp_path / "a.png") is None


# files


def test_markdown_has_the_table_and_a_plot_beside_it(runs, tmp_path, run_compare):
    target = tmp_path / "reports" / "a.md"
    for _ in range(2):  # a report may be written anew
        code, out, err = run_compare(runs, "--output", target)
        assert (code, err, out) == (0, "", f"{target}\n{target.with_suffix('.png')}\n")
    text = target.read_text()
    assert "![Curves of the runs](a.png)" in text
    assert "| base-seed* | sample | default | 0, 1, 2 | 0.9200 ± 0.0200 | 0.9100 ± 0.0200 | 0.6000 ± 0.0000 |" in text
    assert [line.endswith("| 0.1 |") for line in text.splitlines() if line.startswith("| base-seed*")] == [True]
    with Image.open(target.with_suffix(".png")) as image:
        assert min(image.size) > 200


def test_csv_has_all_metrics_as_numbers(runs, tmp_path, run_compare):
    assert run_compare(runs, "--output", tmp_path / "a.csv")[0] == 0
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["slow", "base-seed*", "rhymes"]
    base = rows["base-seed*"]
    assert (base["project"], base["seeds"], base["model.lr"]) == ("painter", "0, 1, 2", "0.1")
    assert float(base["test/accuracy_tta"]) == pytest.approx(0.90)
    assert float(base["test/accuracy_tta std"]) == pytest.approx(0.02)
    assert (rows["slow"]["test/accuracy std"], rows["rhymes"]["model.lr"]) == ("", "")


def test_a_narrow_terminal_has_a_column_for_each_run(runs, monkeypatch, run_compare):
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "dumb")
    out = run_compare(runs / "painter")[1]
    assert re.search(r"run +┃ slow +┃ base-seed\*", out)
    assert re.search(r"model.lr +│ 0.01 +│ 0.1 ", out) and max(map(len, out.splitlines())) <= 70


class TableRows(HTMLParser):
    """The rows of a page's tables, in `rows`."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.within = False  # a cell

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.within = True

    def handle_endtag(self, tag: str) -> None:
        self.within = self.within and tag not in ("td", "th", "table")

    def handle_data(self, data: str) -> None:
        if self.within:
            self.rows[-1][-1] += data


def browse(browser: str, page: Path, folder: Path) -> tuple[str, list[str], set[str]]:
    """Opens `page` in headless Chromium; returns the document, its console's lines, and which hosts were asked for anything.

    The browser asks some hosts of its maker's whatever the page is.
    """
    log = folder / f"{page.stem}-network.json"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [f"--user-data-dir={folder / page.stem}", "--enable-logging=stderr", f"--log-net-log={log}"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"]
    done = subprocess.run([browser, *flags, page.as_uri()], capture_output=True, text=True, timeout=60)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]
    return done.stdout, console, set(re.findall(r'"url":"https?://([^/"]+)', log.read_text()))


def test_the_page_opens_in_a_browser_with_all_rows_no_errors_and_no_requests(runs, tmp_path, run_compare):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    page, bad = tmp_path / "runs.html", tmp_path / "bad.html"
    assert run_compare(runs, "--output", page)[0] == 0
    bad.write_text('<img src="http://elsewhere.invalid/a.png"><script>wrong()</script>')
    _, console, own_hosts = browse(browser, bad, tmp_path)
    assert "wrong is not defined" in console[0] and "elsewhere.invalid" in own_hosts, "else the test would see nothing"

    document, console, hosts = browse(browser, page, tmp_path)
    assert console == [] and hosts <= own_hosts - {"elsewhere.invalid"}
    parser = TableRows()
    parser.feed(document)
    assert [row[0] for row in parser.rows] == ["run", "slow", "base-seed*", "run", "rhymes"]
    base = dict(zip(parser.rows[0], parser.rows[2], strict=True))
    assert (base["differing settings"], base["val/accuracy"], base["training seconds"]) == (
        "model.lr: 0.1",
        "0.9200 ± 0.0200",
        "61.00 ± 1.00",
    )


def test_differing_settings_stand_beside_the_name_in_the_page(runs):
    parser = TableRows()
    parser.feed(page(group_runs(read_runs([runs])[0])))
    assert [row[:3] for row in parser.rows] == [
        ["run", "differing settings", "data"],
        ["slow", "model.lr: 0.01", "sample"],
        ["base-seed*", "model.lr: 0.1", "sample"],
        ["run", "data", "recipe"],
        ["rhymes", "sonnets", "default"],
    ]


def test_the_page_is_one_file_with_escaped_text(runs, tmp_path, run_compare):
    write_run(runs, "<script>", 0, 0.2, lr=3)
    assert run_compare(runs, "--output", tmp_path / "a.html")[0] == 0
    text = (tmp_path / "a.html").read_text()
    assert "&lt;script&gt;" in text and "<script" not in text and "<&>" not in text
    assert re.findall(r'(?:src|href)="([^"]{0,22})', text) == ["data:image/png;base64,"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "runs"]


# W&B


class FakeRun(SimpleNamespace):
    """What `wandb.Api().runs(...)` yields, as far as it is used."""

    def history(self, keys: list[str], samples: int, pandas: bool) -> list[dict[str, Any]]:
        assert not pandas and samples > 0
        return [row for row in self.rows if all(key in row for key in keys)]


def fake_run(name: str = "a-seed0", state: str = "finished", **changes: Any) -> FakeRun:
    """A run as `common.run` logs it: the best value of the monitored metric and of the loss, the last of all else."""
    config = {"seed": 0, "recipe": "default", "wandb": True, "model": {"lr": 0.1}, "data": {"source": "auto"}}
    config |= {"data/source": "sample", "_wandb": {"cli_version": "0"}}
    summary = {
        "val/accuracy": {"max": 0.9},
        "val/loss": {"min": 0.4},
        "test/accuracy": 0.88,
        "_runtime": 70,
        "train/loss": 0.1,
    }
    summary |= {"perf/train_seconds": 60.0, "perf/samples_per_second": 500.0, "plots/curves": {"_type": "images/separated"}}
    rows = [{"val/accuracy": 0.9, "trainer/global_step": 19}, {"train/loss": 1.0, "trainer/global_step": 4}]
    rows.insert(0, {"val/accuracy": 0.7, "trainer/global_step": 9})
    run = {"name": name, "state": state, "config": config, "summary": summary, "rows": rows}
    return FakeRun(**{**run, **changes})


def fake_api(*runs: FakeRun) -> SimpleNamespace:
    return SimpleNamespace(runs=lambda path: iter(runs))


def test_wandb_runs_are_read_like_folders(tmp_path):
    (record,), errors = read_wandb("me/capstones-painter", fake_api(fake_run()))
    assert errors == []
    assert (record.project, record.name, record.source, record.recipe, record.seed) == (
        "painter",
        "a-seed0",
        "sample",
        "default",
        0,
    )
    assert record.metrics == {"val/accuracy": 0.9, "val/loss": 0.4, "test/accuracy": 0.88}
    assert (record.monitor, record.mode, record.settings) == ("val/accuracy", "max", {"model.lr": 0.1})
    assert (record.train_seconds, record.samples_per_second) == (60.0, 500.0)
    assert (record.curve_name, record.curve) == ("val/accuracy", [(9.0, 0.7), (19.0, 0.9)])


def test_wandb_runs_are_grouped_and_others_skipped():
    other_seed = fake_run("a-seed1", config={**fake_run().config, "seed": 1})
    foreign = fake_run("foreign", config={"batch": 3})
    records, errors = read_wandb("me/p", fake_api(fake_run(), other_seed, fake_run("b", "running"), foreign))
    (group,) = group_runs(records)
    assert (group.name, group.metric("val/accuracy").std) == ("a-seed*", 0.0)
    assert errors[0] == "me/p/b: running" and errors[1].startswith("me/p/foreign: not a run of this suite")


def test_a_server_that_fails_is_one_line():
    def fail(path: str) -> Any:
        raise ConnectionError("no route\nto host")

    with pytest.raises(UserError, match=r"--wandb me/p: no route to host"):
        read_wandb("me/p", SimpleNamespace(runs=fail))


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_that_is_switched_off_is_not_asked(monkeypatch, run_compare, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert run_compare("--wandb", "me/p") == (2, "", f"error: --wandb me/p: WANDB_MODE is {mode}\n")


def test_without_a_network_wandb_is_not_waited_for(monkeypatch, run_compare):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    code, out, err = run_compare("--wandb", "me/p")
    assert (code, out) == (2, "") and re.fullmatch(
        r"error: --wandb me/p: http://127.0.0.1:9 cannot be reached \(.+\)\n", err
    )


@pytest.mark.parametrize("mode, line", [("503", "--wandb me/p: .* answers 503"), ("401", "--wandb: .* rejects the API key")])
def test_sick_server_is_one_line(wandb_server, run_compare, mode, line):
    server = wandb_server(mode)
    code, out, err = run_compare("--wandb", "me/p")
    assert (code, out, err.count("\n")) == (2, "", 1) and re.match(f"error: {line}", err)
    assert len(server.requests) == 1


@pytest.mark.parametrize("hanging", ["project", "next run", "history"])
def test_server_that_hangs_is_waited_for_once(monkeypatch, hanging):
    ended = threading.Event()
    run = fake_run()
    if hanging == "history":
        monkeypatch.setattr(FakeRun, "history", lambda run, **options: ended.wait())
    runs = {
        "project": lambda path: ended.wait(),
        "next run": lambda path: filter(None, (item or ended.wait() for item in [run, None])),
        "history": lambda path: iter([run]),
    }
    began = time.perf_counter()
    with pytest.raises(UserError, match=r"--wandb me/p: W&B's server has not answered within 0.1 seconds"):
        read_wandb("me/p", SimpleNamespace(runs=runs[hanging]), timeout=0.1)
    assert time.perf_counter() - began < 2
    ended.set()
