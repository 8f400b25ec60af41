"""Callbacks that plot: what they draw is what the model predicted, in runs of a real Trainer."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.callbacks import classification, filters, gallery
from common.callbacks.classification import ClassificationPlots
from common.callbacks.filters import FirstFilters
from common.callbacks.gallery import PredictionGallery

NAMES = ["ant", "bee", "cat"]
Batch = dict[str, Tensor]

pytestmark = pytest.mark.filterwarnings("ignore:.*(workers|val_dataloader|validation_step).*")


@pytest.fixture
def drawn(monkeypatch):
    """Arguments of each plot, the named ones last, by the name of its PNG."""
    calls: dict[str, tuple] = {}

    def record(*args, **options):
        path = next(arg for arg in args if hasattr(arg, "stem"))
        calls[path.name] = (*args, options)
        return path

    for module in (classification, gallery, filters):
        for name in ("draw_confusion", "draw_calibration", "draw_images", "draw_filters"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, record)
    return calls


class Model(LightningModule):
    """Class of an image by its first pixel, in eval mode; at test the logits of the batch."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return 5.0 * F.one_hot(images[:, 0, 0, 0].long() % 3, 3)

    def training_step(self, batch, batch_idx):
        return self.weight * 1.0

    def test_step(self, batch, batch_idx):
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Data(LightningDataModule):
    class_names, source_description, evaluated_checkpoint = NAMES, "toys", ""

    def __init__(self, val=(), test=()) -> None:
        super().__init__()
        self.val, self.test = val, test

    def train_dataloader(self):
        return DataLoader([torch.zeros(1)], batch_size=None)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=None)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=None)


class SecondRank(SingleDeviceStrategy):
    """Strategy of a process that is not the first."""

    is_global_zero = False


def new_trainer(callback, **options) -> Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", callbacks=[callback], max_epochs=1, **quiet, **options)


def run_test(callback, batches: list[Batch], **options) -> None:
    new_trainer(callback, **options).test(Model(), datamodule=Data(test=batches), verbose=False)


def run_fit(callback, module=None, val=(), **options) -> None:
    new_trainer(callback, limit_val_batches=0, **options).fit(module or Model(), datamodule=Data(val=val))


def classified(n: int, with_images: bool = True) -> Batch:
    outputs = {"logits": torch.randn(n, 3), "labels": torch.randint(0, 3, (n,))}
    return outputs | ({"images": torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8)} if with_images else {})


def test_confusion_matrix_and_calibration_are_over_all_batches(tmp_path, drawn):
    batches = [classified(40), classified(40), classified(7)]
    callback = ClassificationPlots(tmp_path)
    for _ in range(2):  # a second test counts nothing twice
        run_test(callback, batches)
    logits, labels = (torch.cat([batch[key] for batch in batches]) for key in ("logits", "labels"))
    predicted, true, names, *_ = drawn["confusion.png"]
    assert torch.equal(predicted, logits.argmax(1)) and torch.equal(true, labels) and names == NAMES
    confidence, correct, _, options = drawn["calibration.png"]
    run = tmp_path.parent
    assert options == {"caption": f"run {run.parent.name}/{run.name}, data toys, 87 test samples"}
    assert torch.equal(confidence, logits.softmax(1).max(1).values)
    assert torch.equal(correct, logits.argmax(1) == labels)


def test_mistakes_are_the_most_confident_ones(tmp_path, drawn, monkeypatch):
    tables = {}
    monkeypatch.setattr(classification, "log_table", lambda trainer, name, *table: tables.update({name: table}))
    batches = [classified(20), classified(20), classified(5)]
    run_test(ClassificationPlots(tmp_path, max_mistakes=4), batches)
    rows = [
        (p.max().item(), p.argmax().item(), label, image)
        for batch in batches
        for p, label, image in zip(batch["logits"].softmax(1), batch["labels"].tolist(), batch["images"], strict=True)
    ]
    worst = sorted((row for row in rows if row[1] != row[2]), key=lambda row: -row[0])[:4]
    images, titles, _, options = drawn["mistakes.png"]
    wrong = sum((batch["logits"].argmax(1) != batch["labels"]).sum().item() for batch in batches)
    assert options["title"].startswith(f"Most confident of {wrong} mistakes") and all(options["wrong"])
    assert torch.equal(images, torch.stack([row[3] for row in worst]))
    assert titles == [f"{NAMES[p]} {100 * q:.0f} %\nis {NAMES[label]}" for q, p, label, _ in worst]
    header, rows = tables["test/mistakes"]
    assert header == ["image", "label", "predicted", "confidence"]
    assert [row[1:] for row in rows] == [[NAMES[label], NAMES[p], round(q, 3)] for q, p, label, _ in worst]
    assert torch.equal(torch.stack([row[0] for row in rows]), images)


def test_mistakes_are_drawn_only_if_there_are_images_and_mistakes(tmp_path, drawn):
    run_test(ClassificationPlots(tmp_path), [classified(9, with_images=False)])
    correct = classified(9)
    correct["labels"] = correct["logits"].argmax(1)
    run_test(ClassificationPlots(tmp_path), [correct])
    assert sorted(drawn) == ["calibration.png", "confusion.png"]


def test_rank_zero_draws_the_shards_of_all_processes(tmp_path, drawn, monkeypatch):
    batches, shards = [classified(20), classified(19)], []
    run_test(
        ClassificationPlots(tmp_path, max_mistakes=5), [{key: torch.cat([b[key] for b in batches]) for key in batches[0]}]
    )
    whole = dict(drawn)
    drawn.clear()
    monkeypatch.setattr(classification, "all_gather_objects", lambda shard, world_size: shards.append(shard) or shards)
    run_test(ClassificationPlots(tmp_path, max_mistakes=5), batches[:1], strategy=SecondRank("cpu"))
    assert drawn == {}, "only rank zero draws"
    run_test(ClassificationPlots(tmp_path, max_mistakes=5), batches[1:])
    for part, expected in zip(drawn["confusion.png"][:2], whole["confusion.png"][:2], strict=True):
        assert torch.equal(part, expected)
    assert torch.equal(drawn["mistakes.png"][0], whole["mistakes.png"][0])
    assert drawn["mistakes.png"][1] == whole["mistakes.png"][1]


def test_a_plot_that_fails_costs_one_line_and_no_other_plot(tmp_path, drawn, monkeypatch, capsys):
    def fail(*args, **options):
        raise RuntimeError("no ink\nleft")

    monkeypatch.setattr(classification, "draw_confusion", fail)
    monkeypatch.setattr(gallery, "draw_images", fail)
    monkeypatch.setattr(filters, "draw_filters", fail)
    run_test(ClassificationPlots(tmp_path), [classified(9)])
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    run_fit(PredictionGallery(tmp_path), val=[(images, torch.zeros(2).long())])
    run_fit(FirstFilters(tmp_path), Model(nn.Conv2d(3, 4, 1)))
    lines = [f"{name}.png: not drawn: no ink left" for name in ("confusion", "gallery", "filters")]
    assert [line for line in capsys.readouterr().out.splitlines() if "drawn" in line] == lines
    assert sorted(drawn) == ["calibration.png", "mistakes.png"]


def guarded_lines(tree: ast.AST) -> set[int]:
    """Lines inside `report_plot_errors`, as a context or a decorator."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        guards = [item.context_expr for item in node.items] if isinstance(node, ast.With) else []
        guards += getattr(node, "decorator_list", [])
        if any(ast.unparse(guard).startswith("report_plot_errors(") for guard in guards):
            lines |= set(range(node.lineno, node.end_lineno + 1))
    return lines


def test_every_plot_of_a_run_is_drawn_where_an_error_is_reported():
    root = Path(__file__).resolve().parents[2]
    calls = 0
    for path in [*root.glob("common/**/*.py"), *root.glob("projects/**/*.py")]:
        tree = ast.parse(path.read_text())
        found = {n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "log_plot"}
        assert found <= guarded_lines(tree), f"{path}: log_plot outside of report_plot_errors"
        calls += len(found)
    assert calls > 8


def test_classes_with_any_name_are_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Data, "class_names", ["$0_$50", "$50_$100", "100+"])
    run_test(ClassificationPlots(tmp_path), [classified(30)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.png", "confusion.png", "mistakes.png"]
    assert "not drawn" not in capsys.readouterr().out


def test_the_gallery_shows_the_first_validation_images(tmp_path, drawn):
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    labels = images[:, 0, 0, 0].long() % 3
    labels[1] = (labels[1] + 1) % 3
    module = Model()
    run_fit(PredictionGallery(tmp_path, count=4), module, val=[(images, labels), None])
    shown, titles, _, options = drawn["gallery.png"]
    assert options["title"] == "Predictions for validation images: 3 of these 4 are right"
    assert options["wrong"] == [False, True, False, False]
    assert torch.equal(shown, images[:4]) and module.training
    percent = f"{100 * torch.tensor([5.0, 0, 0]).softmax(0)[0]:.0f} %"
    expected = [f"{NAMES[value % 3]} {percent}" for value in images[:4, 0, 0, 0].tolist()]
    expected[1] += f"\nis {NAMES[labels[1]]}"
    assert titles == expected


def test_without_validation_there_is_no_gallery(tmp_path, drawn):
    run_fit(PredictionGallery(tmp_path))
    assert drawn == {}


def test_filters_are_those_of_the_first_convolution_on_rgb(tmp_path, drawn):
    module = Model(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, (2, 5)), nn.Conv2d(3, 9, 3))
    run_fit(FirstFilters(tmp_path), module)
    weight, _, title, *_ = drawn.pop("filters.png")
    assert weight is module.layers[1].weight and title == "First convolution, layers.1: 4 filters of 2 x 5 pixels"
    run_fit(FirstFilters(tmp_path), Model(nn.Linear(3, 3)))
    run_fit(FirstFilters(tmp_path), module, strategy=SecondRank("cpu"))
    assert drawn == {}
