"""From a data source's name to a data set: what each name means, and what happens without a network."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from common.data import sources as data
from common.data.sources import Source, load_splits, resolve_source
from common.errors import UserError
from common.io import connectivity as network

HUB_ID = "uoft-cs/cifar10"


@pytest.fixture
def online(monkeypatch):
    """Lets the test say whether the hub answers; counts who asked."""
    asked = []

    def say(answer: bool) -> list:
        monkeypatch.setattr(data, "reachable", lambda url, timeout: asked.append(url) or answer)
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        return asked

    return say


def cache(home, folder: str) -> None:
    info = home / "datasets" / folder / "plain_text" / "0.0.0" / "0123abc" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text("{}")


# what a name means


def test_sample_and_folders_ask_nobody(online, tmp_path, monkeypatch):
    asked = online(True)
    assert resolve_source("sample", HUB_ID) == Source("sample", "sample")
    assert resolve_source(str(tmp_path), HUB_ID) == Source("folder", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beans").mkdir()
    assert resolve_source("beans", HUB_ID) == Source("folder", "beans"), "a folder goes before a hub id"
    assert asked == []


def test_auto_is_the_real_data_set_if_the_hub_answers(online):
    assert online(True) == []
    assert resolve_source("auto", HUB_ID) == Source("hub", HUB_ID)


def test_auto_is_the_real_data_set_if_it_is_cached(online, tmp_path, monkeypatch):
    online(False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    cache(tmp_path, "uoft-cs___cifar100")
    assert resolve_source("auto", HUB_ID).fell_back
    cache(tmp_path, "uoft-cs___cifar10")
    assert resolve_source("auto", HUB_ID) == Source("hub", HUB_ID)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "elsewhere"))
    assert resolve_source("auto", HUB_ID).fell_back


def test_cached_data_sets_are_found_under_the_name_that_the_library_gives_them(tmp_path, monkeypatch):
    from datasets.naming import camelcase_to_snakecase

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("MyPictures32", "SST2", "multi_30k"):
        assert not data.dataset_is_cached(f"Some-One/{name}")
        cache(tmp_path, f"Some-One___{camelcase_to_snakecase(name)}")
        assert data.dataset_is_cached(f"Some-One/{name}")


def test_auto_falls_back_to_the_sample_and_says_so(online):
    online(False)
    assert resolve_source("auto", HUB_ID) == Source("sample", "sample", fell_back=True)
    said: list[str] = []
    data.announce_sample(HUB_ID, said.append)
    assert len(said) == 1 and HUB_ID in said[0] and "SAMPLE" in said[0] and "--data.source FOLDER" in said[0]


@pytest.mark.parametrize("name", ["uoft-cs/cifar10", "beans"])
def test_hub_ids_stay_hub_ids_with_and_without_a_network(online, name):
    for answer in (True, False):
        online(answer)
        assert resolve_source(name, HUB_ID) == Source("hub", name)


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "~/missing", "../missing", "a/b/c", ".hidden"])
def test_a_missing_folder_is_an_error(name):
    with pytest.raises(UserError, match=f"data source {name}: no such folder; give a folder, a hub id, `sample` or"):
        resolve_source(name, HUB_ID)


def test_labels_are_the_names_for_figures(tmp_path):
    (tmp_path / "birds").mkdir()
    assert Source("folder", f"{tmp_path}/birds/").label == "birds"
    assert Source("folder", f"{tmp_path}/birds/../birds/.").label == "birds"
    assert Source("hub", HUB_ID).label == HUB_ID
    assert Source("sample", "sample", fell_back=True).label == "sample"


# the network


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_who_asks_to_stay_offline_stays_offline(online, monkeypatch, variable):
    asked = online(True)
    for value in ("1", "true", "yes"):
        monkeypatch.setenv(variable, value)
        assert not data.hub_is_reachable()
    assert asked == []
    for value in ("0", ""):
        monkeypatch.setenv(variable, value)
        assert data.hub_is_reachable()


def test_the_hub_may_be_a_mirror(online, monkeypatch):
    asked = online(True)
    assert data.hub_is_reachable()
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert data.hub_is_reachable()
    assert asked == ["https://huggingface.co", "https://mirror.example"]


def test_auto_falls_back_within_seconds_even_if_looking_up_the_name_hangs(online, monkeypatch):
    enough = threading.Event()

    def hang(*args, **kwargs):
        enough.wait(20)
        raise OSError("no answer")

    monkeypatch.setattr(network.socket, "getaddrinfo", hang)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(network, "getproxies", dict)
    began = time.perf_counter()
    assert resolve_source("auto", HUB_ID).fell_back
    assert time.perf_counter() - began < 5
    enough.set()


def test_reachable_means_that_somebody_listens(monkeypatch):
    monkeypatch.setattr(network, "getproxies", dict)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        assert network.reachable(f"http://127.0.0.1:{port}/path")
    assert not network.reachable(f"http://127.0.0.1:{port}/path")


def test_reachable_asks_the_proxy_if_there_is_one(monkeypatch):
    addresses = []

    def refuse(address, timeout):
        addresses.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(network.socket, "create_connection", refuse)
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for proxy in (None, "http://proxy.example:3128", "proxy.example:8080"):
        if proxy:
            monkeypatch.setenv("https_proxy", proxy)
        assert not network.reachable("https://huggingface.co")
    monkeypatch.setenv("no_proxy", "huggingface.co")
    assert not network.reachable("https://huggingface.co")
    hub = ("huggingface.co", 443)
    assert addresses == [hub, ("proxy.example", 3128), ("proxy.example", 8080), hub]


def test_a_named_source_never_falls_back(online):
    online(False)
    with pytest.raises(UserError) as caught:
        load_splits(resolve_source("someone/pictures", HUB_ID))
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("data source someone/pictures: no such folder, and the hub cannot be reached; ")
    assert "`--data.source sample`" in line


# reading


def test_a_folder_in_the_hubs_layout_is_read(tmp_path):
    import datasets

    (tmp_path / "data").mkdir()
    rows = {"train": ["a", "b", "c"], "validation": ["d"], "test": ["e", "f"]}
    for split, texts in rows.items():
        table = datasets.Dataset.from_dict({"text": texts, "label": list(range(len(texts)))})
        table.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    splits = load_splits(Source("folder", str(tmp_path)))
    assert {name: list(split["text"]) for name, split in splits.items()} == rows
    assert list(splits["train"]["label"]) == [0, 1, 2]


def test_a_folder_of_plain_tables_is_read(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{split} one,0\n{split} two,1\n")
    splits = load_splits(Source("folder", str(tmp_path)))
    assert {name: list(split["text"]) for name, split in splits.items()} == {
        "train": ["train one", "train two"],
        "test": ["test one", "test two"],
    }


def test_what_is_no_data_set_is_an_error_of_one_line(tmp_path):
    for name, content in [("empty", None), ("odd", "x.bin"), ("broken", "train.parquet")]:
        folder = tmp_path / name
        folder.mkdir()
        if content:
            (folder / content).write_text("hello")
        with pytest.raises(UserError) as caught:
            load_splits(Source("folder", str(folder)))
        assert str(caught.value).startswith(f"data source {folder}: ")
        assert "\n" not in str(caught.value)
