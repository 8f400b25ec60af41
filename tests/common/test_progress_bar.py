"""Progress: a line for each epoch everywhere, and a bar of the whole run on a terminal and in a notebook."""

from __future__ import annotations

import html
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress import tqdm_progress
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from common.callbacks import progress
from common.callbacks.progress import EpochPrinter, RunProgressBar, in_lines, progress_callbacks
from common.io.ranks import print_rank_zero


class Line(LightningModule):
    """Linear regression whose logged loss is the number of the step."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.fails_at = fails_at

    def training_step(self, batch, index):
        if self.global_step == self.fails_at:
            raise ValueError
        self.log("train/loss", float(self.global_step + 1))
        return self.layer(batch[0]).mean()

    def validation_step(self, batch, index):
        self.log("val/loss", float(self.current_epoch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(*callbacks: Callback, module: LightningModule | None = None, epochs: int = 4, ckpt_path=None, **options) -> Trainer:
    """Trains epochs of three steps."""
    loader = DataLoader(TensorDataset(torch.rand(6, 1)), batch_size=2)
    off = {"logger": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "enable_checkpointing": False}
    bar = any(isinstance(callback, RunProgressBar) for callback in callbacks)
    options = {"accelerator": "cpu", "log_every_n_steps": 1, "enable_progress_bar": bar, **off, **options}
    trainer = Trainer(max_epochs=epochs, callbacks=list(callbacks), **options)
    trainer.fit(module or Line(), loader, loader, ckpt_path=ckpt_path)
    return trainer


def drawn(text: str) -> list[str]:
    """Bars of the training in a terminal's text, from the first to the last, and the lines above them."""
    parts = [re.sub(r"\x1b\[A", "", part).strip() for part in re.split(r"[\r\n]", text)]
    return [part for part in parts if part.startswith("epoch")]


@pytest.fixture
def clock(monkeypatch):
    """A clock that says 0 at the start of a training and ten seconds more at the end of each epoch."""
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=iter(range(0, 1000, 10)).__next__))


# lines


def test_lines_say_how_long_the_run_takes(clock, capsys):
    fit(EpochPrinter())
    lines = [line.rpartition("  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["10 s of about 40 s", "20 s of about 40 s", "30 s of about 40 s", "40 s"]


def test_many_metrics_stand_in_several_lines():
    parts = ["epoch 1", *(f"val/return_{i:02} 0.123" for i in range(20)), "7 s"]
    lines = in_lines(parts).split("\n")
    assert len(lines) == 4 and all(len(line) <= 150 for line in lines)
    assert [line.startswith("    ") for line in lines] == [False, True, True, True]
    assert [part for line in lines for part in line.strip().split("  ")] == parts
    assert in_lines(parts[:4]) == "  ".join(parts[:4])


def test_estimate_of_a_resumed_run_counts_its_own_steps(clock, capsys, tmp_path):
    fit(epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    fit(EpochPrinter(), ckpt_path=tmp_path / "a.ckpt", epochs=5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines] == [["epoch", str(n), "step", str(3 * n)] for n in (3, 4, 5)]
    assert [line.rpartition("  ")[2] for line in lines] == ["10 s of about 30 s", "20 s of about 30 s", "30 s"]


def test_run_without_an_end_has_no_estimate(clock, capsys):
    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = True

    fit(EpochPrinter(), Stop(), epochs=-1)
    assert capsys.readouterr().out.endswith("val/loss 0  10 s\n")


# the bar


def test_bar_counts_all_steps_below_the_lines_of_the_epochs(capsys):
    fit(EpochPrinter(), RunProgressBar())
    *shown, last = drawn(capsys.readouterr().out)
    lines = [line for line in shown if "step " in line and "|" not in line]
    assert [line.split()[:6] for line in lines] == [
        ["epoch", str(n), "step", str(3 * n), "train/loss", str(3 * n)] for n in (1, 2, 3, 4)
    ]
    assert re.fullmatch(r"epoch 4/4: 100%\|█+\| 12/12 \[.*<00:00, .* steps/s, train/loss=12\]", last), last
    bars = [re.match(r"epoch (\d)/4: .*\| *(\d+)/12 ", line) for line in shown if "|" in line]
    assert [int(bar[1]) for bar in bars] == sorted(int(bar[1]) for bar in bars) and bars[0][2] == "0"
    assert all((int(bar[1]) - 1) * 3 <= int(bar[2]) <= int(bar[1]) * 3 for bar in bars)


def test_bar_of_a_resumed_run_begins_where_it_is(capsys, tmp_path):
    fit(epochs=2).save_checkpoint(tmp_path / "a.ckpt")
    bar = RunProgressBar()
    fit(bar, ckpt_path=tmp_path / "a.ckpt")
    shown = drawn(capsys.readouterr().out)
    assert shown[0].startswith("epoch 3/4:  50%|") and " 6/12 " in shown[0] and " 12/12 " in shown[-1]
    assert bar.train_progress_bar.initial == 6, "the time left is that of the steps that are left"


def test_losses_are_read_in_logged_steps_alone(monkeypatch):
    read = []
    get_metrics = RunProgressBar.get_metrics
    monkeypatch.setattr(
        RunProgressBar,
        "get_metrics",
        lambda self, trainer, module: read.append(trainer.training) or get_metrics(self, trainer, module),
    )
    fit(RunProgressBar(), epochs=8, log_every_n_steps=5)
    assert read.count(True) - 8 == 24 // 5, "and at the end of each epoch"


def test_what_follows_an_error_is_on_a_line_of_its_own(capsys):
    with pytest.raises(ValueError):
        fit(RunProgressBar(), module=Line(fails_at=4))
    print("error")
    assert capsys.readouterr().out.splitlines()[-1] == "error"


def test_a_line_of_the_run_is_above_the_bar(capsys):
    with tqdm(total=2, file=sys.stdout, ncols=40) as bar:
        print_rank_zero("a line")
        bar.update()
    out = capsys.readouterr().out
    assert re.search(r"\r {40}\ra line\n\r +0%\|", out), out


# where there is a bar


def kinds(callbacks: list[Callback]) -> list[type]:
    return [type(callback) for callback in callbacks]


def test_a_bar_is_for_those_who_look_on(monkeypatch):
    assert kinds(progress_callbacks()) == [EpochPrinter]
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        assert kinds(progress_callbacks()) == [EpochPrinter, RunProgressBar]
        patch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
        assert kinds(progress_callbacks()) == [EpochPrinter]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert kinds(progress_callbacks()) == [EpochPrinter, RunProgressBar]
    assert kinds(progress_callbacks([RichProgressBar()])) == [EpochPrinter], "Lightning takes one bar"


def test_bar_of_a_notebook(monkeypatch, capsys):
    pytest.importorskip("ipywidgets")
    from tqdm.notebook import tqdm_notebook

    shown = []
    monkeypatch.setattr(tqdm_progress, "Tqdm", tqdm_notebook)
    monkeypatch.setattr("tqdm.notebook.display", shown.append)
    fit(EpochPrinter(), RunProgressBar())
    left, bar, right = shown[0].children
    assert left.value.replace("\u2007", " ").strip() == "epoch 4/4: 100%"
    assert (bar.value, bar.max, bar.bar_style) == (12, 12, "success")
    text = html.unescape(right.value).replace("\u2007", " ").strip()
    assert re.fullmatch(r"12/12 \[.*<00:00, .* steps/s, train/loss=12\]", text)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1", "2", "3", "4"]


def test_run_has_a_bar_unless_the_user_has_another(train, monkeypatch):
    monkeypatch.setattr(progress, "is_interactive", lambda: True)
    assert re.search(r"\repoch 2/2: 100%\|#+\| 4/4 ", train("--name", "a").out)
    rich = train("--name", "b", "--trainer.callbacks", "RichProgressBar")
    assert rich.code == 0 and "epoch 2/2" not in rich.out and "epoch 2  step 4 " in rich.out
