"""Upload to the hub, against a server that answers as the hub does: one commit with all files, or one line."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from common.export import hub
from projects.blank import export
from projects.blank.module import BlankModule
from trained import save_checkpoint


class Hub(BaseHTTPRequestHandler):
    """The hub's requests for an upload; `refused` are paths that it answers with 403."""

    requests: list[tuple[str, Any]] = []
    refused: set[str] = set()
    silent = threading.Event()

    def reply(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        lines = [json.loads(line) for line in body.splitlines()]
        self.requests.append((path, lines))
        if self.silent.is_set():
            self.silent.wait(0.1)
            threading.Event().wait(3)
        if self.headers.get("Authorization") != "Bearer right" or path in self.refused:
            self.reply({"error": "You don't have the rights"}, 401 if path == "/api/whoami-v2" else 403)
        elif path == "/api/whoami-v2":
            self.reply({"name": "me", "type": "user"})
        elif path == "/api/repos/create":
            self.reply({"url": f"http://{self.headers['Host']}/me/model", "name": "me/model", "id": "me/model"})
        elif path.endswith("/preupload/main"):
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in lines[0]["files"]]
            self.reply({"files": modes})
        elif path.endswith("/commit/main"):
            self.reply({"commitUrl": "https://huggingface.co/me/model/commit/1", "commitOid": "1", "success": True})
        else:
            self.reply({"id": "me/model", "sha": "0", "private": True, "tags": [], "siblings": []})

    do_GET = do_POST = answer

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def server(monkeypatch) -> Iterator[type[Hub]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{http.server_port}")
        monkeypatch.setenv("HF_TOKEN", "right")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        Hub.requests, Hub.refused, Hub.silent = [], set(), threading.Event()
        yield Hub
        http.shutdown()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Exports a checkpoint with `--push` and further flags, and returns the exit code."""
    monkeypatch.chdir(tmp_path)
    checkpoint = save_checkpoint(tmp_path / "best.ckpt", BlankModule(2, hidden_dim=4), "blank")
    flags = ["--checkpoint", str(checkpoint), "--to", "model", "--weights_only", "--push"]
    return lambda *words: export.main([*flags, *words])


@pytest.mark.parametrize("public", [False, True])
def test_a_push_is_one_commit_of_all_files_to_a_private_repository(server, run, tmp_path, capsys, public):
    assert run("me/model", *["--public"] * public) == 0
    requests = dict(server.requests)
    created = requests["/api/repos/create"][0]
    assert created.get("visibility", "private" if created.get("private") else "public") == (
        "public" if public else "private"
    )
    (commit,) = [lines for path, lines in server.requests if path == "/api/models/me/model/commit/main"]
    files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in commit if line["key"] == "file"}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    assert "pushed to http://127.0.0.1" in capsys.readouterr().out


@pytest.mark.parametrize("refused", ["/api/repos/create", "/api/models/me/model/commit/main"])
def test_a_refused_push_leaves_the_folder_and_says_so(server, run, tmp_path, capsys, refused):
    server.refused = {refused}
    assert run("me/model") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --push me/model: ") and error.count("\n") == 1
    assert error.endswith("; model is written, `hf upload me/model model` tries it again\n")
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("repo_id", "token", "message"),
    [
        ("model", "right", "--push model: name the repository as ORGANIZATION/NAME"),
        ("me/no model", "right", "--push me/no model: name the repository as ORGANIZATION/NAME"),
        ("me/model", "wrong", "--push me/model: "),
        ("me/model", None, "--push me/model: no token of the hub; set HF_TOKEN, or run `hf auth login`"),
    ],
)
def test_what_cannot_be_pushed_is_said_before_anything_is_written(
    server, run, tmp_path, monkeypatch, capsys, repo_id, token, message
):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    assert run(repo_id) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1, error
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("kind", ["silent", "offline", "unreachable"])
def test_a_hub_that_does_not_answer_is_one_line(server, run, tmp_path, monkeypatch, capsys, kind):
    if kind == "silent":
        server.silent.set()
        monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.3)
    elif kind == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert run("me/model") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --push me/model: ") and error.count("\n") == 1, error
    assert not (tmp_path / "model").exists()
