"""The callbacks that draw give the drawing functions what the model really did."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from common.callbacks import classification, filters, gallery
from common.callbacks.classification import ClassificationPlots
from common.callbacks.filters import FirstFilters
from common.callbacks.gallery import PredictionGallery

NAMES = ["ant", "bee", "cat"]


@pytest.fixture
def drawn(monkeypatch):
    """name of the PNG -> the arguments that it was drawn with"""
    calls: dict[str, tuple] = {}

    def take(*args):
        path = next(arg for arg in args if hasattr(arg, "stem"))
        calls[path.name] = args
        return path

    for module in (classification, gallery, filters):
        for name in ("draw_confusion", "draw_calibration", "draw_images", "draw_filters"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, take)
    return calls


def trainer(rank: int = 0, world_size: int = 1, **data):
    datamodule = SimpleNamespace(class_names=NAMES, **data)
    return SimpleNamespace(world_size=world_size, is_global_zero=rank == 0, loggers=[], datamodule=datamodule)


def outputs(n: int, with_images: bool = True) -> dict[str, torch.Tensor]:
    result = {"logits": torch.randn(n, 3), "labels": torch.randint(0, 3, (n,))}
    return result | ({"images": torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8)} if with_images else {})


def run_test(callback, batches, trainer) -> None:
    callback.on_test_start(trainer, None)
    for index, batch in enumerate(batches):
        callback.on_test_batch_end(trainer, None, batch, None, index)
    callback.on_test_end(trainer, None)


def test_confusion_and_calibration_are_of_all_batches(tmp_path, drawn):
    batches = [outputs(40), outputs(40), outputs(7)]
    callback = ClassificationPlots(tmp_path)
    for _ in range(2):  # a second test counts nothing twice
        run_test(callback, batches, trainer())
    logits, labels = (torch.cat([batch[key] for batch in batches]) for key in ("logits", "labels"))
    counts, names, _ = drawn["confusion.png"]
    assert torch.equal(counts, multiclass_confusion_matrix(logits, labels, 3)) and names == NAMES
    confidence, correct, _ = drawn["calibration.png"]
    assert torch.equal(confidence, logits.softmax(1).max(1).values)
    assert torch.equal(correct, logits.argmax(1) == labels)


def test_mistakes_are_the_most_confident_ones(tmp_path, drawn):
    batches = [outputs(20), outputs(20), outputs(5)]
    run_test(ClassificationPlots(tmp_path, mistakes=4), batches, trainer())
    rows = [
        (p.max().item(), p.argmax().item(), label, image)
        for batch in batches
        for p, label, image in zip(batch["logits"].softmax(1), batch["labels"].tolist(), batch["images"], strict=True)
    ]
    worst = sorted((row for row in rows if row[1] != row[2]), key=lambda row: -row[0])[:4]
    images, titles, _ = drawn["mistakes.png"]
    assert torch.equal(images, torch.stack([row[3] for row in worst]))
    assert titles == [f"{NAMES[p]} {100 * q:.0f} %\nis {NAMES[label]}" for q, p, label, _ in worst]


def test_without_pictures_or_mistakes_there_is_no_picture_of_them(tmp_path, drawn):
    run_test(ClassificationPlots(tmp_path), [outputs(9, with_images=False)], trainer())
    right = outputs(9)
    right["labels"] = right["logits"].argmax(1)
    run_test(ClassificationPlots(tmp_path), [right], trainer())
    assert sorted(drawn) == ["calibration.png", "confusion.png"]


def test_processes_put_their_shares_together(tmp_path, drawn, monkeypatch):
    shares = [outputs(20), outputs(19)]
    callbacks = [ClassificationPlots(tmp_path, mistakes=5) for _ in shares]
    for callback, share in zip(callbacks, shares, strict=True):
        callback.on_test_start(None, None)
        callback.on_test_batch_end(None, None, share, None, 0)

    def gather(into, mine):
        into[:] = [(torch.cat(c.probabilities), torch.cat(c.labels), c.worst) for c in callbacks]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    callbacks[1].on_test_end(trainer(rank=1, world_size=2), None)
    assert drawn == {}, "only the first process draws"
    callbacks[0].on_test_end(trainer(world_size=2), None)
    together = dict(drawn)
    whole = {key: torch.cat([share[key] for share in shares]) for key in shares[0]}
    run_test(ClassificationPlots(tmp_path, mistakes=5), [whole], trainer())
    assert torch.equal(together["confusion.png"][0], drawn["confusion.png"][0])
    assert torch.equal(together["mistakes.png"][0], drawn["mistakes.png"][0])
    assert together["mistakes.png"][1] == drawn["mistakes.png"][1]


class Pixel(nn.Module):
    """Takes the class from the first pixel; only out of training."""

    device = torch.device("cpu")

    def forward(self, images):
        assert not self.training
        return 5.0 * nn.functional.one_hot(images[:, 0, 0, 0].long() % 3, 3)


def test_the_gallery_shows_the_first_validation_pictures(tmp_path, drawn):
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    labels = images[:, 0, 0, 0].long() % 3
    labels[1] = (labels[1] + 1) % 3
    module, data = Pixel(), {"val_dataloader": lambda: iter([(images, labels), None])}
    PredictionGallery(tmp_path, count=4).on_train_end(trainer(**data), module)
    shown, titles, _ = drawn["gallery.png"]
    assert torch.equal(shown, images[:4]) and module.training
    share = f"{100 * torch.tensor([5.0, 0, 0]).softmax(0)[0]:.0f} %"
    predicted = [NAMES[value % 3] for value in images[:4, 0, 0, 0].tolist()]
    expected = [f"{name} {share}" for name in predicted]
    expected[1] += f"\nis {NAMES[labels[1]]}"
    assert titles == expected


def test_without_validation_there_is_no_gallery(tmp_path, drawn):
    PredictionGallery(tmp_path).on_train_end(trainer(val_dataloader=list), Pixel())
    assert drawn == {}


def test_filters_are_those_of_the_first_layer_that_sees_colour(tmp_path, drawn):
    module = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, (2, 5)), nn.Conv2d(3, 9, 3))
    FirstFilters(tmp_path).on_train_end(trainer(), module)
    weight, _, title = drawn["filters.png"]
    assert weight is module[1].weight and title == "1: 4 filters of 2 x 5"
    FirstFilters(tmp_path / "other").on_train_end(trainer(), nn.Linear(3, 3))
    FirstFilters(tmp_path / "other").on_train_end(trainer(rank=1), module)
    assert drawn["filters.png"][1].parent == tmp_path
