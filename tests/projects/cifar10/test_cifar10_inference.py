"""Inference: the ensemble averages as written out by hand, and a run's checkpoint is all that it needs."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.cli.evaluate import main as evaluate
from common.data.image_decoding import read_image
from projects.cifar10 import inference
from projects.cifar10.inference import ImageClassificationPipeline, load, load_features
from projects.cifar10.module import CIFAR10Module
from projects.cifar10.networks import SpeedNet
from projects.cifar10.train import PROJECT
from projects.cifar10.tta import predict_logits
from trained import check_batches, check_evaluation, check_load, checkpoint_of, results

NAMES = list("abcdefghij")


def random_images() -> Tensor:
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)


def nets(count: int) -> list[SpeedNet]:
    return [SpeedNet((8, 8, 8)).eval() for _ in range(count)]


def best_checkpoint(run: Path) -> Path:
    (path,) = run.glob("checkpoints/best-*.ckpt")
    return path


def test_an_ensemble_averages_probabilities_and_not_logits():
    x, members = random_images(), nets(3)
    with torch.no_grad():
        members[0].head.weight.mul_(50)  # a network that is surer than the others
    logits = [predict_logits(net, x, 1) for net in members]
    expected = sum(each.exp() / each.exp().sum(1, keepdim=True) for each in logits) / 3
    got = ImageClassificationPipeline(members, NAMES)(x, 1)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got.sum(1), torch.ones(5))
    assert not torch.allclose(got, torch.stack(logits).mean(0).softmax(1), atol=1e-3)


def test_an_ensemble_of_one_is_its_network_in_batches_of_any_size(monkeypatch):
    (net,), x = nets(1), random_images()
    expected = net(x).softmax(1)
    for size in (2, 500):
        monkeypatch.setattr(inference, "BATCH_SIZE", size)
        torch.testing.assert_close(ImageClassificationPipeline([net], NAMES)(x, 0), expected)


def test_each_network_flips_as_it_was_trained():
    x, members = random_images(), nets(2)
    expected = (predict_logits(members[0], x, 2, flip=False).softmax(1) + predict_logits(members[1], x, 2).softmax(1)) / 2
    torch.testing.assert_close(ImageClassificationPipeline(members, NAMES, [False, True])(x, 2), expected)


def test_features_are_the_input_of_the_last_layer(reference_run):
    path = best_checkpoint(reference_run.runs / "one")
    net = load(path).nets[0]
    inputs: list[Tensor] = []
    net.head.register_forward_pre_hook(lambda layer, args: inputs.append(args[0]))
    with torch.no_grad():
        net(x := random_images())
        features = load_features(str(path))(x)
    assert features.shape == (5, 8)
    torch.testing.assert_close(features, inputs[0])


def test_hyperparameters_in_a_runs_checkpoint_are_plain_builtins(reference_run):
    checkpoint = torch.load(best_checkpoint(reference_run.runs / "one"), weights_only=True)
    saved = checkpoint["hyper_parameters"]
    assert saved["speednet"] == {"block_channels": (8, 8, 8), "convs_per_block": (2, 2, 3), "bn_momentum": 0.4}
    assert (saved["lr"], saved["optimizer"], saved["lookahead"]) == (0.03, "sgd", True)
    assert saved["progressive_resizing"] == ((0.0, 20), (0.25, 24), (0.5, 28), (0.7, 32))

    def types(value: object) -> set[type]:
        children = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
        return {type(value)}.union(*map(types, children))

    assert types(saved) <= {dict, tuple, list, str, int, float, bool}


def test_a_runs_checkpoint_classifies_raw_images(reference_run, image_folder):
    pipeline = load(best_checkpoint(reference_run.runs / "one"))
    files = sorted((image_folder / "test").rglob("*.png"))
    probabilities = pipeline(torch.stack([read_image(file, 32) for file in files]))
    assert probabilities.shape == (61, 10) and len(pipeline.class_names) == 10
    torch.testing.assert_close(probabilities.sum(1), torch.ones(61))


def test_an_evaluation_repeats_the_test_of_the_run(reference_run, tmp_path):
    check_evaluation(PROJECT, reference_run.runs / "one", tmp_path)
    assert (tmp_path / "test" / "plots" / "mistakes.png").stat().st_size > 5000


def test_a_checkpoint_classifies_images_from_python(reference_run, tmp_path):
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    checkpoint = checkpoint_of(reference_run.runs / "one")
    classifier = check_load(load, CIFAR10Module, checkpoint, tmp_path, images=images)
    check_batches(classifier, images, 501)
    assert classifier([]).shape == (0, 10)


def evaluate_on(reference_run, cwd: Path, *flags: str) -> int:
    checkpoint = str(checkpoint_of(reference_run.runs / "one"))
    with contextlib.chdir(cwd):
        return evaluate(PROJECT, ["--checkpoint", checkpoint, "--accelerator", "cpu", "--to", "x", *flags])


def test_other_images_are_labeled_by_the_classes_of_the_checkpoint(reference_run, image_folder, tmp_path):
    """Two of its ten classes, in a folder without splits: all of it is evaluated."""
    chosen = sorted(path.name for path in (image_folder / "train").iterdir())[7:9]
    for name in chosen:
        shutil.copytree(image_folder / "train" / name, tmp_path / "other" / name)
    assert evaluate_on(reference_run, tmp_path, "--data.source", "other", "--model.tta", "0") == 0
    classifier = load(checkpoint_of(reference_run.runs / "one"))
    files = sorted((tmp_path / "other").rglob("*.png"))
    predicted = classifier(torch.stack([read_image(file, 32) for file in files]), tta=0).argmax(1)
    correct = [classifier.class_names[label] == file.parent.name for label, file in zip(predicted, files, strict=True)]
    assert len(files) == 52 and sum(correct) > 0
    found = results(tmp_path / "x")["metrics"]
    assert found["test/accuracy"] == found["test/accuracy_tta"] == pytest.approx(sum(correct) / len(files))


@pytest.mark.parametrize(
    "names, message",
    [
        (["disc", "zebra"], "data source other: its class zebra is none of the checkpoint's: "),
        ([""], "data source other: has no labels"),
    ],
)
def test_images_of_other_classes_or_of_none_are_one_line(reference_run, image_folder, tmp_path, capsys, names, message):
    images = sorted((image_folder / "test").rglob("*.png"))
    for name, image in zip(names, images, strict=False):
        (tmp_path / "other" / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, tmp_path / "other" / name / "a.png")
    assert evaluate_on(reference_run, tmp_path, "--data.source", "other") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
