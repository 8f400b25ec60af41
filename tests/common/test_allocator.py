"""Allocator settings: what glibc's mallopt is called with, and where it is left alone."""

from __future__ import annotations

import ctypes

import pytest

from common.nn import allocator


@pytest.fixture
def mallopt_calls(monkeypatch):
    """Arguments of the calls of `mallopt`."""
    calls: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name):
            self.mallopt = lambda option, value: calls.append((option, value)) or 1

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    return calls


def test_glibc_keeps_freed_memory(mallopt_calls):
    assert allocator.keep_freed_memory()
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    assert dict(mallopt_calls) == {m_mmap_max: 0, m_trim_threshold: 2**31 - 1, m_top_pad: 2**28}


def test_an_environment_variable_takes_precedence(mallopt_calls, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not allocator.keep_freed_memory()
    assert mallopt_calls == []


def test_other_systems_are_left_alone(mallopt_calls, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError("no libc.so.6")))
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
    assert mallopt_calls == []
