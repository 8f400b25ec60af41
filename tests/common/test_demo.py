"""Demo pages: tables show text literally, addresses and a missing extra are one line, errors become messages, and the
server names no other host and asks none."""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.demo.command import has_display, run_demo
from common.demo.html import attributed_words, bar, probability_table, table
from common.demo.page import UNEXPECTED, Page, build, connect, data_description, with_messages
from common.demo.server import FILES_VARIABLE, POLICY, address, listen, page_files, serving
from common.errors import UserError


def test_cells_are_shown_literally_and_the_chosen_row_is_bold():
    text = table(["<a>", "b"], [["<script>", bar(0.25)], ["x", 1]], chosen=1)
    assert "<script>" not in text and "&lt;script&gt;" in text and "<th>&lt;a&gt;</th>" in text
    assert "width:25.0%" in text and "25.0&nbsp;%" in text
    assert text.count('class="chosen"') == 1 and text.index('class="chosen"') < text.index("<td>x</td>")


def test_classes_are_ordered_by_the_last_column():
    text = probability_table(["a", "b", "c"], {"one": [0.7, 0.2, 0.1], "two": [0.1, 0.3, 0.6]}, top=2)
    assert text.index("<td>c</td>") < text.index("<td>b</td>") and "<td>a</td>" not in text
    assert text.index("10.0&nbsp;%") < text.index("60.0&nbsp;%") < text.index("20.0&nbsp;%") < text.index("30.0&nbsp;%")


def test_words_have_the_colors_of_their_attributions():
    text = attributed_words(["good", "<b>", "bad"], [2.0, 0.0, -1.0])
    good, plain, bad = text.split("<span")[1:]
    assert "#0072b2 100%" in good and "+2.00" in good and "dashed" not in good
    assert "0%" in plain and "&lt;b&gt;" in plain
    assert "#d55e00 50%" in bad and "-1.00" in bad and "dashed" in bad
    assert "<span" not in attributed_words([], [])


def test_a_free_port_is_found_and_a_taken_one_is_named():
    with closing(listen("127.0.0.1", None)) as listener:
        port = listener.getsockname()[1]
        assert address(listener) == f"http://127.0.0.1:{port}"
        with pytest.raises(UserError, match=rf"^--port {port}: another program listens there; choose another, or leave"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_named(host):
    with pytest.raises(UserError, match=rf"^--host {host}: .*; use an address of this machine, such as 127.0.0.1$"):
        listen(host, None)


def test_the_address_for_all_hosts_is_one_that_they_can_open():
    listener = SimpleNamespace(getsockname=lambda: ("0.0.0.0", 80))
    assert address(listener) == f"http://{socket.gethostname()}:80"
    assert address(SimpleNamespace(getsockname=lambda: ("::1", 80, 0, 0))) == "http://[::1]:80"


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    loaded = []
    assert run_demo("toy", lambda: loaded.append(1), ["--checkpoint", "x.ckpt"]) == 2
    expected = 'error: the page needs Gradio: run `pip install "lightning-capstones[demo]"`\n'
    assert capsys.readouterr().err == expected and not loaded


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--port 0", "error: argument --port: 0: use a whole number from 1 to 65535 (see --help)\n"),
        ("--accelerator tpu", "error: argument --accelerator: invalid choice: 'tpu'"),
    ],
)
def test_bad_flags_are_one_line(capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        run_demo("toy", lambda: None, ["--checkpoint", "x.ckpt", *flags.split()])
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1


def test_help_says_that_the_page_is_for_this_machine_alone(capsys):
    with pytest.raises(SystemExit, match="0"):
        run_demo("toy", lambda: None, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "without a password (default: 127.0.0.1)" in text and "--checkpoint PATH" in text


@pytest.mark.parametrize("variable, expected", [(None, False), ("DISPLAY", True), ("WAYLAND_DISPLAY", True)])
def test_no_browser_takes_over_a_terminal_without_a_display(monkeypatch, variable, expected):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, ":0")
    assert has_display() is expected


@pytest.mark.parametrize(
    "source, expected", [("sample", "sample (EMBEDDED SAMPLE, not the real data set)"), ("CartPole-v1", "CartPole-v1")]
)
def test_the_data_are_those_of_the_checkpoint(tmp_path, source, expected):
    torch.save({"data": {"source": source}, "state_dict": {"a": torch.ones(3)}}, tmp_path / "x.ckpt")
    assert data_description(tmp_path / "x.ckpt") == expected
    torch.save({"data": {}}, tmp_path / "y.ckpt")
    with pytest.raises(UserError, match=r"y\.ckpt"):
        data_description(tmp_path / "y.ckpt")


def fails(error: BaseException):
    """A function and a generator that raise `error`, the generator after a value."""

    def call():
        raise error

    def generate():
        yield 1
        raise error

    return call, lambda: list(with_messages(generate)())


@pytest.mark.parametrize("as_generator", [False, True])
def test_errors_become_messages(capsys, as_generator):
    gr = pytest.importorskip("gradio")

    def start(error: BaseException):
        call, generate = fails(error)
        return generate if as_generator else with_messages(call)

    with pytest.raises(gr.Error) as raised:
        start(UserError("a <b> is no number"))()
    assert raised.value.message == "a &lt;b&gt; is no number" and capsys.readouterr().err == ""
    with pytest.raises(gr.Error) as raised:
        start(ZeroDivisionError("secret"))()
    assert raised.value.message == UNEXPECTED and "ZeroDivisionError: secret" in capsys.readouterr().err


def test_a_function_keeps_its_value_and_its_arguments():
    pytest.importorskip("gradio")
    assert with_messages(lambda a, b: a - b)(3, 1) == 2

    def count(n):
        yield from range(n)

    assert list(with_messages(count)(3)) == [0, 1, 2]


@contextmanager
def no_network(monkeypatch):
    """Context in which no name is resolved but this machine's, and nothing is connected to but it."""
    asked: list[object] = []
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def connect_here(self, target):
        if self.family != socket.AF_UNIX and target[0] != "127.0.0.1":
            asked.append(target)
            raise OSError("no network")
        return connect(self, target)

    def resolve_here(host, *args, **kwargs):
        if host not in ("127.0.0.1", b"127.0.0.1", "localhost", None):
            asked.append(host)
            raise OSError("no network")
        return resolve(host, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        patch.setattr(socket, "getaddrinfo", resolve_here)
        yield asked


def toy_layout(model, page):
    import gradio as gr

    box = gr.Textbox("1", label="number")
    connect([box.submit, page.load], lambda text: str(2 * int(text)), box, gr.HTML())


def test_a_page_is_served_by_this_machine_alone(tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    torch.save({"data": {"source": "<i>mine</i>"}}, tmp_path / "x.ckpt")
    page = Page("A <title>", "Look & see.", lambda path, device: None, toy_layout)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
    monkeypatch.delenv(FILES_VARIABLE, raising=False)
    with no_network(monkeypatch) as asked, closing(listen("127.0.0.1", None)) as listener, page_files():
        folder = Path(os.environ[FILES_VARIABLE])
        blocks = build([(page, tmp_path / "x.ckpt")], torch.device("cpu"))
        with serving(blocks, listener) as url:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(url, timeout=10) as response:
                text = response.read().decode()
                assert response.headers["content-security-policy"] == POLICY
            with opener.open(f"{url}/theme.css", timeout=10) as response:
                theme = response.read().decode()
    assert asked == []
    assert "fonts.googleapis" not in text + theme and "http" not in theme.replace("http://www.w3.org", "")
    shown = " ".join(str(component["props"].get("value")) for component in blocks.config["components"])
    assert "A &lt;title&gt;" in shown and "Look &amp; see." in shown and "data &lt;i&gt;mine&lt;/i&gt;" in shown
    assert not folder.exists() and FILES_VARIABLE not in os.environ, "nothing is left behind"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=1)


def test_the_policy_names_no_other_host():
    assert "http" not in POLICY and "*" not in POLICY and POLICY.startswith("default-src 'self'; ")
