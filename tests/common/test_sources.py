"""Data sources: what each name means, what happens without a network, what can be read."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from common.data import sources
from common.data.sources import Source, load_splits, resolve_source
from common.errors import UserError
from common.io import connectivity

HUB_ID = "uoft-cs/cifar10"


@pytest.fixture
def hub(monkeypatch):
    """Sets whether the hub answers; returns the list of URLs that were asked."""
    asked: list[str] = []

    def set_reachable(answer: bool) -> list[str]:
        monkeypatch.setattr(sources, "reachable", lambda url, timeout: asked.append(url) or answer)
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        return asked

    return set_reachable


def add_to_cache(home, folder: str) -> None:
    info = home / "datasets" / folder / "plain_text" / "0.0.0" / "0123abc" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text("{}")


# what a name means


def test_sample_and_folders_do_not_ask_the_hub(hub, tmp_path, monkeypatch):
    asked = hub(True)
    assert resolve_source("sample", HUB_ID) == Source("sample", "sample")
    assert resolve_source(str(tmp_path), HUB_ID) == Source("folder", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beans").mkdir()
    assert resolve_source("beans", HUB_ID) == Source("folder", "beans"), "a folder takes precedence over a hub id"
    assert asked == []


def test_files_are_sources_if_their_type_can_be_read(tmp_path):
    for name in ("rows.csv", "rows.xlsx"):
        (tmp_path / name).touch()
    assert resolve_source(f"{tmp_path}/rows.csv", HUB_ID) == Source("file", f"{tmp_path}/rows.csv")
    with pytest.raises(UserError, match=r"rows\.xlsx: not a file of a type that can be read: \.csv, \.tsv"):
        resolve_source(f"{tmp_path}/rows.xlsx", HUB_ID)


def test_auto_is_the_real_data_set_if_the_hub_answers(hub):
    hub(True)
    assert resolve_source("auto", HUB_ID) == Source("hub", HUB_ID)


def test_auto_is_the_real_data_set_if_it_is_cached(hub, tmp_path, monkeypatch):
    hub(False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    add_to_cache(tmp_path, "uoft-cs___cifar100")
    assert resolve_source("auto", HUB_ID).fell_back
    add_to_cache(tmp_path, "uoft-cs___cifar10")
    assert resolve_source("auto", HUB_ID) == Source("hub", HUB_ID)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "elsewhere"))
    assert resolve_source("auto", HUB_ID).fell_back


def test_cached_data_sets_are_found_under_the_name_that_datasets_gives_them(tmp_path, monkeypatch):
    from datasets.naming import camelcase_to_snakecase

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("MyImages32", "SST2", "multi_30k"):
        assert not sources.dataset_is_cached(f"Some-One/{name}")
        add_to_cache(tmp_path, f"Some-One___{camelcase_to_snakecase(name)}")
        assert sources.dataset_is_cached(f"Some-One/{name}")


def test_auto_falls_back_to_the_sample(hub):
    hub(False)
    assert resolve_source("auto", HUB_ID) == Source("sample", "sample", fell_back=True)


@pytest.mark.parametrize("name", ["uoft-cs/cifar10", "beans"])
def test_hub_ids_stay_hub_ids_with_and_without_a_network(hub, name):
    for answer in (True, False):
        hub(answer)
        assert resolve_source(name, HUB_ID) == Source("hub", name)


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "~/missing", "../missing", "a/b/c", ".hidden"])
def test_a_missing_folder_is_an_error(name):
    with pytest.raises(UserError, match=f"data source {name}: no such folder; give a folder, a hub id, `sample` or"):
        resolve_source(name, HUB_ID)


def test_labels_of_sources(tmp_path):
    (tmp_path / "birds").mkdir()
    assert Source("folder", f"{tmp_path}/birds/").label == "birds"
    assert Source("folder", f"{tmp_path}/birds/../birds/.").label == "birds"
    assert Source("hub", HUB_ID).label == HUB_ID
    assert Source("sample", "sample", fell_back=True).label == "sample"


# the network


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_variables_are_respected(hub, monkeypatch, variable):
    asked = hub(True)
    for value in ("1", "true", "yes"):
        monkeypatch.setenv(variable, value)
        assert not sources.hub_is_reachable()
    assert asked == []
    for value in ("0", ""):
        monkeypatch.setenv(variable, value)
        assert sources.hub_is_reachable()


def test_the_hub_may_be_a_mirror(hub, monkeypatch):
    asked = hub(True)
    assert sources.hub_is_reachable()
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert sources.hub_is_reachable()
    assert asked == ["https://huggingface.co", "https://mirror.example"]


def test_the_hub_is_out_of_reach_after_the_timeout_even_if_the_name_lookup_hangs(monkeypatch):
    finished = threading.Event()

    def hang(*args, **kwargs):
        finished.wait(20)
        raise OSError("no answer")

    monkeypatch.setattr(connectivity.socket, "getaddrinfo", hang)
    monkeypatch.setattr(connectivity, "getproxies", dict)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    start = time.perf_counter()
    assert not sources.hub_is_reachable(timeout=0.2)
    assert 0.2 <= time.perf_counter() - start < 5
    finished.set()


def test_reachable_means_that_a_server_listens(monkeypatch):
    monkeypatch.setattr(connectivity, "getproxies", dict)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        assert connectivity.reachable(f"http://127.0.0.1:{port}/path")
    assert not connectivity.reachable(f"http://127.0.0.1:{port}/path")


def test_reachable_asks_the_proxy_if_there_is_one(monkeypatch):
    addresses = []

    def refuse(address, timeout):
        addresses.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(connectivity.socket, "create_connection", refuse)
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for proxy in (None, "http://proxy.example:3128", "proxy.example:8080"):
        if proxy:
            monkeypatch.setenv("https_proxy", proxy)
        assert not connectivity.reachable("https://huggingface.co")
    monkeypatch.setenv("no_proxy", "huggingface.co")
    assert not connectivity.reachable("https://huggingface.co")
    direct = ("huggingface.co", 443)
    assert addresses == [direct, ("proxy.example", 3128), ("proxy.example", 8080), direct]


def test_a_named_source_never_falls_back(hub):
    hub(False)
    with pytest.raises(UserError) as caught:
        load_splits(resolve_source("someone/images", HUB_ID))
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("data source someone/images: no such folder, and the hub cannot be reached; ")
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


def test_a_folder_of_tables_is_read(tmp_path):
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
        assert str(caught.value).removeprefix("data source ").startswith(str(folder))
        assert "\n" not in str(caught.value)
