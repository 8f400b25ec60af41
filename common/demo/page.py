"""Pages: what a capstone's page consists of, how its events are connected, and what a visitor sees of errors."""

from __future__ import annotations

import functools
import html
import inspect
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from common.demo.server import FILES_VARIABLE
from common.errors import UserError
from common.io.artifacts import local_checkpoint
from common.io.checkpoints import content_errors

if TYPE_CHECKING:
    import gradio as gr

MAX_STREAMS = 8  # of one kind at once; further visitors wait
UNEXPECTED = "Something went wrong. The terminal in which the page was started has the details."


@dataclass(frozen=True)
class Page:
    """Page of a capstone.

    Args:
        title: Title, which names the task.
        hint: Sentence about what to look at.
        load: `load` of the capstone's `inference`.
        layout: Lays out the components for what `load` has returned, in the Blocks that it is called with.
    """

    title: str
    hint: str
    load: Callable[..., Any]
    layout: Callable[[Any, gr.Blocks], None]


def build(pages: Sequence[tuple[Page, Path]], device: torch.device) -> gr.Blocks:
    """Blocks of one page, or of several in tabs, each with its checkpoint. Raises UserError if one cannot be loaded."""
    import gradio as gr

    with gr.Blocks(title="Lightning Capstones", analytics_enabled=False) as blocks:
        for page, checkpoint in pages:
            with gr.Tab(page.title) if len(pages) > 1 else gr.Column():
                if len(pages) == 1:
                    gr.HTML(f"<h2>{html.escape(page.title)}</h2>", elem_classes="about")
                lay_out(page, checkpoint, device, blocks)
    return blocks.queue()


def lay_out(page: Page, checkpoint: Path, device: torch.device, blocks: gr.Blocks) -> None:
    """Lays out one page: hint, checkpoint and data, then its own components."""
    import gradio as gr

    path = local_checkpoint(checkpoint)
    model = page.load(path, device)
    about = f"checkpoint {path}, data {data_description(path)}"
    text = f'<p>{html.escape(page.hint)}</p><p class="checkpoint">{html.escape(about)}</p>'
    gr.HTML(text, elem_classes="about")
    page.layout(model, blocks)


def data_description(path: Path) -> str:
    """Name of the data that a valid checkpoint was trained on, which says if it is the sample."""
    saved = torch.load(path, weights_only=True, mmap=True)  # mapped: the weights are not read a second time
    with content_errors(path, saved):
        source = str(saved["data"]["source"])
    return "sample (EMBEDDED SAMPLE, not the real data set)" if source == "sample" else source


def connect(
    triggers: Sequence[Any],
    function: Callable[..., Any],
    inputs: Any,
    outputs: Any,
    examples: Any = None,
    stream: bool = False,
    trigger_mode: str = "always_last",
) -> Any:
    """Event: `function` of the values of `inputs` gives those of `outputs`, or with `stream` yields them one after another.

    All that computes with a model or draws is done one after another: hooks and figures are not made for several threads.
    Streams of several visitors run side by side. Values belong to the visitor, as no function keeps any.

    Args:
        triggers: Events of components, such as `button.click`.
        function: What is called; its errors become messages.
        inputs: Components whose values it gets.
        outputs: Components whose values it gives.
        examples: `gr.Examples`; the event also follows a click on one.
        stream: Whether `function` is a generator.
        trigger_mode: What an event does while the one before is not done: the last one follows it, or is lost (`once`).
    """
    import gradio as gr

    options: dict[str, Any] = {
        "fn": with_messages(function),
        "inputs": inputs,
        "outputs": outputs,
        "concurrency_limit": MAX_STREAMS if stream else 1,
        "concurrency_id": None if stream else "compute",
        "trigger_mode": trigger_mode,
        "show_progress": "hidden",
        "api_visibility": "private",
    }
    if examples is not None:
        examples.load_input_event.then(**options)
    return gr.on(triggers, **options)


def with_messages(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, or generator, whose errors are messages on the page; what is not the visitor's is in the terminal too."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generate(*args: Any) -> Iterator[Any]:
            with messages():
                yield from function(*args)

        return generate

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        with messages():
            return function(*args)

    return call


@contextmanager
def messages() -> Iterator[None]:
    """Context in which exceptions become messages on the page."""
    import gradio as gr

    try:
        yield
    except UserError as error:
        raise gr.Error(html.escape(str(error)), title="Not possible", print_exception=False) from error
    except Exception as error:
        traceback.print_exc()
        raise gr.Error(UNEXPECTED, print_exception=False) from error


def drawn(draw: Callable[[Path], Path]) -> Image.Image:
    """Image that `draw` writes to the path that it is called with."""
    with TemporaryDirectory() as folder, Image.open(draw(Path(folder, "plot.png"))) as image:
        return image.convert("RGB")


def files_folder() -> Path:
    """Folder of the pages' files, which goes with the command."""
    return Path(os.environ[FILES_VARIABLE])


def plot_component() -> gr.Image:
    """Component that shows a plot."""
    import gradio as gr

    return gr.Image(show_label=False, interactive=False, buttons=["fullscreen"], format="png", elem_classes="plot")
