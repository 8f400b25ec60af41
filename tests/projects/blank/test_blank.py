"""The regression learns the sample, gives every row its due, and says in one line what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.cli.main import main
from common.errors import UserError
from projects.blank import data as blank_data
from projects.blank import predict
from projects.blank.data import BlankData, EvalLoader, TrainLoader, split_off
from projects.blank.module import BlankModule
from projects.blank.networks import Regressor
from projects.blank.train import PROJECT

FLAGS = ["--accelerator", "cpu", "--precision", "32-true"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder, which is the place to be."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ready(**options: object) -> BlankData:
    data = BlankData(**{"source": "sample", "batch_size": 32, **options})
    data.setup("fit")
    return data


def test_it_learns_the_sample_and_its_checkpoint_predicts(place, capsys):
    assert main(PROJECT, ["--name", "a", "--max_epochs", "12", *FLAGS]) == 0
    run = place / "runs" / "blank" / "a"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test"]["test/r2"] > 0.9 and summary["best_validation"]["val/loss"] < 0.1
    assert (summary["project"], summary["data_source"], summary["monitor"]) == ("blank", "sample", "val/loss")
    assert (run / "plots" / "curves.png").is_file() and (run / "config.yaml").is_file()

    inputs = torch.tensor([[0.5, 0.5], [-0.5, 0.0]])
    (place / "rows.csv").write_text("".join(f"{a},{b}\n" for a, b in inputs.tolist()))
    capsys.readouterr()
    (checkpoint,) = run.glob("checkpoints/best-*.ckpt")
    assert predict.main(["rows.csv", "--checkpoint", str(checkpoint)]) == 0
    predicted = torch.tensor([float(line) for line in capsys.readouterr().out.splitlines()])
    truth = torch.sin(3 * inputs[:, 0]) + inputs[:, 1] ** 2
    assert predicted.shape == (2,) and (predicted - truth).abs().max() < 0.3

    (place / "rows.csv").write_text("1,2\n1,2,3\n")
    assert predict.main(["rows.csv", "--checkpoint", str(checkpoint)]) == 2
    assert capsys.readouterr().err == "error: rows.csv: line 2 has 3 numbers, not 2\n"


def test_an_epoch_has_every_row_exactly_once():
    data = ready()
    loader = TrainLoader(data)
    batches = list(loader)
    assert len(batches) == len(loader) and all(len(targets) <= 32 for _, targets in batches)
    inputs, targets = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    assert not torch.equal(targets, data.train[1]), "shuffled"
    torch.testing.assert_close(targets.sort().values, data.train[1].sort().values, rtol=0, atol=0)
    torch.testing.assert_close(inputs[targets.argsort()], data.train[0][data.train[1].argsort()], rtol=0, atol=0)


def test_a_resumed_epoch_goes_on_where_it_was():
    data = ready()
    whole = list(TrainLoader(data))
    progress = SimpleNamespace(current=SimpleNamespace(ready=5, processed=0))
    loop = SimpleNamespace(epoch_progress=progress, epoch_loop=SimpleNamespace(batch_progress=progress))
    data.trainer = SimpleNamespace(fit_loop=loop, num_training_batches=len(whole), global_rank=0, world_size=1)
    rest = list(TrainLoader(data))
    assert len(rest) == len(whole) - 5
    assert all(torch.equal(a[1], b[1]) for a, b in zip(rest, whole[5:], strict=True))


def test_held_out_rows_are_not_trained_on():
    data = ready()
    train, val = set(data.train[1].tolist()), set(data.val[1].tolist())
    assert len(val) == 200 and len(train) == 1800 and not train & val
    assert torch.equal(torch.cat([targets for _, targets in EvalLoader(data.val, 64, None)]), data.val[1])


def test_rows_come_from_any_table(place):
    lines = [f"{i},{i * 2},{i * 3}" for i in range(20)]
    (place / "rows.csv").write_text("\n".join(["a,price,b", *lines]) + "\n")
    data = ready(source="rows.csv", target="price")
    assert (data.inputs, len(data.test[1]), len(data.val[1]), len(data.train[1])) == (2, 2, 2, 16)
    for inputs, targets in (data.train, data.val, data.test):
        assert torch.equal(inputs[:, 0] * 2, targets) and torch.equal(inputs[:, 1], inputs[:, 0] * 3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"source": "auto"}, "--data.source auto: this project has no data set of its own"),
        ({"batch_size": 0}, "batch_size and eval_batch_size are at least 1"),
        ({"val_share": 0.5}, "val_share and test_share below a half"),
        ({"source": "rows.csv"}, "--data.target target: the columns are a, b"),
        ({"source": "rows.csv", "target": "b"}, "rows.csv: not every cell is a number"),
    ],
    ids=str,
)
def test_bad_options_are_named(place, options, message):
    (place / "rows.csv").write_text("a,b\n1,2\nx,3\n")
    with pytest.raises(UserError, match=message):
        ready(**options)


def test_too_few_rows_are_named():
    with pytest.raises(UserError, match="2 rows are too few"):
        split_off((torch.ones(2, 1), torch.ones(2)), 0.1)


def test_the_network_works_in_the_scales_of_the_data():
    net = Regressor(2, 8, 1)
    inputs, targets = torch.randn(500, 2) * 50 + 1000, torch.randn(500) * 3 - 70
    net.fit_scales(inputs, targets)
    scaled = (inputs - net.input_mean) / net.input_scale
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std(0), torch.ones(2), atol=1e-3, rtol=0)
    assert abs(net(inputs).mean().item() + 70) < 3
    with torch.no_grad():
        net.stack[-1].weight.zero_()
        net.stack[-1].bias.zero_()
    torch.testing.assert_close(net(inputs), targets.mean().expand(500))


def test_the_loss_is_the_mean_squared_error():
    module = BlankModule(inputs=2)
    inputs, targets = torch.randn(7, 2), torch.randn(7)
    torch.testing.assert_close(module.compute_loss((inputs, targets)), ((module(inputs) - targets) ** 2).mean())
    with pytest.raises(UserError, match=r"--model\.width and layers"):
        BlankModule(inputs=2, width=0)


def test_the_sample_is_what_it_says_it_is():
    inputs, targets = blank_data.make_sample()["train"]
    noise = targets - torch.sin(3 * inputs[:, 0]) - inputs[:, 1] ** 2
    assert abs(noise.std().item() - 0.1) < 0.01 and abs(noise.mean().item()) < 0.01
    assert all(torch.equal(a, b) for a, b in zip(blank_data.make_sample()["train"], (inputs, targets), strict=True))
