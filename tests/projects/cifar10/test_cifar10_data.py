"""Every image in exactly one batch, the same batches whatever loads them, and the right ones after a resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from common.cli.parser import CapstoneCLI
from common.data import images as common_images
from common.data.batches import batch_shape
from common.data.images import LabeledImages
from common.errors import UserError
from common.io.run_dir import RunDir
from common.run.build import write_config
from projects.cifar10 import data as data_module
from projects.cifar10 import synthetic
from projects.cifar10.augment import augment as augment_batch
from projects.cifar10.augment import crop_and_flip, reflect_pad, sample_params
from projects.cifar10.config import AugmentationConfig
from projects.cifar10.data import CIFAR10Data, EvalLoader
from projects.cifar10.dataloader import TransformedImages
from projects.cifar10.synthetic import make_splits
from projects.cifar10.train import PROJECT

COUNT, VAL, TEST = 170, 49, 61  # 121 images to train on: a number that no number of ranks or batches divides
PLAIN = {"augmentation": AugmentationConfig("none", pad=0)}


@pytest.fixture(autouse=True)
def small_sample(monkeypatch) -> None:
    monkeypatch.setattr(synthetic, "SPLIT_SIZES", {"train": COUNT, "test": TEST})


def ready(**options: Any) -> CIFAR10Data:
    """The DataModule on the small sample, set up outside of a trainer."""
    data = CIFAR10Data(**{"source": "sample", "val_size": VAL, "batch_size": 8, "subset_fraction": 1.0, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def at(data: CIFAR10Data, epoch: int = 0, done: int = 0, rank: int = 0, ranks: int = 1) -> CIFAR10Data:
    """Puts `data` into a trainer that is at batch `done` of `epoch`, in process `rank` of `ranks`."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=done))
    loop = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=epoch)),
        epoch_loop=SimpleNamespace(batch_progress=progress),
    )
    data.trainer = SimpleNamespace(fit_loop=loop, num_training_batches=10_000, global_rank=rank, world_size=ranks)
    return data


def batches_of(data: CIFAR10Data, **where: int) -> list[tuple[Tensor, Tensor]]:
    loader = at(data, **where).train_dataloader()
    batches = [(images, labels) for images, labels, _ in loader]
    assert len(batches) == len(loader) - where.get("done", 0)
    return batches


def equal(left: list[tuple[Tensor, Tensor]], right: list[tuple[Tensor, Tensor]]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(left, right, strict=True)
    )


def counted(images: Tensor, labels: Tensor) -> Counter[tuple[bytes, int]]:
    """How often each image with its label occurs."""
    return Counter((image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def cat(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


# training batches


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("loader", ["device", "dataloader"])
def test_an_epoch_has_no_image_twice_and_batches_of_one_size(loader, ranks):
    data = ready(loader=loader, num_workers=0, **PLAIN)
    everything = counted(data.train.images, data.train.labels)
    assert set(everything.values()) == {1}, "indistinguishable images would prove nothing"
    orders = []
    steps, size = batch_shape(COUNT - VAL, 8, ranks)
    assert 0 < COUNT - VAL - steps * size < 10, "images that remain belong to the test"
    for epoch in (0, 1):
        of_ranks = [batches_of(data, epoch=epoch, rank=rank, ranks=ranks) for rank in range(ranks)]
        assert len({len(batches) for batches in of_ranks}) == 1, "ranks with more batches would wait for ever"
        assert all(len({len(labels) for _, labels in batches}) == 1 for batches in of_ranks)
        assert all(len(labels) <= 8 for batches in of_ranks for _, labels in batches)
        images, labels = cat([batch for batches in of_ranks for batch in batches])
        assert counted(images, labels) <= everything and len(images) == steps * size
        orders.append(labels)
    assert not torch.equal(*orders)


@pytest.mark.parametrize("loader", ["device", "dataloader"])
def test_ranks_see_together_what_one_process_sees_with_a_larger_batch(loader):
    data = ready(loader=loader, num_workers=0)
    shards = [batches_of(data, epoch=3, rank=rank, ranks=2) for rank in range(2)]
    together = [cat(list(batches)) for batches in zip(*shards, strict=True)]
    data.batch_size = 16
    assert equal(together, batches_of(data, epoch=3))


def test_device_batches_are_slices_of_the_shuffled_augmented_images():
    data = ready(augmentation=AugmentationConfig(cutout=6))
    batches = batches_of(data, epoch=2)
    order = torch.randperm(COUNT - VAL, generator=torch.Generator().manual_seed(data.seed * 1_000_003 + 2))
    params, start = sample_params(COUNT - VAL, 32, 2, data.seed, data.augmentation), 0
    for images, labels in batches:
        index = order[start : start + len(labels)]
        padded = reflect_pad(data.train.images[index], data.augmentation.pad)
        every = torch.arange(len(index))
        expected = augment_batch(padded, every, params[index], data.augmentation, data.mean_color)
        assert torch.equal(images, expected) and torch.equal(labels, data.train.labels[index])
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        start += len(labels)
    assert start == 15 * 8


def test_both_loaders_give_the_same_batches_before_augmentation():
    device, classic = ready(**PLAIN), ready(loader="dataloader", num_workers=0, **PLAIN)
    for epoch in (0, 5):
        assert equal(batches_of(device, epoch=epoch), batches_of(classic, epoch=epoch))


def dataset_of(data: CIFAR10Data, epoch: int) -> TransformedImages:
    return TransformedImages(data.train, data.augmentation, data.mean_color, data.seed, epoch)


def test_the_dataloader_samples_from_the_same_crops_as_often():
    data = ready(loader="dataloader", augmentation=AugmentationConfig("random", pad=1))
    datasets = [dataset_of(data, epoch) for epoch in range(20)]
    n, counts = 40, torch.zeros(18)
    every = [(torch.tensor([[dy, dx]]), torch.tensor([flip])) for dy in range(3) for dx in range(3) for flip in (0, 1)]
    for index in range(n):
        original = reflect_pad(data.train.images[index : index + 1], 1)
        crops = [crop_and_flip(original, torch.arange(1), SimpleNamespace(crop_offset=o, flip=f), 1)[0] for o, f in every]
        for dataset in datasets:
            image, label, itself = dataset[index]
            assert itself == index
            matches = [number for number, crop in enumerate(crops) if torch.equal(crop, image)]
            assert len(matches) == 1 and label == data.train.labels[index]
            counts[matches[0]] += 1
    expected = n * 20 / 18
    assert float(((counts - expected) ** 2 / expected).sum()) < 17 + 6 * 34**0.5


def test_cutout_of_the_dataloader_is_a_square_of_the_mean_color():
    data = ready(loader="dataloader", augmentation=AugmentationConfig("none", pad=0, cutout=5))
    dataset = dataset_of(data, 1)
    corners = set()
    for index in range(30):
        changed = (dataset[index][0] != data.train.images[index]).any(0).nonzero()  # (pixels, 2)
        (top, left), (bottom, right) = changed.amin(0).tolist(), changed.amax(0).tolist()
        assert bottom - top < 5 and right - left < 5
        box = dataset[index][0][:, top : bottom + 1, left : right + 1]
        assert torch.equal(box, data.mean_color.expand_as(box))
        corners.add((top, left))
    assert len(corners) > 15


def test_batches_of_the_dataloader_do_not_depend_on_the_number_of_workers():
    data = ready(loader="dataloader", augmentation=AugmentationConfig(cutout=4), num_workers=0)
    expected = batches_of(data, epoch=1)
    data.num_workers = 2
    state = torch.get_rng_state()
    assert equal(batches_of(data, epoch=1), expected)
    assert torch.equal(torch.get_rng_state(), state), "loading leaves the run's own random numbers alone"


@pytest.mark.parametrize("loader, workers", [("device", 0), ("dataloader", 0)])
def test_resuming_inside_an_epoch_gives_the_remaining_batches(loader, workers):
    data = ready(loader=loader, num_workers=workers, augmentation=AugmentationConfig(cutout=4))
    whole = batches_of(data, epoch=4)
    assert len(whole) == 15
    for done in (1, 9, 14):
        assert equal(batches_of(data, epoch=4, done=done), whole[done:])
    for rank in range(2):
        whole = batches_of(data, epoch=4, rank=rank, ranks=2)
        assert equal(batches_of(data, epoch=4, done=5, rank=rank, ranks=2), whole[5:])


@pytest.mark.parametrize("loader, workers", [("device", 0), ("dataloader", 2)])
def test_the_position_is_read_when_the_first_batch_is_asked_for(loader, workers):
    data = ready(loader=loader, num_workers=workers)
    expected = batches_of(data, epoch=2, done=3)[0]
    iterator: Iterator[Any] = iter(at(data).train_dataloader())  # as Lightning does before it restores a run's counters
    at(data, epoch=2, done=3)
    images, labels, _ = next(iterator)
    assert equal([(images, labels)], [expected])


@pytest.mark.parametrize("loader", ["device", "dataloader"])
def test_batches_are_a_function_of_the_seed(loader):
    def batches(seed: int) -> list[tuple[Tensor, Tensor]]:
        torch.manual_seed(seed)
        return batches_of(ready(loader=loader, num_workers=0))

    first = batches(5)
    torch.rand(3)
    assert equal(first, batches(5))
    assert not torch.equal(first[0][1], batches(6)[0][1])


def test_the_largest_seed_is_not_too_large():
    torch.manual_seed(2**31 - 1)
    data = ready(loader="dataloader", num_workers=0)
    assert data.seed == 2**31 - 1
    assert len(batches_of(data, epoch=100)) == 15


# validation and test


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_counts_every_image_once(ranks):
    data = ready(eval_batch_size=10)
    for images, loader in [(data.val, data.val_dataloader), (data.test, data.test_dataloader)]:
        shards = []
        for rank in range(ranks):
            at(data, rank=rank, ranks=ranks)
            batches = list(loader())
            assert len(batches) == len(loader())
            assert all(len(labels) <= 10 for _, labels in batches)
            shards.append(cat(batches))
        assert max(len(labels) for _, labels in shards) - min(len(labels) for _, labels in shards) <= 1
        assert counted(*cat(shards)) == counted(images.images, images.labels)


def test_the_end_can_be_measured_on_what_is_held_out():
    data = ready(test_split="validation")
    images, _ = cat(list(data.test_dataloader()))
    assert torch.equal(images, data.val.images)
    assert (data.source_label, ready().source_label) == ("sample-validation", "sample")


def test_without_held_out_images_there_is_nothing_else_to_test_on():
    with pytest.raises(UserError, match=r"--data\.test_split validation: --data\.val_size 0"):
        CIFAR10Data("sample", test_split="validation", val_size=0)


def test_evaluation_keeps_the_order():
    data = ready(eval_batch_size=25)
    images, labels = cat(list(EvalLoader(data.test, 25, None)))
    assert torch.equal(images, data.test.images) and torch.equal(labels, data.test.labels)


def test_validation_is_the_same_for_every_seed_and_disjoint_from_training():
    torch.manual_seed(1)
    first = ready()
    torch.manual_seed(2)
    second = ready()
    assert first.seed != second.seed
    assert torch.equal(first.val.images, second.val.images) and torch.equal(first.val.labels, second.val.labels)
    val, train = (counted(part.images, part.labels) for part in (first.val, first.train))
    assert (val.total(), train.total()) == (VAL, COUNT - VAL) and not val & train
    full = make_splits()["train"]
    assert val + train == counted(full.images, full.labels)


def test_without_validation_all_images_are_trained_on():
    data = ready(val_size=0)
    assert not data.has_validation and data.val_dataloader() == []
    assert len(data.train) == COUNT
    with pytest.raises(UserError, match=rf"--data\.val_size {COUNT}: the source has {COUNT} training images"):
        ready(val_size=COUNT)


# sources


def test_mean_color_is_that_of_the_training_images():
    data = ready()
    for channel, value in enumerate(data.mean_color.flatten().tolist()):
        assert value == round(data.train.images[:, channel].double().mean().item())


def test_data_is_read_once(monkeypatch):
    data = ready()
    monkeypatch.setattr(data_module, "load_images", lambda *_: pytest.fail("read again"))
    data.prepare_data()
    data.setup("test")
    assert data.splits == {}, "a second copy would only take up memory"
    assert (data.source_label, len(data.class_names)) == ("sample", 10)


def test_the_second_start_uses_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CAPSTONES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "x.png").write_bytes(b"1")
    calls = []

    def decode(source: Any, size: int, columns: Any) -> tuple[dict[str, LabeledImages], list[str]]:
        calls.append(source.name)
        return make_splits(), []

    monkeypatch.setattr(common_images, "_decode", decode)
    first, second = ready(source=str(folder)), ready(source=str(folder))
    assert len(calls) == 1
    assert torch.equal(first.train.images, second.train.images) and first.class_names == second.class_names
    assert second.source_label == "mine"
    (folder / "x.png").write_bytes(b"22")
    ready(source=str(folder))
    assert len(calls) == 2, "changed files are another data set"


def folder_of(root: Path, *files: tuple[str, Tensor]) -> str:
    for name, image in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / name)
    return str(root)


def test_extra_images_are_trained_on_and_on_nothing_else(tmp_path):
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    plain = ready()
    names = plain.class_names
    extra = folder_of(
        tmp_path, (f"{names[7]}/b.png", images[0]), (f"{names[2]}/z.png", images[1]), (f"{names[7]}/a.png", images[2])
    )
    data = ready(extra_train_data=extra)
    added = counted(data.train.images, data.train.labels) - counted(plain.train.images, plain.train.labels)
    assert added == counted(images, torch.tensor([7, 2, 7])) and len(data.train) == len(plain.train) + 3
    assert torch.equal(data.val.images, plain.val.images) and torch.equal(data.test.images, plain.test.images)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such folder"),
        (".hidden", "no image in a folder that is named like a class"),
        ("unicorn/a.png", "unknown class unicorn; the classes are disc, ring"),
        ("ring/a.png", "ring/a.png: not an? "),
    ],
)
def test_a_bad_extra_folder_is_one_clear_line(tmp_path, content, message):
    if content:
        (tmp_path / "extra" / content).parent.mkdir(parents=True)
        (tmp_path / "extra" / content).write_text("no image")
    with pytest.raises(UserError, match=message) as caught:
        ready(extra_train_data=str(tmp_path / "extra"))
    assert "\n" not in str(caught.value)


def test_extra_images_of_any_type_are_read_and_the_rest_is_counted(tmp_path, capsys):
    name = ready().class_names[0]
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    extra = folder_of(tmp_path, *((f"{name}/{file}", image) for file in ("a.png", "b.jpg", "c.JPEG", "deep/d.bmp")))
    folder_of(tmp_path, (f".ipynb_checkpoints/{name}.png", image), ("loose.png", image))
    (tmp_path / name / "e.heic").write_bytes(b"")
    capsys.readouterr()
    assert len(ready(extra_train_data=extra).train) == COUNT - VAL + 4
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"--data.extra_train_data {extra}: passed over: 1 ")
    for part in ("1 hidden", "1 .heic (convert to PNG or JPEG)", "1 no folder of a class"):
        assert part in line


def test_a_validation_split_of_the_source_is_used(tmp_path, capsys):
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    files = [(f"{('train', 'val', 'test')[i % 3]}/{'ab'[i // 6]}/{i}.png", image) for i, image in enumerate(images)]
    source = folder_of(tmp_path, *files)
    data = ready(source=source, val_size=1)
    assert (len(data.train), len(data.val), len(data.test)) == (3, 3, 3)
    assert counted(data.val.images, data.val.labels) == counted(images[1::3], torch.tensor([0, 0, 1]))
    assert "validation: the source's own 3 images, none are held out of train" in capsys.readouterr().out
    data = ready(source=source, val_size=0)
    assert (len(data.train), len(data.val), data.has_validation) == (3, 0, False)
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    data = ready(source=source, val_size=1)
    assert (len(data.train), len(data.val), len(data.test)) == (2, 1, 3)


@pytest.mark.parametrize("folder", ["cat", "."])
def test_one_class_is_nothing_to_classify(tmp_path, folder):
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    source = folder_of(tmp_path, *((f"{folder}/{i}.png", image) for i, image in enumerate(images)))
    with pytest.raises(UserError, match=r"(every image is of the class cat|has no labels); classification needs"):
        ready(source=source, val_size=1)


def test_a_source_that_is_not_there_is_one_clear_line():
    with pytest.raises(UserError, match=r"data source \./nowhere: no such folder"):
        ready(source="./nowhere")


@pytest.mark.parametrize("options", [{"pad": 32}, {"cutout": 32}], ids=str)
def test_a_crop_or_a_box_is_smaller_than_the_image(options):
    with pytest.raises(UserError, match=r"--data\.augmentation\.pad and cutout .* less than 32"):
        CIFAR10Data("sample", augmentation=AugmentationConfig(**options))


# sizes that follow from the data


@pytest.mark.parametrize(
    "options, num_train, num_val, sizes",
    [
        ({}, 50_000, 0, (1000, 500)),
        ({"val_size": 0}, 50_000, 0, (0, 500)),
        ({}, 5000, 0, (1000, 500)),
        ({}, 540, 0, (108, 32)),
        ({}, 540, 50, (50, 40)),
        ({"val_size": 40, "batch_size": 7}, 540, 0, (40, 7)),
        ({}, 2, 0, (0, 1)),
    ],
)
def test_sizes_follow_from_the_data_unless_they_are_given(options, num_train, num_val, sizes):
    data = CIFAR10Data("sample", **options)
    data.set_sizes(num_train, num_val)
    assert (data.val_size, data.batch_size) == sizes


@pytest.mark.parametrize("flags", [[], ["--model.num_classes", "2", "--data.val_size", "9"]], ids=str)
def test_a_folder_of_photos_needs_no_other_flag(tmp_path, capsys, flags):
    for i, image in enumerate(torch.randint(0, 256, (100, 3, 4, 4), dtype=torch.uint8)):
        folder_of(tmp_path / "photos", (f"{('cat', 'dog')[i % 2]}/{i}.png", image))
    request = CapstoneCLI(PROJECT, ["--data.source", str(tmp_path / "photos"), *flags]).request()
    module, data, _ = request.build()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("no test split: 10 of its 100 images are held out for the test")
    val_size, batch_size = (9, 6) if flags else (18, 5)
    derived = ["--data.batch_size 6"] if flags else ["--data.val_size 18", "--data.batch_size 5", "--model.num_classes 2"]
    assert lines[1] == "from the data: " + ", ".join(derived)
    assert (module.hparams["num_classes"], data.val_size, data.batch_size) == (2, val_size, batch_size)
    write_config(request, RunDir(tmp_path))
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["model"]["num_classes"], config["data"]["val_size"], config["data"]["batch_size"]) == (
        2,
        val_size,
        batch_size,
    )
    data.setup("fit")
    assert (len(data.train), len(data.val), len(data.test)) == (90 - val_size, val_size, 10)
