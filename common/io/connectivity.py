"""Whether a server can be reached: an answer within seconds, whatever the network does."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def reachable(url: str, timeout: float = 3.0) -> bool:
    """Whether the server of `url`, or the proxy that leads to it, takes a connection within `timeout` seconds.

    No socket's timeout limits the look-up of a name, which without a network can take half a minute. So a thread does
    both, and is left behind if it takes too long.
    """
    server = urlsplit(url)
    proxy = getproxies().get(server.scheme)
    if proxy and not proxy_bypass(server.hostname or ""):
        server = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    address = server.hostname or "", server.port or (443 if server.scheme == "https" else 80)
    taken = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection(address, timeout=timeout).close()
            taken.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout)
    return taken.is_set()
