"""Page of a run's plots: it has all of them, the test table and the command, and asks no other host."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from PIL import Image

from common.plots.index import write_index


class Page(HTMLParser):
    """What a page shows: its plots, its links, its table and its command."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.plots, self.links, self.cells, self.commands = text, [], [], [], []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.open.append(tag)
        self.plots += [unquote(values["src"])] if tag == "img" else []
        self.links += [unquote(values["href"])] if tag == "a" else []

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open and self.open[-1] in ("th", "td"):
            self.cells.append(data)
        if self.open and self.open[-1] == "pre":
            self.commands.append(data)

    @property
    def table(self) -> dict[str, str]:
        return dict(zip(self.cells[::2], self.cells[1::2], strict=True))


def test_a_run_leaves_a_page_with_its_plots_its_test_and_its_command(full_run):
    folder = full_run.run("full")
    summary, page = json.loads((folder / "summary.json").read_text()), Page((folder / "plots/index.html").read_text())
    assert page.plots == ["curves.png", "points.png"], "curves first"
    assert all((folder / "plots" / name).is_file() for name in page.plots + page.links)
    assert page.commands == [summary["command"]]
    assert (
        summary["test"] and {name: f"{value:.4f}" for name, value in summary["test"].items()}.items() <= page.table.items()
    )
    assert page.table["data"] == "sample (EMBEDDED SAMPLE, not the real data set)"
    assert page.table["val/accuracy"] == f"{summary['best_validation']['val/accuracy']:.4f}"
    assert "://" not in page.text and "<script" not in page.text


def test_a_resumed_run_writes_the_page_anew(copied, train):
    done = train("--name", "full", "--resume", "auto", "--max_epochs", "3", "--wandb", "false")
    assert done.code == 0, done.err
    page = Page((copied / "plots/index.html").read_text())
    summary = json.loads((copied / "summary.json").read_text())
    assert page.table["epochs"] == "3" and page.commands == [summary["command"]] and "--resume auto" in page.commands[0]


@pytest.mark.parametrize("name", ["<b>&amp; 猫", "a b#?%41"])
def test_names_are_shown_as_they_are(name, full_run, tmp_path):
    summary = json.loads((full_run.run("full") / "summary.json").read_text())
    summary |= {"name": name, "command": f"train --name '{name}'", "test": {f"test/{name}": 0.5}}
    Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.gif")
    (tmp_path / f"{name}.md").write_text("text")
    page = Page(write_index(tmp_path, summary, name).read_text())
    assert page.plots == [f"{name}.gif"] and page.links == [f"{name}.md", f"{name}.gif"]
    assert page.commands == [summary["command"]] and page.table["data"] == name and page.table[f"test/{name}"] == "0.5000"
