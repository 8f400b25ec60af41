"""W&B's server is asked before anything depends on it: well, rejecting the key, or sick, within a deadline."""

from __future__ import annotations

import re
import time

import pytest

from common.errors import UserError
from common.io import wandb_server as module
from common.io.wandb_server import offline_reason


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Servers that were asked; all are well."""
    servers: list[str] = []
    monkeypatch.setattr(module, "server_trouble", lambda server, key, timeout: servers.append(server) or "")
    return servers


def test_without_a_key_it_is_offline(asked):
    assert offline_reason().startswith("no API key")
    assert asked == []


@pytest.mark.parametrize("server", ["https://wandb.example", "https://wandb.example:8080"])
def test_with_a_key_and_a_server_it_is_online(asked, monkeypatch, tmp_path, server):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert offline_reason() == ""
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text(f"machine {server.removeprefix('https://')}\n  login user\n  password secret\n")
    assert offline_reason().startswith("no API key"), "that key is another server's"
    monkeypatch.setenv("WANDB_BASE_URL", f"{server}/")
    assert offline_reason() == ""
    assert asked == ["https://api.wandb.ai", server]


def test_wandb_mode_overrides_key_and_server(asked, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    for mode in ("offline", "dryrun"):
        monkeypatch.setenv("WANDB_MODE", mode)
        assert offline_reason() == f"WANDB_MODE is {mode}"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert offline_reason() == "", "there is nothing to upload later"
    assert asked == []


SICK = {
    "hang": "has not answered within 0.3 seconds",
    "drip": "has not answered within 0.3 seconds",
    "reset": r"cannot be reached \(.*reset by peer\)",
    "500": "answers 500 Internal Server Error",
    "503": "answers 503 Service Unavailable",
    "429": "answers 429 Too Many Requests",
    "html": "does not answer as a W&B server does",
    "json": "does not answer as a W&B server does",
    "list": "does not answer as a W&B server does",
    "binary": "does not answer as a W&B server does",
}


@pytest.mark.parametrize("mode", SICK)
def test_sick_server_is_a_reason_within_the_deadline(wandb_server, mode):
    server = wandb_server(mode)
    began = time.perf_counter()
    reason = offline_reason(timeout=0.3)
    assert re.fullmatch(f"{re.escape(server.url)} {SICK[mode]}", reason)
    assert time.perf_counter() - began < 1 and len(server.requests) == 1


def test_healthy_server_is_online(wandb_server):
    server = wandb_server()
    assert offline_reason() == "" and server.keys == {"x" * 40}


@pytest.mark.parametrize("mode", ["401", "403", "nobody"])
def test_rejected_key_is_one_line(wandb_server, mode):
    server = wandb_server(mode)
    with pytest.raises(
        UserError, match=re.escape(f"--wandb: {server.url} rejects the API key; set WANDB_API_KEY")
    ) as caught:
        offline_reason()
    assert "WANDB_MODE=offline" in str(caught.value) and "\n" not in str(caught.value)


def test_server_without_the_protocol_is_a_reason(wandb_server):
    wandb_server(scheme="https")
    assert re.search(r"cannot be reached \(.*SSL", offline_reason())


@pytest.mark.parametrize("server", ["https://nowhere.invalid", "http://127.0.0.1:9"])  # RFC 2606: never a host
def test_unreachable_server_costs_at_most_seconds(monkeypatch, server):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", server)
    began = time.perf_counter()
    assert offline_reason().startswith(f"{server} ")
    assert time.perf_counter() - began < 5


def test_server_that_is_no_url_is_one_line(monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "wandb.example")
    with pytest.raises(UserError, match=r"WANDB_BASE_URL 'wandb.example': use a URL, such as https://api.wandb.ai"):
        offline_reason()
