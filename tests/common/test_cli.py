"""Command line: flags override files, help is quick and complete, and every mistake is one line."""

from __future__ import annotations

import re
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from jsonargparse.typing import PositiveFloat
from lightning.pytorch import Callback

from common.cli.command import OneLineParser, report_errors, seed_value
from common.cli.flags import TRAINER_FLAGS, normalize_arguments
from common.cli.main import main, start
from common.cli.parser import CapstoneCLI
from common.cli.recipes import find_config, uses_sample, with_saved_config
from common.cli.suggestions import suggestion
from common.errors import Preempted, UserError
from common.options import Fraction, PositiveFraction
from toy.data import ToyData
from toy.train import PROJECT

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = Path("recipes/default.yaml")


# arguments and configuration files


@pytest.mark.parametrize(
    "args, expected",
    [
        ("--devices 2", "--trainer.devices 2"),
        ("--devices=2 --precision=16-mixed", "--trainer.devices=2 --trainer.precision=16-mixed"),
        ("--max_epochs 3 --config x.yaml", "--config x.yaml --trainer.max_epochs 3"),
        ("--max_epochs 3 --config=x.yaml -c y.yaml", "--config x.yaml --config y.yaml --trainer.max_epochs 3"),
        ("--trainer.max_epochs 3 --name a", "--trainer.max_epochs 3 --name a"),
        ("--wandb", "--wandb=true"),
        ("--wandb --name a", "--wandb=true --name a"),
        ("--wandb false --name a", "--wandb false --name a"),
        ("--wandb=false", "--wandb=false"),
        ("--fast_dev_run", "--trainer.fast_dev_run=true"),
        ("--fast_dev_run 3 --wandb", "--trainer.fast_dev_run 3 --wandb=true"),
        ("--name devices", "--name devices"),
        ("--name=--devices=2", "--name=--devices=2"),
        ("--config", "--config "),
    ],
)
def test_short_flags_are_expanded_and_files_go_in_front(args, expected):
    assert normalize_arguments(args.split(), None) == expected.split(" ")


def test_default_recipe_is_used_without_a_config():
    assert normalize_arguments(["--devices", "2"], DEFAULT) == ["--config", str(DEFAULT), "--trainer.devices", "2"]
    assert normalize_arguments(["-c", "x.yaml"], DEFAULT) == ["--config", "x.yaml"]
    assert normalize_arguments([], None) == []
    for source, recipe in [("sample", "sample"), ("auto", "sample"), (".", "default")]:  # the hub is out of reach
        config = CapstoneCLI(PROJECT, ["--data.source", source]).config
        assert config.config[-1].relative.endswith(f"tests/toy/recipes/{recipe}.yaml") and config.recipe == recipe


@pytest.mark.parametrize(
    ("args", "sample"),
    [
        ("--data.source sample", True),
        ("--data.source=sample --devices 2", True),
        ("--devices 2 --data.source .", False),
        ("", True),  # nothing is cached, and the hub is out of reach
        ("--data.source auto", True),
        ("--data.source sample --config x.yaml", False),
        ("--data.source sample -c x.yaml", False),
        ("--data.source sample --help", False),
    ],
)
def test_sample_recipe_is_used_for_the_sample(args, sample):
    assert uses_sample(args.split(), ToyData, PROJECT.default_recipe) is sample


def test_source_in_the_default_recipe_decides(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    for text, sample in [
        ("", True),
        ("data:\n", True),
        ("data:\n  source: ring8\n", False),
        ("data: {source: sample}", True),
    ]:
        recipe.write_text(text)
        assert uses_sample([], ToyData, recipe) is sample, text
    assert uses_sample(["--data.source", "sample"], ToyData, recipe)


def test_other_ranks_take_over_whether_it_is_the_sample(monkeypatch):
    assert uses_sample([], ToyData, PROJECT.default_recipe)
    monkeypatch.setattr("common.data.sources.hub_is_reachable", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert uses_sample([], ToyData, PROJECT.default_recipe)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not uses_sample([], ToyData, PROJECT.default_recipe)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 5\ntrainer:\n  max_epochs: 3\n  devices: 2\nmodel:\n  lr: 0.3\ndata:\n  val_size: 1\n")
    return str(path)


@pytest.mark.parametrize("form", ["{flag} {value}", "{flag}={value}"])
@pytest.mark.parametrize("position", ["before", "after"])
def test_flag_overrides_the_file_in_any_position(recipe, form, position):
    flags = [("--max_epochs", 7), ("--trainer.devices", 1), ("--seed", 9), ("--data.val_size", 4)]
    words = [word for flag, value in flags for word in form.format(flag=flag, value=value).split()]
    config = CapstoneCLI(
        PROJECT, [*words, "--config", recipe] if position == "before" else ["--config", recipe, *words]
    ).config
    assert (config.trainer.max_epochs, int(config.trainer.devices), config.seed, config.data.val_size) == (7, 1, 9, 4)
    assert config.model.lr == 0.3, "other values come from the file"


def test_the_later_of_two_files_wins(recipe, tmp_path):
    (tmp_path / "more.yaml").write_text("trainer:\n  max_epochs: 4\n")
    config = CapstoneCLI(PROJECT, ["--config", recipe, "--config", str(tmp_path / "more.yaml")]).config
    assert (config.trainer.max_epochs, config.seed) == (4, 5)


def test_recipe_is_found_from_any_folder(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("recipe.yaml", Path("/nowhere")) == "recipe.yaml"
    assert find_config("recipes/default.yaml", PROJECT.folder) == str(PROJECT.folder / "recipes/default.yaml")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "default.yaml").write_text("seed: 1\n")
    assert find_config("recipes/default.yaml", PROJECT.folder) == "recipes/default.yaml", "the working directory goes first"


# bad input


def error_of(*args: str) -> str:
    with pytest.raises(UserError) as caught:
        CapstoneCLI(PROJECT, list(args))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 450
    return str(caught.value)


@pytest.mark.parametrize(
    "args, line",
    [
        (["--bogus", "3"], r"Unrecognized arguments: --bogus 3 \(see --help\)"),
        (["--max_epoch", "3"], "Unrecognized arguments: --max_epoch 3"),  # no abbreviations
        (["--model.width", "3"], "--model.width"),
        (["--max_epochs", "x"], r"trainer\.max_epochs: x is none of int \(see --help\)"),
        (["--precision", "8"], r"trainer\.precision: 8 is none of 64, 32, 16, .*bf16-mixed"),
        (["--data.batch_size", "x"], r"data\.batch_size.*int.*x"),
        (["--debug", "all"], r"debug: all is none of overfit, shapes, gradients \(see"),
        (["--checkpoint_every", "-1"], "checkpoint_every.*-1 does not conform to restriction v>=0"),
        (["--patience", "-1"], "patience: -1 is none of NonNegativeInt"),
        (["--max_epochs"], r"trainer\.max_epochs: expected one argument"),
        (["--logger", "tensorbord"], r"--logger: tensorbord is none of .*none; did you mean tensorboard\? \(see"),
        (
            ["--trainer.logger", "TensorBoradLogger"],
            "--trainer.logger: there is no class .*; did you mean TensorBoardLogger",
        ),
        (
            ["--trainer.callbacks", "EarlyStoping"],
            r"there is no class EarlyStoping; did you mean EarlyStopping\?",
        ),
        (["--trainer.logger", "mine.Logger"], "logger: the class mine.Logger cannot be imported: No module named 'mine'"),
        (
            ["--trainer.logger", "Abacus"],
            r"logger: there is no class Abacus; write a class of your own as MODULE",
        ),
        (["--trainer.callbacks", "EarlyStopping"], "callbacks: the following arguments are required: --monitor"),
        (
            ["--trainer.logger", "CSVLogger", "--trainer.logger.nmae", "x"],
            r"--trainer\.logger: Option 'nmae' is not accepted; did you mean name\? \(see --help\)$",
        ),
        (["--config", "missing.yaml"], "--config missing.yaml: no such file, neither here nor in .*tests/toy"),
        (["--config"], "--config : no such file"),
    ],
)
def test_wrong_flag_is_named(args, line):
    assert re.search(line, error_of(*args))


@pytest.mark.parametrize(
    "content, line",
    [
        ("trainer: [\n", "--config .*bad.yaml: not YAML: .*line 2, column 1"),
        ("\xff\xfe", "--config .*bad.yaml: not YAML"),
        ("trainer:\n  bogus: 3\n", "bogus"),
        ("", "--config .*bad.yaml: no settings in it"),
        ("# nothing\n", "--config .*bad.yaml: no settings in it"),
        ("just words\n", "just words"),
        ("max_epochs: 3\n", "the configuration sets max_epochs: 3 at its top; write it below trainer:"),
        ("accelerator: cpu\n", "the configuration sets accelerator: cpu at its top"),
        ("trainer:\n  max_epochs: many\n", r"trainer\.max_epochs: many is none of int"),
    ],
)
def test_wrong_file_is_named(tmp_path, content, line):
    (tmp_path / "bad.yaml").write_bytes(content.encode("latin1"))
    assert re.search(line, error_of("--config", str(tmp_path / "bad.yaml")))


@pytest.mark.parametrize(
    "args, meant",
    [
        (["--model.lrr", "3"], "--model.lr"),
        (["--lr=3"], "--model.lr"),
        (["--modell.lr", "3"], "--model.lr"),
        (["--model.hidden_dim", "3"], "--model.mlp.hidden_dim"),
        (["--max_epoch", "3"], "--max_epochs"),
        (["--naem", "a"], "--name"),
        (["--bogus", "3", "--data.batchsize", "3"], "--data.batch_size"),
        (["--bogus", "3"], None),
        (["--trainer.bogus", "3"], None),  # though `--trainer.` is like much
        (["3"], None),
        ("model:\n  lrr: 3\n", "model.lr"),
        ("model:\n  mlp:\n    hidden: 3\n", "model.mlp.hidden_dim"),
        ("modle:\n  lr: 3\n", "model.lr"),
        ("seeed: 3\n", "seed"),
        ("trainer:\n  bogus: 3\n", None),
    ],
)
def test_option_that_may_be_meant_is_named(tmp_path, args, meant):
    if isinstance(args, str):
        (tmp_path / "bad.yaml").write_text(args)
        args = ["--config", str(tmp_path / "bad.yaml")]
    error = error_of(*args)
    assert error.endswith(" (see --help)") and ("did you mean" in error) == (meant is not None)
    assert meant is None or error.endswith(f"; did you mean {meant}? (see --help)")


def test_commands_name_the_option_that_may_be_meant(capsys):
    parser = OneLineParser(prog="x")
    parser.add_argument("--checkpoint", "-c")
    with pytest.raises(SystemExit):
        parser.parse_args(["--chekpoint", "a"])
    line = "error: unrecognized arguments: --chekpoint a; did you mean --checkpoint? (see --help)\n"
    assert capsys.readouterr().err == line


def test_options_of_one_name_are_all_suggested():
    known = ["model.recurrent.dropout", "model.transformer.dropout", "model.lr"]
    line = "; did you mean --model.recurrent.dropout or --model.transformer.dropout?"
    assert suggestion("Unrecognized arguments: --dropout 0.1", known) == line
    assert suggestion("--dropout: 3 does not conform", known) == ""


def test_parsing_builds_nothing(monkeypatch):
    for part in (PROJECT.module, PROJECT.data):
        monkeypatch.setattr(part, "setup", pytest.fail)
    cli = CapstoneCLI(PROJECT, ["--model.lr", "0.3"])
    assert not hasattr(cli, "model") and not hasattr(cli, "trainer")


# configuration of a resumed run


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A run "a" that has written its configuration, and a run "b" that has not, below the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        Path("runs/toy", name, "checkpoints").mkdir(parents=True)
    Path("runs/toy/a/config.yaml").touch()
    return "runs/toy/a/config.yaml"


@pytest.mark.parametrize(
    "args",
    [
        ["--resume", "auto", "--name", "a"],
        ["--name=a", "--max_epochs", "3", "--resume=auto"],
        ["--resume", "runs/toy/a/checkpoints/step-1.ckpt"],
        ["--resume", "runs/toy/a/checkpoints/step-1.ckpt", "--name", "new"],
    ],
)
def test_resumed_run_keeps_its_configuration(saved, args):
    config, path, *rest = with_saved_config(args, "toy")
    assert (config, Path(path).resolve(), rest) == ("--config", Path(saved).resolve(), args)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--name", "a"],
        ["--resume", "auto"],
        ["--resume", "auto", "--name", "b"],
        ["--resume", "auto", "--name", "a", "--config", "x.yaml"],
        ["--resume", "auto", "--name", "a", "--config=x.yaml"],
        ["-c", "x.yaml", "--resume", "auto", "--name", "a"],
    ],
)
def test_other_arguments_are_unchanged(saved, args):
    assert with_saved_config(args, "toy") == args


@pytest.mark.parametrize("text", ["-1", "1.5", "x", "", "4294967296", "9" * 5000])
def test_seed_of_a_command_is_one_that_all_generators_take(text, capsys):
    parser = OneLineParser(prog="x")
    parser.add_argument("--seed", type=seed_value)
    assert parser.parse_args(["--seed", "4294967295"]).seed == 2**32 - 1
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([f"--seed={text}"])
    line = f"error: argument --seed: {text[:20]}: use a whole number from 0 to 4294967295 (see --help)\n"
    assert (caught.value.code, capsys.readouterr().err) == (2, line)


# exit codes


def raiser(error: BaseException):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    "error, code, line",
    [
        (UserError("no such thing"), 2, "error: no such thing\n"),
        (Preempted("x.ckpt"), 75, "stopped by SIGTERM; state saved in x.ckpt; continue with --resume auto\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_user_error_is_one_line_and_an_exit_code(capsys, error, code, line):
    assert report_errors(raiser(error)) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    "variables",
    [
        {"LOCAL_RANK": "1"},
        {"NODE_RANK": "1"},
        {"TORCHELASTIC_RUN_ID": "x", "RANK": "1"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
    ],
)
def test_only_rank_0_prints_where_it_stopped(capsys, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert report_errors(raiser(Preempted("x.ckpt"))) == 75
    assert capsys.readouterr() == ("", "")


def test_success_is_0_and_other_errors_keep_their_traceback():
    assert report_errors(lambda: None) == 0 and report_errors(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        report_errors(raiser(ZeroDivisionError()))


# help


def help_text(capsys) -> str:
    with pytest.raises(SystemExit) as caught:
        main(PROJECT, ["--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def options(text: str) -> dict[str, str]:
    """Flag -> its entry in the help, in one line."""
    blocks = re.findall(r"^  (-.*(?:\n(?: {3,}.*|))*)", text, re.MULTILINE)
    return {re.match(r"(?:-\w\b.*, )?(--[\w.]+)", block)[1]: " ".join(block.split()) for block in blocks}


def test_help_gives_every_option_a_sentence_and_a_type(capsys):
    found = options(help_text(capsys))
    assert len(found) > 70
    for flag, (kind, sentence) in TRAINER_FLAGS.items():
        assert found[f"--{flag}"] == f"--{flag} {kind} {sentence} (type: {kind})"
    for flag in ("seed", "name", "wandb", "resume", "debug", "checkpoint_every", "patience", "model.mlp.activation"):
        assert f"--{flag}" in found
    for flag, text in found.items():
        if flag in ("--help", "--config", "--print_config") or flag.endswith(".help") or " CONFIG Path to a" in text:
            continue  # (the last: a group of options, which may be a file)
        before, is_typed, _ = text.partition("(type: ")
        assert is_typed and len(before.split()) >= 5, text


def test_help_begins_with_the_usage(capsys):
    usage = "usage: python -m projects.toy.train [--config recipes/NAME.yaml] [flags]"
    assert help_text(capsys).splitlines()[0] == usage


def command(*args: str) -> tuple[float, subprocess.CompletedProcess]:
    """Runs Python; returns its CPU seconds, which do not depend on the machine's load, and the completed process."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    before = used()
    done = subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True)
    return used() - before, done


@pytest.mark.slow
def test_help_takes_little_longer_than_importing_the_framework():
    times: dict[str, float] = {"imports": 1e9, "help": 1e9}
    for _ in range(3):  # the first time reads from the disk
        seconds, done = command("-X", "importtime", "-m", "projects.blank.train", "--help")
        assert done.returncode == 0 and done.stdout.startswith("usage: ")
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert all(line.startswith("import time:") for line in done.stderr.splitlines())
        assert {"torch", "lightning", "projects.blank.module"} <= imported
        assert not {"datasets", "wandb", "pyarrow", "PIL.JpegImagePlugin", "common.run"} & imported
        times["help"] = min(times["help"], seconds)
        times["imports"] = min(times["imports"], command("-c", "import torch, lightning")[0])
        if times["help"] <= 2 * times["imports"]:
            break
    assert times["help"] <= 2 * times["imports"], times


def test_wrong_flag_ends_the_process_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "--bogus", "3"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("projects.blank.train", run_name="__main__")
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "error: Unrecognized arguments: --bogus 3 (see --help)\n")


# options


def test_options_reach_module_and_data_as_plain_values():
    args = ["--data.source", "sample", "--model.lr", "0.2", "--model.mlp.hidden_dim", "5", "--data.batch_size", "7"]
    cli = CapstoneCLI(PROJECT, args)
    assert type(cli.config.model.lr) is PositiveFloat
    module, data, _ = cli.request().build()
    values = {0.2: module.hparams["lr"], 5: module.hparams["mlp"].hidden_dim, 7: data.batch_size}
    assert [(type(value), value) for value in values.values()] == [(type(expected), expected) for expected in values]
    assert module.hparams["mlp"].activation == "relu" and module.hparams["num_classes"] == data.num_classes


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5])
def test_fractions_know_their_bounds(value):
    for kind, is_valid in [(Fraction, 0 <= value < 1), (PositiveFraction, 0 < value <= 1)]:
        if is_valid:
            assert kind(value) == value
        else:
            with pytest.raises(ValueError, match="does not conform to restriction"):
                kind(value)


def test_start_runs_from_python_with_callbacks_and_errors_as_exceptions(tmp_path, monkeypatch, capsys):
    class Count(Callback):
        batches = 0

        def on_train_batch_end(self, *args):
            self.batches += 1

    monkeypatch.chdir(tmp_path)
    counter = Count()
    start(PROJECT, ["--data.source", "sample", "--accelerator", "cpu", "--fast_dev_run"], [counter])
    assert counter.batches == 1 and "dry run" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--seed: .*-1"):
        start(PROJECT, ["--data.source", "sample", "--accelerator", "cpu", "--seed", "-1"])
