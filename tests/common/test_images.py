"""Labeled images: decoded as PIL does, cached on disk; errors name the damaged image."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from common.data import images
from common.data.image_decoding import lossy_encoding, read_image
from common.data.images import LabeledImages, load_images
from common.data.sources import Source
from common.errors import UserError

COUNTS = {"train": 5, "test": 3}
CLASSES = ["cat", "dog"]
SIZE = 8


def new_image(seed: int, width: int = SIZE, height: int = SIZE, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def reference(image: Image.Image, size: int = SIZE) -> torch.Tensor:
    """(3, size, size) uint8, pixel by pixel, on white."""
    white = Image.new("RGB", image.size, "white")
    white.paste(image.convert("RGB"), mask=image.convert("RGBA").getchannel("A"))
    image = ImageOps.fit(white, (size, size)) if image.size != (size, size) else white
    out = torch.empty(3, size, size, dtype=torch.uint8)
    for y in range(size):
        for x in range(size):
            out[:, y, x] = torch.tensor(image.getpixel((x, y)))
    return out


@pytest.fixture
def folder(tmp_path):
    """Images `split/class/i.png`, number i of a split from seed 10 * split + i."""
    root = tmp_path / "pets"
    for s, (split, count) in enumerate(COUNTS.items()):
        for i in range(count):
            path = root / split / CLASSES[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            new_image(10 * s + i).save(path)
    return root


def load(root, size: int = SIZE) -> dict[str, LabeledImages]:
    return load_images(Source("folder", str(root)), size, pytest.fail)


def parquet(root, rows, split="train", label=None) -> None:
    """Writes `rows` of (encoded bytes, label) as the hub stores images."""
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": label or datasets.ClassLabel(names=CLASSES)})
    images = [None if data is None else {"bytes": data, "path": None} for data, _ in rows]
    (root / "data").mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_dict({"img": images, "label": [label for _, label in rows]}, features)
    table.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# decoding


def test_a_folder_of_images_is_decoded_as_pil_does(folder):
    splits = load(folder)
    assert {name: len(data) for name, data in splits.items()} == COUNTS
    for s, (split, count) in enumerate(COUNTS.items()):
        data = splits[split]
        assert (data.images.dtype, data.labels.dtype, data.class_names) == (torch.uint8, torch.int64, CLASSES)
        in_order = [i for label in (0, 1) for i in range(count) if i % 2 == label]  # class by class
        assert data.labels.tolist() == [i % 2 for i in in_order]
        for i, image in zip(in_order, data.images, strict=True):
            assert torch.equal(image, reference(new_image(10 * s + i)))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
@pytest.mark.parametrize("width, height", [(8, 8), (20, 12), (5, 15)])
def test_images_of_any_size_and_mode_become_rgb_squares(tmp_path, mode, width, height):
    image, kind = new_image(1, width, height, mode), "tiff" if mode == "CMYK" else "png"
    image.save(tmp_path / f"x.{kind}")
    decoded = read_image(tmp_path / f"x.{kind}", SIZE)
    assert (decoded.dtype, tuple(decoded.shape)) == (torch.uint8, (3, SIZE, SIZE))
    assert (decoded.int() - reference(image).int()).abs().max() <= (1 if image.has_transparency_data else 0)
    assert decoded.is_contiguous()


def test_a_tall_image_is_center_cropped(tmp_path):
    image = Image.new("RGB", (10, 30), "red")
    image.paste((0, 0, 255), (0, 10, 10, 20))
    image.save(tmp_path / "x.png")
    assert (read_image(tmp_path / "x.png", 10) == torch.tensor([0, 0, 255]).view(3, 1, 1)).all()


def test_the_orientation_tag_of_a_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    new_image(1).save(tmp_path / "x.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "x.png", SIZE), reference(new_image(1)).rot90(-1, (1, 2)))


def test_images_in_tables_are_decoded_as_pil_does(tmp_path):
    rows = [(encoded(new_image(i, 20, 20), kind), i % 2) for i, kind in enumerate(["PNG", "JPEG", "WEBP", "BMP"])]
    parquet(tmp_path, rows)
    parquet(tmp_path, rows[:1], "test")
    train = load(tmp_path)["train"]
    assert train.labels.tolist() == [0, 1, 0, 1]
    for (data, _), image in zip(rows, train.images, strict=True):
        assert torch.equal(image, reference(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("quality", [30, 75, 92])
def test_jpeg_quality_is_read_from_its_tables(quality):
    data = encoded(new_image(0), "JPEG", quality=quality)
    assert lossy_encoding({"bytes": data, "path": None}) == f"jpeg{quality}"
    assert lossy_encoding({"bytes": encoded(new_image(0)), "path": None}) == ""


@pytest.mark.parametrize(
    "kind, options, expected",
    [
        ("MPO", {"quality": 75, "save_all": True, "append_images": [new_image(1)]}, "jpeg75"),
        ("WEBP", {}, "webp"),
        ("WEBP", {"exif": Image.Exif()}, "webp"),
        ("WEBP", {"lossless": True}, ""),
        ("AVIF", {}, "avif"),
        ("JPEG2000", {}, "jp2"),
        ("TIFF", {}, ""),
    ],
)
def test_lossy_encodings_are_named(tmp_path, kind, options, expected):
    data = encoded(new_image(0), kind, **options)
    (tmp_path / "x").write_bytes(data)
    assert lossy_encoding({"bytes": data, "path": None}) == expected
    assert lossy_encoding({"bytes": None, "path": str(tmp_path / "x")}) == expected


def test_the_sample_is_neither_decoded_nor_cached():
    made = {"train": LabeledImages(torch.zeros(1, 3, 2, 2), torch.zeros(1), ["a"])}
    assert load_images(Source("sample", "sample"), 2, lambda: made) is made
    assert not images.cache_folder().exists()


# the cache


@pytest.fixture
def decoded(monkeypatch):
    """Counts how often anything was decoded."""
    calls, decode = [], images._decode
    monkeypatch.setattr(images, "_decode", lambda *args: calls.append(args) or decode(*args))
    return calls


def same(a: dict[str, LabeledImages], b: dict[str, LabeledImages]) -> bool:
    def fields(data: LabeledImages) -> tuple:
        return data.images.tolist(), data.labels.tolist(), data.class_names, data.encoding

    return a.keys() == b.keys() and all(fields(a[split]) == fields(b[split]) for split in a)


def test_the_second_time_images_are_read_from_the_cache(folder, decoded):
    first = load(folder)
    assert same(load(folder), first)
    assert len(decoded) == 1
    assert [path.suffix for path in images.cache_folder().iterdir()] == [".pt"]
    assert load(folder, 4)["train"].images.shape == (5, 3, 4, 4), "another size is another entry"


def test_a_changed_file_is_decoded_again(folder, decoded):
    load(folder)
    path = folder / "train" / "cat" / "0.png"
    new_image(99).save(path)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))
    assert torch.equal(load(folder)["train"].images[0], reference(new_image(99)))
    (folder / "test" / "dog" / "1.png").unlink()
    assert len(load(folder)["test"]) == COUNTS["test"] - 1
    assert len(decoded) == 3


def test_a_cache_with_a_flipped_bit_is_replaced(folder, decoded):
    first = load(folder)
    (path,) = images.cache_folder().iterdir()
    content = bytearray(path.read_bytes())
    content[content.find(first["train"].images[0].numpy().tobytes()) + 9] ^= 4
    path.write_bytes(content)
    assert same(load(folder), first) and len(decoded) == 2


@pytest.mark.parametrize("kept", [0, 50, -1])
def test_a_truncated_cache_is_replaced(folder, decoded, kept):
    first = load(folder)
    (path,) = images.cache_folder().iterdir()
    os.truncate(path, kept % path.stat().st_size)
    assert same(load(folder), first)
    assert same(load(folder), first)
    assert len(decoded) == 2


def test_a_cache_that_cannot_be_written_is_skipped(folder, decoded, monkeypatch):
    (folder / "file").touch()
    monkeypatch.setenv("CAPSTONES_CACHE", str(folder / "file" / "cache"))
    assert same(load(folder), load(folder))
    assert len(decoded) == 2

    def full(content, path):
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setenv("CAPSTONES_CACHE", str(folder / "cache"))
    monkeypatch.setattr(torch, "save", full)
    load(folder)
    assert list((folder / "cache").iterdir()) == []


# errors


def test_a_missing_split_is_named(folder):
    (folder / "train").rename(folder / "other")
    with pytest.raises(UserError, match=r"pets: needs a split train, has test$"):
        load(folder)


def test_missing_columns_are_named(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\nhello,0\n")
    with pytest.raises(UserError, match=r"needs a column of images .* has text \(Value\), label \(Value\)$"):
        load(tmp_path)


def test_a_broken_file_is_named(folder):
    for damage in (b"hello", (folder / "test" / "dog" / "1.png").read_bytes()[:150]):
        (folder / "test" / "dog" / "1.png").write_bytes(damage)
        with pytest.raises(UserError, match=r"row 2 of test, .*test/dog/1\.png, is not an image that can be read"):
            load(folder)
    assert not list(images.cache_folder().glob("*")), "no partial file is kept"


@pytest.mark.parametrize("damage", [None, b"", b"hello", encoded(new_image(0))[:150], b"P6 16 16 x" + bytes(800)])
def test_a_broken_row_is_named(tmp_path, damage):
    good = encoded(new_image(0))
    parquet(tmp_path, [(good, 0), (good, 1), (damage, 0)])
    parquet(tmp_path, [(good, 0)], "test")
    with pytest.raises(UserError, match="row 2 of train is not an image that can be read") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [None, -1])
def test_a_row_without_a_label_is_named(tmp_path, label):
    good = encoded(new_image(0))
    parquet(tmp_path, [(good, 0), (good, 1)])
    parquet(tmp_path, [(good, 0), (good, label)], "test")
    with pytest.raises(UserError, match="row 1 of test has no label"):
        load(tmp_path)


def test_an_image_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.png: no such file"):
        read_image(tmp_path / "nothing.png", SIZE)
    for damage in (b"hello", encoded(new_image(0))[:150], b"P6 16 16 x" + bytes(800)):
        (tmp_path / "x.png").write_bytes(damage)
        with pytest.raises(UserError, match=r"x\.png: not an image that can be read"):
            read_image(tmp_path / "x.png", SIZE)
    with pytest.raises(UserError, match="not an image"):
        read_image(tmp_path, SIZE)
