"""W&B's server: asked before a run or a comparison depends on it, whether it answers and takes the key. Needs no torch."""

from __future__ import annotations

import contextlib
import json
import netrc
import os
import ssl
import sys
from base64 import b64encode
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from common.errors import UserError, one_line
from common.io.connectivity import within

WANDB_SERVER = "https://api.wandb.ai"
PROBE_SECONDS = 3.0  # for the server's answer
API_SECONDS = 20  # for each answer of the public API


def offline_reason(timeout: float = PROBE_SECONDS) -> str:
    """Reason why W&B has to stay offline; empty if it can be online, or if WANDB_MODE disables it altogether.

    Raises:
        UserError: The server rejects the key, or WANDB_BASE_URL is not a URL.
    """
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "dryrun"):
        return f"WANDB_MODE is {mode}"
    if mode == "disabled":
        return ""
    server = (os.environ.get("WANDB_BASE_URL") or WANDB_SERVER).rstrip("/")
    if not server.startswith(("http://", "https://")):
        raise UserError(f"WANDB_BASE_URL {server!a}: use a URL, such as {WANDB_SERVER}")
    key = api_key(server)
    return server_trouble(server, key, timeout) if key else "no API key (set WANDB_API_KEY or run `wandb login`)"


def api_key(server: str) -> str | None:
    """API key for `server` in the environment or the netrc file."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    try:
        entry = netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(server).netloc)
    except (OSError, netrc.NetrcParseError):
        return None
    return entry and entry[2]


def server_trouble(server: str, key: str, timeout: float) -> str:
    """What is wrong with `server`, empty if nothing: it is asked whose the key is, and has `timeout` seconds to answer.

    Raises:
        UserError: It rejects the key.
    """
    rejected = UserError(
        f"--wandb: {server} rejects the API key; set WANDB_API_KEY or run `wandb login --relogin`, "
        "or set WANDB_MODE=offline to log without a server"
    )
    try:
        answer = within(timeout, lambda: ask_viewer(server, key, timeout))
    except HTTPError as error:
        if error.code in (401, 403):
            raise rejected from error
        return f"{server} answers {error.code} {error.reason}"
    except TimeoutError:
        return f"{server} has not answered within {timeout:g} seconds"
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return ""  # W&B's own client decides, which may trust other certificates than Python
        return f"{server} cannot be reached ({one_line(reason, 100) if isinstance(reason, Exception) else reason})"
    except ValueError:
        answer = None
    data = answer.get("data") if isinstance(answer, dict) else None
    viewer = data.get("viewer", "") if isinstance(data, dict) else ""
    if viewer is None:
        raise rejected
    return "" if isinstance(viewer, dict) else f"{server} does not answer as a W&B server does"


def ask_viewer(server: str, key: str, timeout: float) -> Any:
    """Answer of `server` to whose the key is, as JSON. Raises ValueError if it is none, and what `urlopen` raises."""
    headers = {
        "Authorization": f"Basic {b64encode(f'api:{key}'.encode()).decode()}",
        "Content-Type": "application/json",
        "User-Agent": "wandb-core",
    }
    query = json.dumps({"query": "query Viewer { viewer { id } }"}).encode()
    with urlopen(Request(f"{server}/graphql", query, headers), timeout=timeout) as response:
        return json.loads(response.read(100_000))


def import_wandb(what: str = "--wandb") -> Any:
    """Module `wandb`. Raises UserError, about `what` needs it, if it cannot be imported."""
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"{what}: wandb cannot be imported ({error}); reinstall it with `pip install wandb`") from error
    return wandb


def new_api(what: str) -> Any:
    """Client of W&B's public API, which never prompts for a key.

    Raises:
        UserError: There is no key or no server for `what`, or wandb cannot be imported.
    """
    wandb = import_wandb(what)
    reason = "WANDB_MODE is disabled" if os.environ.get("WANDB_MODE") == "disabled" else offline_reason()
    if reason:
        raise UserError(f"{what}: {reason}")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # which would wait for the server too
    return within(API_SECONDS, lambda: wandb.Api(timeout=2 * API_SECONDS))


def stop_wandb(seconds: float = 1.0) -> None:
    """Ends W&B's background process, and kills it if it takes longer than `seconds`; the next run starts another."""
    if "wandb" not in sys.modules:
        return
    from wandb.sdk import wandb_setup

    connection = wandb_setup.singleton()._connection  # the process has no public handle
    service = connection and connection._proc
    with contextlib.suppress(Exception, SystemExit):
        within(seconds, sys.modules["wandb"].teardown)
    if service:
        service._process.kill()
        service._process.wait()
