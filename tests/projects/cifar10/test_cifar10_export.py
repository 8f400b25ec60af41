"""Export: the folder and its ONNX classify raw images as the checkpoint does, in int8 where that loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from projects.cifar10 import export
from projects.cifar10.data import CIFAR10Data
from projects.cifar10.inference import load
from projects.cifar10.module import CIFAR10Module
from trained import run_onnx, save_checkpoint


@pytest.fixture(scope="module")
def data(image_folder):
    data = CIFAR10Data(str(image_folder), val_size=60)
    data.setup("fit")
    return data


@pytest.fixture(scope="module")
def checkpoint(data, image_folder, tmp_path_factory):
    """A classifier with random weights, and statistics of the images."""
    torch.manual_seed(0)
    module = CIFAR10Module(speednet={"block_channels": (8, 8, 8)})
    module.setup = lambda stage: None
    module.net.init_input_stats(data.train.images)
    module.net.train()(data.train.images)  # batch-norm statistics
    module.temperature.fill_(0.3)
    options = {"source": str(image_folder), "val_size": 60}
    entries = {"class_names": data.class_names, "horizontal_flip": True, "data": data.fingerprint()}
    path = tmp_path_factory.mktemp("cifar10") / "best.ckpt"
    return save_checkpoint(path, module, "cifar10", datamodule_hyper_parameters=options, **entries)


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert export.main(["--checkpoint", str(checkpoint), "--to", str(folder), "--int8"]) == 0
    return folder


def test_the_folder_is_loaded_like_the_checkpoint(checkpoint, exported, data):
    ours, again = load(checkpoint), load(exported)
    assert again.class_names == ours.class_names and again.flips == ours.flips
    assert torch.equal(again(data.test.images), ours(data.test.images))


def test_onnx_classifies_raw_images_in_batches_of_any_size(checkpoint, exported, data):
    expected = load(checkpoint)(data.test.images, tta=0)
    assert expected.std(0).max() > 1e-3, "images differ"
    for size in (1, 4, len(expected)):
        (found,) = run_onnx(exported / "model.onnx", images=data.test.images[:size])
        torch.testing.assert_close(torch.from_numpy(found), expected[:size], rtol=0, atol=1e-5)


def test_int8_has_the_accuracies_that_the_card_says(exported, data):
    names = ("model.onnx", "model-int8.onnx")
    labels = data.val.labels.numpy()
    accuracies = {
        name: 100 * np.mean(run_onnx(exported / name, images=data.val.images)[0].argmax(1) == labels)
        for name in names
        if (exported / name).exists()
    }
    card = (exported / "README.md").read_text()
    assert f"{accuracies['model.onnx']:.2f} in float32, on 60 validation examples (McNemar's exact test" in card
    if "model-int8.onnx" in accuracies:
        assert f"accuracy {accuracies['model-int8.onnx']:.2f} in int8" in card
    else:
        assert "a significant loss, so it is left out" in card


def test_an_ensemble_is_no_export(checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        export.main(["--checkpoint", str(checkpoint), str(checkpoint), "--to", str(tmp_path / "new")])
    assert capsys.readouterr().err.startswith("error: unrecognized arguments")
