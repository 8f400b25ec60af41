"""Regression: it fits the sample, uses every row once, and reports bad input in one line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.preprocessing import StandardScaler

from common.cli.main import main
from common.data.batches import batch_shape
from common.errors import UserError
from projects.blank import predict
from projects.blank.data import BlankData, EvalLoader, TrainLoader, hold_out
from projects.blank.inference import load
from projects.blank.module import BlankModule
from projects.blank.networks import MLPRegressor
from projects.blank.synthetic import make_splits
from projects.blank.train import PROJECT

FLAGS = ["--accelerator", "cpu", "--precision", "32-true"]


@pytest.fixture
def cwd(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def set_up(**options: object) -> BlankData:
    data = BlankData(**{"source": "sample", "batch_size": 32, **options})
    data.setup("fit")
    return data


def at_batch(batch: int, batches: int, rank: int = 0, world_size: int = 1) -> SimpleNamespace:
    """Trainer of a process in front of a batch of the first epoch."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=batch, processed=0))
    loop = SimpleNamespace(epoch_progress=progress, epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(fit_loop=loop, num_training_batches=batches, global_rank=rank, world_size=world_size)


def test_a_run_fits_the_sample_and_its_checkpoint_predicts(cwd, capsys):
    assert (
        main(PROJECT, ["--name", "a", "--max_epochs", "12", "--model.hidden_dim", "32", "--model.lr", "0.01", *FLAGS]) == 0
    )
    run = cwd / "runs" / "blank" / "a"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test"]["test/r2"] > 0.9 and summary["best_validation"]["val/loss"] < 0.1
    (checkpoint,) = run.glob("checkpoints/best-*.ckpt")
    regressor = load(checkpoint)
    for split, table in (("val", set_up().val), ("test", set_up().test)):  # not a whole number of batches
        predictions = regressor(table[0].tolist())
        metrics = summary["best_validation"] | summary["test"]
        assert metrics[f"{split}/loss"] == pytest.approx(mean_squared_error(table[1], predictions), rel=1e-5)
    assert summary["test"]["test/r2"] == pytest.approx(r2_score(table[1], predictions), rel=1e-5)
    assert (summary["project"], summary["data_source"], summary["monitor"]) == ("blank", "sample", "val/loss")
    assert (run / "plots" / "curves.png").is_file() and (run / "config.yaml").is_file()

    inputs = torch.tensor([[0.5, 0.5], [-0.5, 0.0]])
    (cwd / "rows.csv").write_text("".join(f"{a},{b}\n" for a, b in inputs.tolist()))
    capsys.readouterr()
    saved = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    assert {name: type(value) for name, value in saved.items()} == {
        "num_features": int,
        "hidden_dim": int,
        "num_layers": int,
        "lr": float,
        "weight_decay": float,
    }
    assert (saved["hidden_dim"], saved["lr"]) == (32, 0.01)
    assert predict.main(["rows.csv", "--checkpoint", str(checkpoint)]) == 0
    predicted = torch.tensor([float(line) for line in capsys.readouterr().out.splitlines()])
    truth = torch.sin(3 * inputs[:, 0]) + inputs[:, 1] ** 2
    assert predicted.shape == (2,) and (predicted - truth).abs().max() < 0.3

    (cwd / "rows.csv").write_text("1,2\n1,2,3\n")
    assert predict.main(["rows.csv", "--checkpoint", str(checkpoint)]) == 2
    assert capsys.readouterr().err == "error: rows.csv: row 2 has 3 features, not 2\n"


def test_an_epoch_has_every_row_exactly_once_where_batches_divide_them():
    data = set_up(batch_size=30)
    loader = TrainLoader(data)
    batches = list(loader)
    assert len(batches) == len(loader) and all(len(targets) == 30 for _, targets in batches)
    inputs, targets = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    assert not torch.equal(targets, data.train[1]), "shuffled"
    torch.testing.assert_close(targets.sort().values, data.train[1].sort().values, rtol=0, atol=0)
    torch.testing.assert_close(inputs[targets.argsort()], data.train[0][data.train[1].argsort()], rtol=0, atol=0)


def test_a_resumed_epoch_goes_on_where_it_was():
    data = set_up()
    whole = list(TrainLoader(data))
    data.trainer = at_batch(5, len(whole))
    rest = list(TrainLoader(data))
    assert len(rest) == len(whole) - 5
    assert all(torch.equal(a[1], b[1]) for a, b in zip(rest, whole[5:], strict=True))


def test_held_out_rows_are_not_trained_on():
    data = set_up()
    train, val = set(data.train[1].tolist()), set(data.val[1].tolist())
    assert len(val) == 200 and len(train) == 1800 and not train & val
    assert torch.equal(torch.cat([targets for _, targets in EvalLoader(data.val, 64, None)]), data.val[1])


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_several_processes_have_no_row_twice_in_training_and_every_row_in_evaluation(world_size):
    data, shards = set_up(batch_size=32 // world_size), []
    data.train, data.val = (tuple(part[:199] for part in table) for table in (data.train, data.val))
    for rank in range(world_size):
        data.trainer = at_batch(0, 99, rank, world_size)
        loaders = data.train_dataloader(), data.val_dataloader()
        shards.append([list(loader) for loader in loaders])
        assert [len(loader) for loader in loaders] == [len(batches) for batches in shards[-1]]
    assert len({len(train) for train, _ in shards}) == 1, "processes step together"
    trained, evaluated = (torch.cat([batch[1] for shard in shards for batch in shard[split]]) for split in range(2))
    steps, size = batch_shape(199, 32 // world_size, world_size)
    assert len(trained) == len(trained.unique()) == steps * size and torch.isin(trained, data.train[1]).all()
    assert torch.equal(evaluated.sort().values, data.val[1].sort().values)


def test_rows_come_from_any_table(cwd):
    lines = [f"{i},{i * 2},{i * 3}" for i in range(20)]
    (cwd / "rows.csv").write_text("\n".join(["a,price,b", *lines]) + "\n")
    data = set_up(source="rows.csv", target="price")
    assert (data.num_features, len(data.test[1]), len(data.val[1]), len(data.train[1])) == (2, 2, 2, 16)
    for inputs, targets in (data.train, data.val, data.test):
        assert torch.equal(inputs[:, 0] * 2, targets) and torch.equal(inputs[:, 1], inputs[:, 0] * 3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"source": "auto"}, "--data.source auto: this project has no data set of its own"),
        ({"source": "rows.csv"}, "--data.target target: the columns are a, b"),
        ({"source": "rows.csv", "target": "b"}, "rows.csv: train, row 2: a is 'x', not a finite number"),
    ],
    ids=str,
)
def test_bad_options_are_named(cwd, options, message):
    (cwd / "rows.csv").write_text("a,b\n1,2\nx,3\n")
    with pytest.raises(UserError, match=message):
        set_up(**options)


@pytest.mark.parametrize("flag", ["--model.hidden_dim=0", "--model.lr=0", "--data.batch_size=0", "--data.val_fraction=1"])
def test_values_out_of_range_are_refused_by_the_parser(cwd, capsys, flag):
    assert main(PROJECT, [flag, *FLAGS]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and flag.strip("-").partition("=")[0] in error


def test_too_few_rows_are_named():
    with pytest.raises(UserError, match=r"data source rows\.csv: 2 rows are too few to hold out 2"):
        hold_out((torch.ones(2, 1), torch.ones(2)), 0.1, "rows.csv")


def test_inputs_and_predictions_are_standardized():
    net = MLPRegressor(2, 8, 1)
    inputs, targets = torch.randn(500, 2) * 50 + 1000, torch.randn(500) * 3 - 70
    net.init_stats(inputs, targets)
    scaled = (inputs - net.input_mean) / net.input_std
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std(0), torch.ones(2), atol=1e-3, rtol=0)
    assert abs(net(inputs).mean().item() + 70) < 3
    with torch.no_grad():
        net.layers[-1].weight.zero_()
        net.layers[-1].bias.zero_()
    torch.testing.assert_close(net(inputs), targets.mean().expand(500))


@pytest.mark.parametrize("value", [0.0, 0.1, 7.3, -12345.6])
def test_a_column_that_is_constant_in_training_is_not_enlarged_when_it_changes(value):
    net = MLPRegressor(3, 8, 1)
    noise = torch.randn(1000)
    inputs = torch.stack([torch.full((1000,), value), value * (1 + 1e-7 * noise), 1e-9 * noise], 1)  # the last one varies
    net.init_stats(inputs, torch.full((1000,), value))
    expected = StandardScaler().fit(inputs.double().numpy()).scale_[2]
    torch.testing.assert_close(net.input_std, torch.tensor([1.0, 1.0, expected]).float(), rtol=1e-3, atol=0)
    assert net.target_std == 1


def test_the_loss_is_the_mean_squared_error():
    module = BlankModule(num_features=2)
    inputs, targets = torch.randn(7, 2), torch.randn(7)
    torch.testing.assert_close(module.compute_loss((inputs, targets)), ((module(inputs) - targets) ** 2).mean())


def test_the_sample_follows_its_formula():
    inputs, targets = make_splits()["train"]
    noise = targets - torch.sin(3 * inputs[:, 0]) - inputs[:, 1] ** 2
    assert abs(noise.std().item() - 0.1) < 0.01 and abs(noise.mean().item()) < 0.01
    assert all(torch.equal(a, b) for a, b in zip(make_splits()["train"], (inputs, targets), strict=True))
