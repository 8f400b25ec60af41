"""Pages in headless Chromium: used as a visitor would, compared with `load`, alone and by two at once, and asking no other
host for anything. Skipped without Gradio, Selenium or Chromium."""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.browser import find_browser, open_browser, requested_hosts
from commands import environment, start_fresh
from common.data.image_decoding import read_image
from common.demo.page import build
from common.demo.server import listen, page_files, serving
from projects.demo.runs import FLAGS
from projects.seq2seq.config import GenerationConfig

pytestmark = pytest.mark.slow
CPU = "--config ../plain.yaml --accelerator cpu --precision 32-true --max_epochs 1 --trainer.limit_val_batches 1"
CPU += " --trainer.limit_test_batches 1 --trainer.limit_train_batches 4 --name demo"
SMALL = {
    "cifar10": "--data.source sample --model.speednet.block_channels [8,8,8] --data.batch_size 8",
    "seq2seq": "--data.source sample --model.recurrent.hidden_dim 32 --model.decoding.max_length 12",
    "bert_sentiment": "--data.source sample --model.checkpoint tiny --model.encoder.model_type bert"
    " --model.encoder.hidden_size 16 --model.encoder.num_hidden_layers 1 --model.encoder.num_attention_heads 2",
    "gan": "--data.source ring8 --model.mlp.hidden_dim 8",
    "policy_gradient": "--data.eval_episodes 2 --data.test_episodes 2",
}
SECONDS = 30.0  # to wait for an answer


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Best checkpoint of a small run of each capstone, `runs/PROJECT/demo`."""
    pytest.importorskip("gradio")
    pytest.importorskip("selenium")
    if find_browser() is None:
        pytest.skip("Chromium and its driver are not installed")
    root = tmp_path_factory.mktemp("demo")
    (root / "plain.yaml").write_text("seed: 0\n")
    (root / "cwd").mkdir()
    with contextlib.chdir(root / "cwd"):
        for name in FLAGS:
            train = importlib.import_module(f"projects.{name}.train")
            assert train.main(train.PROJECT, [*CPU.split(), *SMALL[name].split()]) == 0
    return {name: next((root / "cwd" / "runs" / name).glob("demo/checkpoints/best-*.ckpt")) for name in FLAGS}


@pytest.fixture(scope="module")
def urls(checkpoints) -> Iterator[dict[str, str]]:
    """Address of the page of each capstone."""
    with ExitStack() as stack:
        stack.enter_context(page_files())
        found = {}
        for name, path in checkpoints.items():
            page = importlib.import_module(f"projects.{name}.page").PAGE
            listener = stack.enter_context(closing(listen("127.0.0.1", None)))
            found[name] = stack.enter_context(serving(build([(page, path)], torch.device("cpu")), listener))
        yield found


class Visitor:
    """A browser of its own that has opened a page, and waits for what is on it."""

    def __init__(self, url: str, **size: int) -> None:
        self.stack = ExitStack()
        self.browser: Any = self.stack.enter_context(open_browser(url, **size))
        self.host = url.removeprefix("http://")
        self.wait(lambda: self.js("return document.querySelectorAll('.about .checkpoint').length"))

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                assert requested_hosts(self.browser) == {self.host}, "no other host"
                severe = [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
                assert not severe, severe
        finally:
            self.stack.close()

    def js(self, code: str, *args: Any) -> Any:
        return self.browser.execute_script(code, *args)

    def wait(self, ready: Callable[[], Any]) -> Any:
        """What `ready` returns, once it is true."""
        end = time.monotonic() + SECONDS
        while not (found := ready()):
            assert time.monotonic() < end, self.js("return document.body.innerText")
            time.sleep(0.05)
        return found

    def text(self, css: str = ".answer") -> str:
        """Text of an element; numbers have a plain space before their percent sign."""
        return self.js("return document.querySelector(arguments[0])?.innerText ?? ''", css).replace("\xa0", " ")

    def percents(self) -> list[float]:
        return [float(number) for number in re.findall(r"([\d.]+) %", self.text())]

    def type(self, text: str) -> None:
        box = self.browser.find_element("css selector", "textarea:not([disabled])")
        box.clear()
        box.send_keys(text)

    def number(self, label: str, value: object) -> None:
        """Types a number, and leaves the field."""
        inputs = "input[@type='number']"
        xpath = f"//label[contains(., '{label}')]//{inputs} | //{inputs}[contains(@aria-label, '{label}')]"
        field = self.browser.find_element("xpath", xpath)
        self.js("arguments[0].focus(); arguments[0].select()", field)
        field.send_keys(f"{value}\n\t")

    def click(self, name: str) -> None:
        self.browser.find_element("xpath", f"//button[normalize-space()='{name}']").click()

    def message(self) -> str:
        """Text of a message on the page, which is closed again."""
        text = self.wait(lambda: self.text(".toast-body") or self.text("[data-testid=toast-body]"))
        self.js("document.querySelectorAll('.toast-close').forEach(button => button.click())")
        self.wait(lambda: not self.text("[data-testid=toast-body]"))
        return text

    def plot(self, number: int = 0) -> np.ndarray:
        """Pixels of a plot, fetched as the page fetches it."""
        code = """
            const done = arguments[arguments.length - 1], image = document.querySelectorAll('.plot img')[arguments[0]];
            if (!image) { done(null); return; }
            fetch(image.src).then(answer => answer.blob()).then(blob => {
                const reader = new FileReader();
                reader.onload = () => done(reader.result.split(',')[1]);
                reader.readAsDataURL(blob);
            });"""
        data = self.browser.execute_async_script(code, number)
        return np.zeros(0) if data is None else np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def load(name: str, checkpoints: dict[str, Path]) -> Any:
    return importlib.import_module(f"projects.{name}.inference").load(checkpoints[name])


def test_an_image_is_classified_and_a_file_that_is_none_is_a_message(urls, checkpoints, tmp_path):
    pixels = torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "photo.png")
    (tmp_path / "notes.png").write_text("no image")
    pipeline = load("cifar10", checkpoints)
    image = read_image(tmp_path / "photo.png", 32)[None]
    order = pipeline(image, 2)[0].argsort(descending=True)[:5]
    expected = torch.stack([100 * pipeline(image, tta)[0][order] for tta in (0, 1, 2)], 1).flatten().tolist()
    with Visitor(urls["cifar10"]) as visitor:
        visitor.wait(visitor.percents)
        first = visitor.plot(1)
        upload = visitor.browser.find_element("css selector", "input[type=file]")
        upload.send_keys(str(tmp_path / "photo.png"))
        visitor.wait(lambda: visitor.percents() == pytest.approx(expected, abs=0.06))
        assert all(name in visitor.text() for name in (pipeline.class_names[label] for label in order.tolist()))
        visitor.wait(lambda: not np.array_equal(visitor.plot(1), first))
        visitor.js("document.querySelector('[aria-label=\"Clear\"], [title=Clear]')?.click()")
        visitor.browser.find_element("css selector", "input[type=file]").send_keys(str(tmp_path / "notes.png"))
        assert "notes.png: not an image that can be read" in visitor.message()
        visitor.browser.get_log("browser")  # the preview of a broken file is an error of the browser's own


def test_a_sentence_is_translated_as_it_is_with_load(urls, checkpoints):
    sentence, pipeline = "Paul hat drei Bücher gekauft.", load("seq2seq", checkpoints)
    greedy = pipeline([sentence], GenerationConfig(num_beams=1, max_length=1000))[0]
    beam = pipeline.hypotheses(pipeline.encode([sentence]), GenerationConfig(num_beams=5, num_return_sequences=5))[0]
    with Visitor(urls["seq2seq"]) as visitor:
        visitor.wait(visitor.text)
        visitor.js("""window.seen = []; setInterval(() => {
            const value = document.querySelector('textarea[disabled]').value;
            if (window.seen.at(-1) !== value) window.seen.push(value); }, 2);""")
        visitor.type(sentence)
        visitor.click("Translate")
        visitor.wait(lambda: f"{beam[0].log_probability:.3f}" in visitor.text())
        visitor.wait(lambda: visitor.js("return window.seen.at(-1)") == greedy)
        steps = [text for text in visitor.js("return window.seen") if greedy.startswith(text.rstrip("�"))]
        assert len(steps) > 2 and steps == sorted(steps, key=len), "it grows"
        lines = visitor.text()
        assert [lines.index(f"{each.log_probability:.3f}") for each in beam] == sorted(
            lines.index(f"{each.log_probability:.3f}") for each in beam
        )
        visitor.type(" ")
        visitor.click("Translate")
        assert "there is no sentence yet; type one" in visitor.message()


def test_a_text_is_classified_as_it_is_with_load(urls, checkpoints):
    text, classifier = "the film is anything but <b>dull</b>", load("bert_sentiment", checkpoints)
    probabilities = classifier([text])[0].sort(descending=True).values
    with Visitor(urls["bert_sentiment"]) as visitor:
        visitor.wait(visitor.percents)
        visitor.type(text)
        visitor.click("Classify")
        visitor.wait(lambda: "dull" in visitor.text(".answer .words"))
        assert visitor.percents() == pytest.approx((100 * probabilities).tolist(), abs=0.06)
        assert visitor.text(".answer .words").split() == [
            "the",
            "film",
            "is",
            "anything",
            "but",
            "<",
            "b",
            ">",
            "dull",
            "<",
            "/",
            "b",
            ">",
        ]
        visitor.type(" ")
        visitor.click("Classify")
        assert "there is no text yet; type one" in visitor.message()


def test_a_slider_walks_through_latent_space(urls, checkpoints):
    from projects.gan.page import walk

    pipeline = load("gan", checkpoints)
    with Visitor(urls["gan"]) as visitor:
        visitor.wait(lambda: np.array_equal(visitor.plot(), np.asarray(walk(pipeline, 0, 1, 0.0, 3.0))))
        visitor.number("position", 0.5)
        visitor.wait(lambda: np.array_equal(visitor.plot(), np.asarray(walk(pipeline, 0, 1, 0.5, 3.0))))
        visitor.number("first seed", -4)
        assert "a seed is a whole number from 0 to 4294967295" in visitor.message()


def test_an_agent_plays_and_stops(urls, checkpoints, monkeypatch):
    from projects.policy_gradient import page

    agent = load("policy_gradient", checkpoints)
    stats = agent.evaluate([3])
    end = f"return {int(stats.returns[0])} after {int(stats.lengths[0])} steps (end of the episode)"
    with Visitor(urls["policy_gradient"]) as visitor:
        visitor.wait(lambda: "return 0 after 0 steps" in visitor.text())
        visitor.number("seed", 3)
        visitor.click("Play")
        visitor.wait(lambda: end in visitor.text())
        monkeypatch.setattr(page, "FRAME_MILLISECONDS", 300)
        visitor.click("Play")
        visitor.wait(lambda: "return 2 after 2 steps" in visitor.text())
        visitor.click("Stop")
        time.sleep(1)
        stopped = visitor.text()
        time.sleep(1)
        assert visitor.text() == stopped and end not in stopped
        visitor.number("seed", -1)
        visitor.click("Play")
        assert "a seed is a whole number" in visitor.message()


def test_two_visitors_at_once_get_their_own_answers(urls, checkpoints, monkeypatch):
    from projects.policy_gradient import page

    classifier, agent = load("bert_sentiment", checkpoints), load("policy_gradient", checkpoints)
    texts = ["the plot is dull", "nobody could call the acting weak"]
    with Visitor(urls["bert_sentiment"]) as one, Visitor(urls["bert_sentiment"]) as two:
        for visitor, text in zip((one, two), texts, strict=True):
            visitor.wait(visitor.percents)
            visitor.type(text)
        clicks = [threading.Thread(target=visitor.click, args=["Classify"]) for visitor in (one, two)]
        [click.start() for click in clicks]
        [click.join() for click in clicks]
        for visitor, text in zip((one, two), texts, strict=True):
            expected = (100 * classifier([text])[0].sort(descending=True).values).tolist()
            visitor.wait(lambda v=visitor, t=text: v.text(".answer .words").split() == t.split())
            assert visitor.percents() == pytest.approx(expected, abs=0.06)
    monkeypatch.setattr(page, "FRAME_MILLISECONDS", 1000)
    stats = agent.evaluate([1, 2])
    with Visitor(urls["policy_gradient"]) as one, Visitor(urls["policy_gradient"]) as two:
        for visitor, seed in ((one, 1), (two, 2)):
            visitor.number("seed", seed)
            visitor.click("Play")
        two.wait(lambda: re.search(r"after [1-9]\d* steps", two.text()))
        assert "end of the episode" not in one.text(), "both play at once"
        monkeypatch.setattr(page, "FRAME_MILLISECONDS", 20)
        for visitor, length in zip((one, two), stats.lengths.tolist(), strict=True):
            visitor.wait(lambda v=visitor, n=int(length): f"after {n} steps (end of the episode)" in v.text())


def test_the_browser_refuses_to_ask_another_host(urls):
    """Whatever a later version of Gradio may name, the page's policy stops it."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other, Visitor(urls["bert_sentiment"]) as visitor:
        other.settimeout(0.5)
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        visitor.js(f"new Image().src = '{url}/a.png'")
        visitor.js(f"const s = document.createElement('script'); s.src = '{url}/a.js'; document.head.append(s)")
        visitor.js(
            f"const l = document.createElement('link'); l.rel = 'stylesheet'; l.href = '{url}'; document.head.append(l)"
        )
        refused = "const done = arguments[0]; fetch('" + url + "').then(() => done(false), () => done(true))"
        assert visitor.browser.execute_async_script(refused)
        with pytest.raises(TimeoutError):
            other.accept()
        requested_hosts(visitor.browser)  # of those, Chromium logs the attempts
        visitor.js("return fetch('/theme.css')")
        visitor.browser.get_log("browser")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", FLAGS)
def test_nothing_is_wider_than_the_page(urls, name, width):
    with Visitor(urls[name], width=width) as visitor:
        visitor.wait(lambda: visitor.text() or visitor.plot().size)
        assert visitor.js("return document.documentElement.scrollWidth") <= width
        body = visitor.js("return document.body.innerText")
        assert not any(word in body for word in ("Use via API", "Built with Gradio", "Settings", "Flag"))


# on the page of each capstone, as soon as it has answered
ON_PAGE = ["TTA: six views", "log p", "Integrated gradients", "position between the two seeds", "return 0 after 0 steps"]


def test_all_capstones_are_tabs_of_one_page_until_ctrl_c(checkpoints, tmp_path):
    cwd, log = checkpoints["gan"].parents[4], tmp_path / "log.txt"
    process = start_fresh("projects.demo", ["--no_browser", "--accelerator", "cpu"], cwd, environment(tmp_path), log)
    try:
        end = time.monotonic() + 120
        while not (found := re.search(r"(http://127\.0\.0\.1:\d+) is open; Ctrl-C ends it", log.read_text())):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        with Visitor(found[1]) as visitor:
            for tab, (name, words) in enumerate(zip(FLAGS, ON_PAGE, strict=True)):
                visitor.js("document.querySelectorAll('button[role=tab]')[arguments[0]].click()", tab)
                visible = """return [...document.querySelectorAll('[role=tabpanel]')]
                    .filter(panel => panel.offsetHeight > 0).map(panel => panel.innerText).join('')"""
                text = visitor.wait(lambda code=visible, w=words: w in (shown := visitor.js(code)) and shown)
                assert re.findall(r"runs/(\w+)/demo/checkpoints", text) == [name], "and no other's"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130 and log.read_text().splitlines()[-1] == "interrupted", log.read_text()
        assert log.read_text().count("\n") <= 2, "nothing was trained, and no traceback"
    finally:
        process.kill()
