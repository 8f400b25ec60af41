"""Parallel inference: each core takes the next item when it is free, and computes with one thread."""

from __future__ import annotations

import threading

import pytest
import torch

from common.nn.parallel import parallel_map

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_each_thread_computes_alone_and_takes_the_next_item_when_it_is_free():
    done, rest_done = [], threading.Event()

    def work(items):
        for item in items:
            assert torch.get_num_threads() == 1
            if item == 1:  # takes as long as all others together
                assert rest_done.wait(60)
            done.append((item, threading.get_ident()))
            if item == 5:
                rest_done.set()

    parallel_map(work, [1, 2, 3, 4, 5], CPU)
    items, workers = zip(*done, strict=True)
    assert items == (2, 3, 4, 5, 1)
    assert len(set(workers[:4])) == 1 and len({*workers, threading.get_ident()}) == 3
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_single_item_and_a_gpu_need_no_threads():
    calls = []
    for items, kind in ([[1], "cpu"], [[], "cpu"], [[1, 2], "cuda"]):
        parallel_map(lambda items: calls.append((items, threading.get_ident())), items, torch.device(kind))
    assert calls == [(items, threading.get_ident()) for items in ([1], [], [1, 2])]


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_a_thread_is_raised():
    def work(items):
        for item in items:
            1 / (item - 2)

    with pytest.raises(ZeroDivisionError):
        parallel_map(work, [1, 2, 3], CPU)
    assert torch.get_num_threads() == 2
