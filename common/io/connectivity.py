"""Whether a server can be reached: an answer within seconds, whatever the network does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

T = TypeVar("T")


def within(seconds: float | None, function: Callable[[], T]) -> T:
    """Result of `function`, called in a thread that is left behind if it takes longer than `seconds`.

    No socket's timeout limits the look-up of a name, which without a network can take half a minute, or a whole answer.

    Raises:
        TimeoutError: It takes longer. What `function` raises is raised here.
    """
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future.result(seconds)


def reachable(url: str, timeout: float = 3.0) -> bool:
    """Whether the server of `url`, or the proxy that leads to it, takes a connection within `timeout` seconds."""
    server = urlsplit(url)
    proxy = getproxies().get(server.scheme)
    if proxy and not proxy_bypass(server.hostname or ""):
        server = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    address = server.hostname or "", server.port or (443 if server.scheme == "https" else 80)
    with contextlib.suppress(OSError):
        within(timeout, lambda: socket.create_connection(address, timeout=timeout).close())
        return True
    return False
