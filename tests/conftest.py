"""Shared by all tests."""

import os

# before torch is imported: each core runs one test process, and more threads would only wait for each other
os.environ["OMP_NUM_THREADS"] = "1"

import pytest


@pytest.fixture
def drawn(monkeypatch):
    """Matplotlib figures that were saved; rendering them takes longer than all else, so they are not written."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    return figures


@pytest.fixture
def figures(monkeypatch):
    """Matplotlib figures that were saved; they are written too."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    save = Figure.savefig

    def save_and_keep(figure, path):
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(Figure, "savefig", save_and_keep)
    return figures
