"""A server that W&B's client takes for its own, on this machine: healthy, or sick in one of the ways that servers are."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
from base64 import b64decode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "x" * 40
PROJECT = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
BUCKET = {"id": "b", "displayName": "", "description": "", "config": None, "sweepName": None, "project": PROJECT}


class WandbServer(ThreadingHTTPServer):
    """Server that answers in its `mode`, one of `MODES`, after `healthy` good answers.

    Args:
        mode: How it answers.
        healthy: Number of requests that it answers well before, or the GraphQL operation that is the last of them.
    """

    daemon_threads = True

    def __init__(self, mode: str = "healthy", healthy: int | str = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mode, self.healthy = mode, healthy
        self.is_sick = False
        self.requests: list[str] = []  # GraphQL operations and other paths, as they came
        self.keys: set[str] = set()
        self.history: list[dict[str, Any]] = []  # rows that were uploaded
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of the server."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request; every connection is closed after it, so that a new mode holds from the next on."""

    server: WandbServer

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = json.loads(body) if self.path.endswith(("/graphql", "/file_stream")) else {}
        self.server.requests.append(request.get("operationName") or self.path)
        if self.path == "/graphql":
            self.server.keys.add(
                b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode().removeprefix("api:")
            )
        before, healthy = self.server.requests[:-1], self.server.healthy
        sick = len(before) >= healthy if isinstance(healthy, int) else healthy in before
        self.server.is_sick = sick and self.server.mode != "healthy"
        MODES[self.server.mode if sick else "healthy"](self, request)

    do_GET = do_POST = do_PUT = answer

    def send(self, body: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


def healthy(handler: Handler, request: dict[str, Any]) -> None:
    """What W&B's own server answers, as far as its client asks here."""
    query, variables = request.get("query", ""), request.get("variables", {})
    rows = request.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
    handler.server.history += map(json.loads, rows)
    data: dict[str, Any] = {}
    if "viewer" in query:
        data = {"viewer": {"id": "u", "entity": "e", "username": "u", "flags": "{}", "teams": {"edges": []}, "email": ""}}
    elif "upsertBucket" in query:
        bucket = BUCKET | {"name": variables["name"], "historyLineCount": 0}
        data = {"upsertBucket": {"bucket": bucket, "inserted": True}}
    elif "createRunFiles" in query:
        files = [{"name": name, "uploadUrl": f"{handler.server.url}/upload/{name}"} for name in variables["files"]]
        data = {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
    elif "model(" in query:
        data = {"model": None}
    handler.send(json.dumps({"data": data} if query else {}).encode())


def hang(handler: Handler, request: dict[str, Any]) -> None:
    """Never answers."""
    handler.server.closing.wait()


def drip(handler: Handler, request: dict[str, Any]) -> None:
    """Ten bytes per second, without an end."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    while not handler.server.closing.wait(0.1):
        handler.wfile.write(b" ")


def reset(handler: Handler, request: dict[str, Any]) -> None:
    """Resets the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def status(code: int, text: str = "{}", **headers: str) -> Callable[[Handler, dict[str, Any]], None]:
    """Answers with a status."""
    return lambda handler, request: handler.send(text.encode(), code, "application/json", **headers)


MODES: dict[str, Callable[[Handler, dict[str, Any]], None]] = {
    "healthy": healthy,
    "hang": hang,
    "drip": drip,
    "reset": reset,
    "500": status(500),
    "503": status(503),
    "429": status(429, Retry_After="3600"),
    "401": status(401, '{"errors": [{"message": "user is not logged in"}]}'),
    "403": status(403),
    "404": status(404),
    "html": lambda handler, request: handler.send(b"<html>Welcome to the hotel</html>", kind="text/html"),
    "json": status(200, '{"data": {}}'),
    "list": status(200, "[]"),
    "binary": lambda handler, request: handler.send(bytes(range(256))),
    "nobody": status(200, '{"data": {"viewer": null}}'),
}
