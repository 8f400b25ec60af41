"""Every step gets its shard of fresh samples, whatever the number of processes and wherever it begins."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from common.cli.parser import CapstoneCLI
from common.data import sources as data_sources
from common.errors import UserError
from projects.gan import data as gan_data
from projects.gan.data import GANData, as_float, as_uint8
from projects.gan.train import PROJECT


@pytest.fixture
def position(monkeypatch):
    """Puts the loaders into a process and at a position of training."""

    def put(rank=0, world_size=1, epoch=0, done=0):
        for module in (gan_data, data_sources):
            monkeypatch.setattr(module, "rank_and_world_size", lambda trainer: (rank, world_size))
        monkeypatch.setattr(gan_data, "resume_position", lambda trainer: (epoch, done))

    return put


def make_data(source, **options):
    data = GANData(source, **options)
    data.setup("fit")
    return data


def test_a_validation_split_of_the_source_is_used(tmp_path):
    for i in range(9):
        path = tmp_path / ("train", "val", "test")[i % 3] / "ab"[i // 6] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (i, i, i)).save(path)
    splits = GANData(str(tmp_path), eval_samples=2).load()
    assert {name: sorted(split.images[:, 0, 0, 0].tolist()) for name, split in splits.items()} == {
        "train": [0, 3, 6],
        "val": [1, 4, 7],
        "test": [2, 5, 8],
    }


@pytest.mark.parametrize("folder, name", [("cat", "cat"), (".", "unlabeled")])
def test_images_of_one_class_are_enough(tmp_path, folder, name):
    (tmp_path / folder).mkdir(exist_ok=True)
    for i in range(20):
        Image.new("RGB", (32, 32), (i, i, i)).save(tmp_path / folder / f"{i}.png")
    data = GANData(str(tmp_path), eval_samples=4)
    assert {split: len(images) for split, images in data.load().items()} == {"train": 14, "val": 4, "test": 2}
    assert (data.class_names, data.num_classes) == ([name], 1)


def sources(image_folder):
    return [("grid25", {"steps_per_epoch": 4}), (str(image_folder), {"eval_samples": 60})]


@pytest.mark.parametrize("which", [0, 1])
def test_processes_take_shards_of_what_one_would_see(position, image_folder, which):
    source, options = sources(image_folder)[which]
    position()
    whole = list(make_data(source, batch_size=8, n_critic=3, **options).train_dataloader())
    shards = []
    for rank in (0, 1):
        position(rank, 2)
        shards.append(list(make_data(source, batch_size=4, n_critic=3, **options).train_dataloader()))
    assert len(whole) == len(shards[0]) == len(shards[1]) > 2
    for step, batch in enumerate(whole):
        parts = [shard[step].samples.chunk(3) for shard in shards]
        together = torch.cat([torch.cat([parts[0][k], parts[1][k]]) for k in range(3)])
        assert torch.equal(together, batch.samples)


@pytest.mark.parametrize("which", [0, 1])
def test_a_loader_goes_on_where_training_stopped(position, image_folder, which):
    source, options = sources(image_folder)[which]
    data = make_data(source, batch_size=8, **options)
    position(epoch=3)
    whole = list(data.train_dataloader())
    position(epoch=3, done=2)
    rest = list(data.train_dataloader())
    assert len(rest) == len(whole) - 2 == len(data.train_dataloader()) - 2
    assert all(torch.equal(a.samples, b.samples) for a, b in zip(rest, whole[2:], strict=True))
    position(epoch=4)
    assert not torch.equal(next(iter(data.train_dataloader())).samples, whole[0].samples)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("which", [0, 1])
def test_each_evaluation_sample_is_in_one_process(position, image_folder, which, world_size):
    source, options = sources(image_folder)[which]
    data, shards = make_data(source, **options | {"eval_samples": 61, "eval_batch_size": 10}), []
    for rank in range(world_size):
        position(rank, world_size)
        loader = data.val_dataloader()
        shards.append(list(loader))
        assert len(loader) == len(shards[-1])
    batches = [batch for shard in shards for batch in shard]
    order = torch.cat([batch.indices for batch in batches]).argsort()
    position()
    (whole,) = make_data(source, **options | {"eval_samples": 61}).val_dataloader()
    assert len(order) == 61 and torch.equal(torch.cat([batch.samples for batch in batches])[order], whole.samples)


def test_no_image_comes_twice_in_an_epoch_and_none_is_held_out(position, image_folder):
    position()
    data = make_data(str(image_folder), batch_size=16, eval_samples=60)
    indices = torch.cat([batch.indices for batch in data.train_dataloader()])
    assert len(indices) == len(set(indices.tolist())) == 192, "the 8 images that fill no batch are left out"
    batch = next(iter(data.train_dataloader()))
    for image, number in zip(batch.samples, batch.indices, strict=True):
        original = as_float(data.splits["train"].images[number])
        assert torch.equal(image, original) or torch.equal(image, original.flip(2))
    held_out = {image.numpy().tobytes() for image in data.splits["val"].images}
    assert len(held_out) == 60
    assert not held_out & {image.numpy().tobytes() for image in data.splits["train"].images}


def test_points_of_validation_and_test_differ_and_stay(position):
    position()
    data = make_data("grid25", eval_samples=100)
    val, test = (torch.cat([b.samples for b in load()]) for load in (data.val_dataloader, data.test_dataloader))
    assert val.shape == (100, 2) and not torch.equal(val, test)
    data.seed += 1
    assert torch.equal(val, torch.cat([batch.samples for batch in data.val_dataloader()]))


def test_pixels_survive_the_way_to_floats_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(as_uint8(as_float(pixels)), pixels)
    assert as_float(pixels).aminmax() == (-1.0, 1.0)
    assert as_uint8(torch.tensor([-2.0, 2.0])).tolist() == [0, 255]


def test_the_source_names_the_results(image_folder):
    assert GANData("ring8").source_label == "ring8"
    assert GANData("sample", eval_samples=10).resolve().kind == "sample"
    assert GANData(str(image_folder), eval_samples=10).source_label == image_folder.name


def test_too_few_images_are_an_error(position, image_folder):
    position()
    with pytest.raises(UserError, match=r"a training step takes 300 images, the source has 200"):
        len(make_data(str(image_folder), batch_size=300, eval_samples=60).train_dataloader())
    with pytest.raises(UserError, match=r"--data.eval_samples 260: the source has 260"):
        make_data(str(image_folder), eval_samples=260).load()


def test_number_of_evaluation_samples_follows_the_data(image_folder):
    assert len(make_data(str(image_folder)).load()["val"]) == 26
    assert make_data("ring8").num_eval_samples("val") == 2500


@pytest.mark.parametrize("name", ["cifar10", "dcgan", "images", "sample"])
def test_recipes_of_images_fit_the_sample(name):
    config = CapstoneCLI(PROJECT, ["--config", f"recipes/{name}.yaml", "--data.source", "sample"]).config
    step = config.data.batch_size * config.model.n_critic * config.model.iterations_per_step
    assert step + (config.data.eval_samples or 0) < gan_data.SAMPLE_SIZES["train"]


def test_labels_of_training_are_those_of_its_samples(tmp_path):
    for split, class_name in [("train", "a"), ("train", "c"), ("test", "a"), ("test", "b")]:
        for i in range(3):
            path = tmp_path / split / class_name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (i, i, i)).save(path)
    data = GANData(str(tmp_path))
    assert (data.num_classes, data.trained_labels) == (3, [0, 2])
    assert GANData("ring8").trained_labels == list(range(8))


def test_images_are_labeled_by_the_classes_of_a_conditional_checkpoint(tmp_path):
    for name, color in (("cat", 10), ("dog", 20)):
        for i in range(3):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (32, 32), (color, i, 0)).save(path)
    options = {"data_kind": "images", "conditional": True}
    data = GANData(str(tmp_path))
    data.resolve().test_only = True
    data.adapt_to({"hyper_parameters": options, "class_names": ["dog", "owl", "cat"]})
    reds, labels = data.load()["test"].images[:, 0, 0, 0].tolist(), data.load()["test"].labels.tolist()
    assert sorted(zip(reds, labels, strict=True)) == [(10, 2)] * 3 + [(20, 0)] * 3
    with pytest.raises(UserError, match="its class cat is none of the checkpoint's: dog"):
        GANData(str(tmp_path)).adapt_to({"hyper_parameters": options, "class_names": ["dog"]})
    unconditional = GANData(str(tmp_path))
    unconditional.adapt_to({"hyper_parameters": options | {"conditional": False}, "class_names": ["dog"]})
