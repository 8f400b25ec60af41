"""Server of the pages: one address, and headers by which a browser asks no other host for anything."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from common.demo.style import STYLE, new_theme
from common.errors import UserError, one_line

if TYPE_CHECKING:
    import gradio as gr
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Gradio's own scripts are inline in part, and compile the templates of components
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
HEADERS = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
FILES_VARIABLE = "GRADIO_TEMP_DIR"  # of the environment, where Gradio looks for it
MAX_UPLOAD = "20mb"
START_SECONDS = 30.0


def listen(host: str, port: int | None) -> socket.socket:
    """Socket that listens on `host` and `port`; None for a free one. Raises UserError that names the flag if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port or 0), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port {port}: another program listens there; choose another, or leave it out") from error
        if error.errno == errno.EACCES:
            raise UserError(f"--port {port}: only the administrator may listen there; choose one above 1023") from error
        reason = error.strerror or one_line(error)
        raise UserError(f"--host {host}: {reason}; use an address of this machine, such as 127.0.0.1") from error


def address(listener: socket.socket) -> str:
    """URL of a listening socket; of all addresses the one by which this machine is known."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def page_files() -> Iterator[None]:
    """Context in which the files of pages, uploads among them, are in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True) as folder:
        before = os.environ.get(FILES_VARIABLE)
        os.environ[FILES_VARIABLE] = folder
        try:
            yield
        finally:
            os.environ.pop(FILES_VARIABLE)
            if before is not None:
                os.environ[FILES_VARIABLE] = before


@contextmanager
def serving(page: gr.Blocks, listener: socket.socket) -> Iterator[str]:
    """Context in which `page` is served on a listening socket, in a thread of its own; yields its URL.

    Gradio's own `launch` asks the network at its start, and a proxy for the page itself.
    """
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        theme=new_theme(),
        css=STYLE,
        footer_links=[],
        run_history=False,
        show_error=True,
        ssr_mode=False,
        max_file_size=MAX_UPLOAD,
    )
    config = uvicorn.Config(with_headers(app), log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    end = time.monotonic() + START_SECONDS
    while not server.started and thread.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    if not server.started:
        raise UserError("the page could not be served; the lines above say why")
    try:
        yield address(listener)
    finally:
        server.should_exit = True
        thread.join(timeout=5)


def with_headers(app: ASGIApp) -> ASGIApp:
    """ASGI application `app` whose responses have `HEADERS`; they are passed on as they come, so that streams flow."""

    async def with_them(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_them(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: list[Any] = [*message.get("headers", []), *HEADERS]
                message = {**message, "headers": headers}
            await send(message)

        await app(scope, receive, send_with_them)

    return with_them
