"""`predict` prints what the module computes, reports bad input in one line, and saves pseudo-labels to train on."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from common.data.image_decoding import read_image
from common.data.synthetic_images import CLASS_NAMES as NAMES
from common.io.checkpoints import plain
from projects.cifar10 import predict, synthetic
from projects.cifar10.config import SpeedNetConfig
from projects.cifar10.data import CIFAR10Data
from projects.cifar10.inference import load
from projects.cifar10.module import CIFAR10Module


def write_image(path: Path, image: Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Three images in a folder `mine`, one of them further down, beside a file that is none."""
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("no image")
    names = ["a.png", "b.png", "deep/er/c.PNG"]
    return [write_image(tmp_path / "mine" / name, image) for name, image in zip(names, images, strict=True)]


def checkpoint(path: Path, names: Sequence[str] = NAMES, sure: float = 1.0, **changes: object) -> tuple[Path, CIFAR10Module]:
    """A checkpoint with what a run's has for prediction, of a network that has only been initialized."""
    module = CIFAR10Module(speednet=SpeedNetConfig((8, 8, 8), (2, 2, 2)))
    module.temperature.fill_(1.2)
    with torch.no_grad():
        module.net.head.weight.mul_(sure)
    content = {
        "state_dict": module.state_dict(),
        "hyper_parameters": plain(dict(module.hparams)),
        "class_names": list(names),
    }
    torch.save({**content, "project": "cifar10", **changes}, path)
    return path, module.eval()


def by_hand(modules: list[CIFAR10Module], path: Path, views: int) -> Tensor:
    """Probabilities (classes,) of an image: the mean over the modules of softmax of the mean over its views."""
    x = read_image(path, 32)[None]
    total = torch.zeros(10)
    with torch.no_grad():
        for module in modules:
            logits = module(x) if views == 1 else (module(x) + module(x.flip(3))) / 2
            total += (logits / module.temperature).softmax(1)[0]
    return total / len(modules)


def blocks(text: str) -> dict[str, list[tuple[str, float]]]:
    """path -> [(class, per cent)] of the printed text."""
    found: dict[str, list[tuple[str, float]]] = {}
    path = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"  (\S+) +(\d+\.\d) %", line):
            found[path].append((match[1], float(match[2])))
        else:
            path = line
            found[path] = []
    return found


def run(*words: object) -> int:
    try:
        return predict.main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)


# probabilities


@pytest.mark.parametrize("tta", [0, 1])
def test_probabilities_are_those_of_the_module(tmp_path, files, capsys, tta):
    path, module = checkpoint(tmp_path / "x.ckpt", sure=30)
    assert run(*files, "--checkpoint", path, "--tta", tta, "--top", 4) == 0
    printed = blocks(capsys.readouterr().out)
    assert list(printed) == [str(image) for image in files]
    for image in files:
        values, classes = by_hand([module], image, 1 + tta).sort(descending=True)
        assert [name for name, _ in printed[str(image)]] == [NAMES[c] for c in classes[:4]]
        assert [percent for _, percent in printed[str(image)]] == pytest.approx((100 * values[:4]).tolist(), abs=0.051)


def test_a_checkpoint_of_a_version_without_temperature_has_one_of_1(tmp_path, files):
    _, module = checkpoint(tmp_path / "x.ckpt", sure=30)
    state = {name: value for name, value in module.state_dict().items() if name != "temperature"}
    hyper_parameters = plain(dict(module.hparams))
    old, _ = checkpoint(tmp_path / "old.ckpt", state_dict=state, hyper_parameters=hyper_parameters)
    image = read_image(files[0], 32)[None]
    expected = (module(image) + module(image.flip(3))).div(2).softmax(1)
    torch.testing.assert_close(load(old)(image, tta=1), expected.detach())


def test_several_checkpoints_are_an_ensemble(tmp_path, files, capsys):
    members = [checkpoint(tmp_path / f"{sure}.ckpt", sure=sure) for sure in (1, 40, 80)]
    modules = [module for _, module in members]
    # the flag may stand once with all or once for each
    assert run(files[0], "--checkpoint", members[0][0], members[1][0], "--checkpoint", members[2][0], "--tta", 1) == 0
    (printed,) = blocks(capsys.readouterr().out).values()
    values, classes = by_hand(modules, files[0], 2).sort(descending=True)
    assert len(printed) == 3
    assert printed == [
        (NAMES[c], pytest.approx(100 * p, abs=0.051)) for p, c in zip(values[:3].tolist(), classes[:3].tolist(), strict=True)
    ]


def test_a_folder_means_all_images_below_it_in_order(tmp_path, files, capsys):
    path, _ = checkpoint(tmp_path / "x.ckpt")
    assert run(tmp_path / "mine", "--checkpoint", path) == 0
    assert list(blocks(capsys.readouterr().out)) == [str(image) for image in sorted(files)]


def test_top_is_at_most_all_classes(tmp_path, files, capsys):
    path, _ = checkpoint(tmp_path / "x.ckpt")
    assert run(files[0], "--checkpoint", path, "--top", 99) == 0
    (printed,) = blocks(capsys.readouterr().out).values()
    assert {name for name, _ in printed} == set(NAMES)
    assert sum(percent for _, percent in printed) == pytest.approx(100, abs=0.5)


def test_a_photo_is_cropped_and_shrunk(tmp_path, capsys):
    path, module = checkpoint(tmp_path / "x.ckpt", sure=30)
    photo = write_image(tmp_path / "photo.jpg", torch.randint(0, 256, (3, 120, 200), dtype=torch.uint8))
    assert run(photo, "--checkpoint", path, "--tta", 0) == 0
    best = by_hand([module], photo, 1).max().item()
    assert blocks(capsys.readouterr().out)[str(photo)][0][1] == pytest.approx(100 * best, abs=0.051)


# bad input


@pytest.fixture
def bad(tmp_path, files) -> dict[str, Path]:
    good, module = checkpoint(tmp_path / "good.ckpt")
    checkpoint(tmp_path / "other.ckpt", project="sentiment")
    checkpoint(tmp_path / "classes.ckpt", names=NAMES[::-1])
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.ckpt")
    (tmp_path / "truncated.ckpt").write_bytes(good.read_bytes()[:3000])
    state = {key: value for key, value in module.state_dict().items() if key != "net.head.weight"}
    checkpoint(tmp_path / "headless.ckpt", state_dict=state)
    checkpoint(tmp_path / "older.ckpt", hyper_parameters={"width": 64})
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(files[0].read_bytes()[:200])
    return {
        "good": good,
        "image": files[0],
        **{path.name: path for path in tmp_path.iterdir()},
        "absent": tmp_path / "absent",
        "notes": tmp_path / "mine" / "notes.txt",
    }


@pytest.mark.parametrize(
    "words, message",
    [
        ("absent --checkpoint good", r"absent: no such file"),
        ("notes --checkpoint good", r"notes\.txt: not an? \w+ that can be read"),
        ("broken.png --checkpoint good", r"broken\.png: not an? \w+ that can be read"),
        ("empty --checkpoint good", r"empty: no image in this folder \(PNG, "),
        ("image --checkpoint absent", r"checkpoint \S*absent: no such file"),
        ("image --checkpoint truncated.ckpt", r"truncated\.ckpt: truncated or damaged"),
        ("image --checkpoint foreign.ckpt", r"foreign\.ckpt: not a checkpoint of this"),
        ("image --checkpoint other.ckpt", r"other\.ckpt: belongs to sentiment, not to cifar10"),
        ("image --checkpoint good classes.ckpt", r"classes\.ckpt: its classes are checkerboard, .*good\.ckpt has others"),
        ("image --checkpoint headless.ckpt", r"headless\.ckpt: written by a version before .*net\.head\.weight"),
        ("image --checkpoint older.ckpt", r"older\.ckpt: written by a version before .*width"),
        ("image", r"required: --checkpoint"),
        ("--checkpoint good", r"required: IMAGE"),
        ("image --checkpoint good --tta 3", r"--tta: invalid choice: 3 \(choose from 0, 1, 2\)"),
        ("image --checkpoint good --top 0", r"--top: 0: use a whole number of at least 1"),
        ("image --checkpoint good --top some", r"--top: some: use a whole number of at least 1"),
        ("image --checkpoint good --threshold 95", r"--threshold: 95: use a number from 0 to 1"),
        ("image --checkpoint good --accelerator tpu", r"--accelerator: invalid choice: 'tpu'"),
        ("image --checkpoint good --save_pseudo_labels notes --threshold 0", r"--save_pseudo_labels \S*notes\.txt"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(bad, capsys, words, message):
    assert run(*[bad.get(word, word) for word in words.split()]) == 2
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and re.search(message, lines[0]), printed.err
    assert printed.out == "" or "--save_pseudo_labels" in words


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_an_absent_gpu_is_one_line(bad, capsys):
    assert run(bad["image"], "--checkpoint", bad["good"], "--accelerator", "gpu") == 2
    assert capsys.readouterr().err.startswith("error: --accelerator gpu: no GPU was found")


def test_help_needs_no_torch(capsys):
    assert run("--help") == 0
    printed = capsys.readouterr().out
    for flag in ("IMAGE", "--checkpoint", "--tta", "--top", "--accelerator", "--save_pseudo_labels", "--threshold"):
        assert flag in printed
    tree = ast.parse(Path(predict.__file__).read_text())
    imported = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert {name for name in imported if name.partition(".")[0] in ("common", "projects", "torch")} == {
        "common.cli.command",
        "common.errors",
    }


def test_files_of_a_folder_that_are_no_images_are_passed_over_in_one_line(tmp_path, files, capsys):
    for name in ("._a.png", ".ipynb_checkpoints/a.png", "photo.HEIC"):
        (files[0].parent / name).parent.mkdir(exist_ok=True)
        (files[0].parent / name).write_bytes(b"no image")
    Image.new("LA", (32, 32), (0, 0)).save(files[0].parent / "d.Png", "PNG")
    path, _ = checkpoint(tmp_path / "x.ckpt")
    assert run(files[0].parent, "--checkpoint", path) == 0
    printed = capsys.readouterr()
    assert len(blocks(printed.out)) == 4
    assert printed.err.splitlines() == [
        f"{files[0].parent}: passed over: 2 hidden, 1 .heic (convert to PNG or JPEG), 1 .txt",
        "images with transparency, laid on white: 1",
    ]


# pseudo-labels


def test_pseudo_labels_are_trained_on_by_extra_train_data(tmp_path, files, capsys, monkeypatch):
    monkeypatch.setattr(synthetic, "SPLIT_SIZES", {"train": 30, "test": 10})
    path, module = checkpoint(tmp_path / "x.ckpt", sure=4)
    confidence, labels = torch.stack([by_hand([module], image, 2) for image in files]).max(1)
    threshold = confidence.sort().values[:2].mean().item()  # so that two of the three are sure enough
    assert 0.1 < threshold < 0.99
    words = [*files, "--checkpoint", path, "--tta", 1, "--threshold", threshold]
    assert run(*words, "--save_pseudo_labels", tmp_path / "extra") == 0
    assert f"2 of 3 images reach {threshold:g}: 2 copied to {tmp_path / 'extra'}" in capsys.readouterr().out
    chosen = [(files[i], int(labels[i])) for i in range(3) if confidence[i] >= threshold]
    files = sorted(p for p in (tmp_path / "extra").rglob("*") if p.is_file())
    assert files == sorted(tmp_path / "extra" / NAMES[label] / f"{image.stem}.png" for image, label in chosen)

    data = CIFAR10Data(source="sample", val_size=10, extra_train_data=str(tmp_path / "extra"))
    data.prepare_data()
    data.setup("fit")
    assert data.class_names == list(NAMES)
    images, labels = data.train.images[20:], data.train.labels[20:].tolist()
    added = {(image.numpy().tobytes(), label) for image, label in zip(images, labels, strict=True)}
    assert added == {(read_image(image, 32).numpy().tobytes(), label) for image, label in chosen}


def test_pseudo_labels_never_replace_a_file(tmp_path, files, capsys):
    path, module = checkpoint(tmp_path / "x.ckpt")
    twin = write_image(tmp_path / "elsewhere" / "a.png", torch.zeros(3, 40, 40, dtype=torch.uint8))  # the name of another
    folder = tmp_path / "extra"
    words = ["--checkpoint", path, "--save_pseudo_labels", folder, "--threshold", 0]
    labels = {image: NAMES[int(by_hand([module], image, 2).argmax())] for image in (files[0], twin)}
    taken = write_image(folder / labels[twin] / "a.png", torch.full((3, 32, 32), 9, dtype=torch.uint8))
    before = taken.read_bytes()
    assert run(files[0], twin, "--tta", 1, *words) == 0
    assert "2 of 2 images reach 0: 2 copied to" in capsys.readouterr().out
    assert taken.read_bytes() == before
    written = [p for p in folder.rglob("*.png") if p != taken]
    assert len(written) == 2 and (folder / labels[twin] / "a-2.png" in written)
    contents = {read_image(p, 32).numpy().tobytes() for p in written}
    assert contents == {read_image(p, 32).numpy().tobytes() for p in (files[0], twin)}

    assert run(files[0], twin, "--tta", 1, *words) == 0
    assert "0 copied to" in (text := capsys.readouterr().out) and "(2 were there already)" in text
    assert sorted(folder.rglob("*.png")) == sorted([taken, *written]), "the same images are not filed twice"


# a run's own checkpoint


@pytest.mark.slow
def test_the_command_that_a_run_ends_with_works(reference_run, image_folder, monkeypatch, capsys):
    output = reference_run.wait()
    line = re.search(r"use: +python -m projects\.cifar10\.predict IMAGE (--checkpoint \S+\.ckpt)", output)
    assert line, output
    monkeypatch.chdir(reference_run.cwd)
    assert run(image_folder / "test", *line[1].split(), "--accelerator", "cpu") == 0
    printed = blocks(capsys.readouterr().out)
    assert len(printed) == 61 and all(len(classes) == 3 for classes in printed.values())
    assert {name for classes in printed.values() for name, _ in classes} <= set(NAMES)
