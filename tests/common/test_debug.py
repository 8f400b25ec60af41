"""Overfitting and shapes: correct modules pass, and the message about a faulty one names its fault."""

from __future__ import annotations

import re

import pytest
import torch
from debug_modules import Classifier, Detached, Diverging, FrozenBody, RandomImages, first_batch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from common import debug
from common.errors import UserError

CPU = {"accelerator": "cpu", "devices": 1}

# overfit: correct modules


def test_overfit_memorizes_a_batch_and_leaves_the_datamodule_as_it_was(capsys):
    data = RandomImages()
    final = debug.overfit_one_batch(Classifier(), data, CPU)
    assert final <= 0.02
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("step    0  loss 1.") or lines[0].startswith("step    0  loss 2.")
    assert f"-> {final:.4g}, goal 0.02 (minimum 0)." in lines[-1]
    assert isinstance(data.train_dataloader(), DataLoader)
    assert "train_dataloader" not in vars(data)


def test_overfit_leaves_a_loader_of_the_instance_as_it_was():
    data = LightningDataModule.from_datasets(TensorDataset(*first_batch()), batch_size=16)
    own = data.train_dataloader
    with pytest.raises(UserError):
        debug.overfit_one_batch(Classifier(lr=0.0), data, CPU, steps=2)
    assert data.train_dataloader is own


class Scheduled(Classifier):
    """Reads the datamodule and the number of steps from the trainer; records its batches."""

    def setup(self, stage: str) -> None:
        assert isinstance(self.trainer.datamodule, RandomImages)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        self.planned = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, self.planned)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def training_step(self, batch, batch_index):
        self.batches = [*getattr(self, "batches", []), batch[0].clone()]
        return {"loss": self.compute_loss(batch)}


def test_overfit_trains_on_one_batch_and_stops_early():
    module = Scheduled()
    assert debug.overfit_one_batch(module, RandomImages(), CPU, steps=150) <= 0.02
    assert module.planned == 150
    assert 1 < len(module.batches) < 150
    assert all(torch.equal(batch, module.batches[0]) for batch in module.batches)


class Manual(Classifier):
    """Manual optimization, without a returned loss."""

    automatic_optimization = False

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch, batch_index):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.compute_loss(batch))
        optimizer.step()


def test_overfit_with_manual_optimization():
    assert debug.overfit_one_batch(Manual(), RandomImages(), CPU) <= 0.02
    with pytest.raises(UserError, match="started at"):
        debug.overfit_one_batch(Manual(lr=0.0), RandomImages(), CPU, steps=12)


class SmallLoss(Classifier):
    """A loss of at most `size`: the classifier's with a small weight, or a constant."""

    def __init__(self, size: float, falls: bool, manual: bool) -> None:
        super().__init__()
        self.automatic_optimization = not manual
        self.size, self.falls = size, falls

    def compute_loss(self, batch):
        loss = super().compute_loss(batch)
        return self.size * (loss if self.falls else 1 + 0 * loss)

    def training_step(self, batch, batch_index):
        step = Classifier.training_step if self.automatic_optimization else Manual.training_step
        return step(self, batch, batch_index)


@pytest.mark.parametrize("manual", [False, True])
def test_overfit_wants_a_loss_that_is_small_already_to_fall(capsys, manual):
    final = debug.overfit_one_batch(SmallLoss(0.01, falls=True, manual=manual), RandomImages(), CPU)
    start, end, goal = map(float, re.search(r"loss (\S+) -> (\S+), goal (\S+) ", capsys.readouterr().out).groups())
    assert final == pytest.approx(end, rel=1e-3) and end <= goal < 0.003 and 0.01 < start < 0.03
    with pytest.raises(UserError, match=r"started at 0\.01 and ended at 0\.01, above the goal 0\.001 near its minimum 0;"):
        debug.overfit_one_batch(SmallLoss(0.01, falls=False, manual=manual), RandomImages(), CPU, steps=12)
    with pytest.raises(UserError, match="starts at 0, and its minimum is 0; there is nothing to learn"):
        debug.overfit_one_batch(SmallLoss(0.0, falls=True, manual=manual), RandomImages(), CPU)


def test_overfit_compares_with_the_minimum_of_the_loss():
    module = Classifier(smoothing=0.2)
    with pytest.raises(UserError, match="minimum 0;"):
        debug.overfit_one_batch(module, RandomImages(), CPU, steps=100)
    target = torch.full((4,), 0.05)
    target[0] += 0.8
    module.min_loss = float(-(target * target.log()).sum())  # the entropy of the smoothed labels
    assert module.min_loss < debug.overfit_one_batch(module, RandomImages(), CPU) <= module.min_loss + 0.02


# overfit: faulty modules


class RandomLabels(Classifier):
    def compute_loss(self, batch):
        return super().compute_loss((batch[0], torch.randint(0, 4, batch[1].shape)))


@pytest.mark.parametrize(
    "module_class, message",
    [
        (RandomLabels, r"started at \d\.\d+ and ended at \d\.\d+, .* labels are shuffled against inputs"),
        (Detached, r"no gradient flows back"),
        (FrozenBody, r"layers are frozen \(3 weights never changed, conv\.weight first\)"),
        (Diverging, r"ended at nan"),
    ],
)
def test_overfit_explains_a_failure_in_one_line(module_class, message):
    data = RandomImages()
    with pytest.raises(UserError, match=message) as caught:
        debug.overfit_one_batch(module_class(), data, CPU, steps=40)
    assert "\n" not in str(caught.value)
    assert "train_dataloader" not in vars(data)


def test_overfit_without_a_batch_is_an_error():
    class TooFew(RandomImages):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(self.data, batch_size=65, drop_last=True)

    with pytest.raises(UserError, match="no batch"):
        debug.overfit_one_batch(Classifier(), TooFew(), CPU)


# shapes


class TiedWeights(LightningModule):
    """Calls one layer twice, ties weights, has a parameter of its own and a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
        self.square = nn.Linear(16, 16)
        self.tied = nn.Linear(16, 16, bias=False)
        self.tied.weight = self.square.weight
        self.lstm = nn.LSTM(16, 5)
        self.scale = nn.Parameter(torch.ones(1))
        self.unused = nn.Linear(10, 1)

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = self.tied(self.square(self.square(self.body(batch["images"]))))
        return self.scale.sum() * self.lstm(hidden)[0].mean()


def test_shapes_are_those_computed_by_hand(capsys):
    module, batch = TiedWeights(), {"images": torch.rand(2, 3, 4, 4)}
    mean, state = module.body[1].running_mean.clone(), torch.get_rng_state()
    rows = debug.layer_shapes(module, batch)
    assert [(row.name, row.kind, row.inputs, row.outputs, row.parameters, row.calls) for row in rows] == [
        ("body.0", "Conv2d", [(2, 3, 4, 4)], [(2, 4, 2, 2)], 3 * 4 * 9 + 4, 1),
        ("body.1", "BatchNorm2d", [(2, 4, 2, 2)], [(2, 4, 2, 2)], 4 + 4, 1),
        ("body.2", "Flatten", [(2, 4, 2, 2)], [(2, 16)], 0, 1),
        ("square", "Linear", [(2, 16)], [(2, 16)], 16 * 16 + 16, 2),
        ("tied", "Linear", [(2, 16)], [(2, 16)], 0, 1),
        ("lstm", "LSTM", [(2, 16)], [(2, 5), (1, 5), (1, 5)], 4 * 5 * (16 + 5) + 2 * 4 * 5, 1),
    ]
    assert all(row.milliseconds > 0 for row in rows)
    assert torch.equal(module.body[1].running_mean, mean), "the module itself is unchanged"
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())
    assert torch.equal(state, torch.get_rng_state())

    debug.print_shapes(rows, module)
    printed = capsys.readouterr().out
    total = 112 + 8 + 272 + 460
    assert re.search(rf"total\W+7\W+{total}\W", printed)
    assert "12 more parameters" in printed  # the scale and the unused layer


class Attention(LightningModule):
    """Layer with weights of its own and a child layer."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(8))
            self.inner = nn.Linear(8, 300)

        def forward(self, x: Tensor, *, twice: bool) -> Tensor:
            return self.inner(x + self.offset) * (2 if twice else 1)

    def __init__(self) -> None:
        super().__init__()
        self.block = self.Block()

    def compute_loss(self, x: Tensor) -> Tensor:
        return self.block(x, twice=True).mean()


def test_shapes_list_layers_inside_a_layer_with_weights_of_its_own():
    block, inner = debug.layer_shapes(Attention(), torch.rand(500, 8))
    assert (block.name, block.parameters, block.outputs) == ("block", 8, [(500, 300)])
    assert (inner.name, inner.parameters, inner.inputs) == ("block.inner", 8 * 300 + 300, [(500, 8)])
    assert block.milliseconds > 0 and inner.milliseconds > 0


def test_shapes_name_the_layer_that_fails():
    module = TiedWeights()
    with pytest.raises(UserError, match=r"square \(Linear\) failed on 2x36: .*36.*16"):
        debug.layer_shapes(module, {"images": torch.rand(2, 3, 5, 5)})
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


@pytest.mark.parametrize("width", [80, None])
def test_shapes_lose_no_value_in_a_narrow_terminal_nor_in_a_pipe(capsys, monkeypatch, width):
    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take the output for a terminal's
    long = "encoder.layers.11.attention.output.projection_of_the_context"
    rows = [
        debug.shapes.LayerShape(long, "AdaptiveAvgPool2d", [(1024, 3000, 32, 32)] * 3, [(7, 3000)], 123_456_789, 12345.67),
        debug.shapes.LayerShape("head", "NonDynamicallyQuantizableLinear", [], [(2, 2)], 0, 0.01, calls=128),
    ]
    debug.print_shapes(rows, nn.Linear(1, 1))
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    header = next(line for line in lines if line.split()[:1] == ["layer"])
    starts = [header.index(name) for name in ("layer", "kind", "input", "output", "calls")]
    table = lines[lines.index(header) + 2 :]
    printed: list[list[str]] = []
    for line in table[: next(i for i, line in enumerate(table) if "─" in line)]:
        assert width is None or len(line) <= width
        *cells, numbers = [line[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if numbers.split():
            printed.append(["", "", "", "", *numbers.split()])
        for i, cell in enumerate(cells):
            printed[-1][i] += "".join(cell.split())
    for row, (name, kind, *shapes, calls, parameters, milliseconds) in zip(rows, printed, strict=True):
        assert (name, kind) == (row.name, row.kind)
        assert shapes == [debug.shapes.shape_text(each).replace(" ", "") for each in (row.inputs, row.outputs)]
        assert (calls, parameters, milliseconds) == (str(row.calls), f"{row.parameters:,}", f"{row.milliseconds:.2f}")


# the option


def test_each_check_prints_its_result(capsys):
    for check, sentence in [
        ("overfit", "overfit one batch"),
        ("shapes", "layer by layer"),
        ("gradients", "Autograd agrees"),
    ]:
        debug.debug_run(check, Classifier(), RandomImages(), CPU)
        assert sentence in capsys.readouterr().out
    with pytest.raises(UserError, match="choose overfit, shapes or gradients"):
        debug.debug_run("everything", Classifier(), RandomImages(), CPU)
