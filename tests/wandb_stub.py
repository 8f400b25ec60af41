"""A server that W&B's client takes for its own, on this machine: healthy, or sick in one of the ways that servers are."""

from __future__ import annotations

import gzip
import json
import re
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
        self.runs: dict[str, list[dict[str, Any]]] = {}  # rows that were uploaded, by the run's id
        self.artifacts: dict[str, dict[str, Any]] = {}  # by name, the last one of each
        self.uploads: dict[str, bytes] = {}  # by path
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows of all runs that were uploaded."""
        return [row for rows in self.runs.values() for row in rows]

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
        request = json.loads(body) if self.path.endswith(("/graphql", "/file_stream")) else {"body": body}
        operation = re.search(r"(?:query|mutation)\s+(\w+)", request.get("query", ""))
        request["operation"] = operation[1] if operation else ""
        self.server.requests.append(request["operation"] or self.path)
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
    server, path = handler.server, handler.path
    if path.startswith(("/upload/", "/artifact/")):
        if handler.command == "GET":
            handler.send(server.uploads[path])
            return
        server.uploads[path] = request["body"]
    elif path.endswith("/file_stream"):
        rows = request["files"].get("wandb-history.jsonl", {}).get("content", [])
        server.runs.setdefault(path.split("/")[-2], []).extend(map(json.loads, rows))
    answer = ANSWERS.get(request["operation"], lambda server, variables: {})
    handler.send(json.dumps({"data": answer(server, request.get("variables") or {})} if "query" in request else {}).encode())


def viewer(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """Whose the key is."""
    return {"viewer": {"id": "u", "entity": "e", "username": "u", "flags": "{}", "teams": {"edges": []}, "email": ""}}


def upsert_bucket(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """Registers a run."""
    count = len(server.runs.setdefault(variables["name"], []))
    bucket = BUCKET | {"name": variables["name"], "historyLineCount": count}
    return {"upsertBucket": {"bucket": bucket, "inserted": True}}


def resume_status(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """How far a run has come, None if there is none."""
    if not (rows := server.runs.get(variables["name"])):
        return {"model": None}
    bucket = BUCKET | {"name": variables["name"], "config": "{}", "summaryMetrics": "{}", "tags": [], "notes": None}
    bucket |= {"wandbConfig": '{"t": 1}', "historyLineCount": len(rows), "historyTail": json.dumps([json.dumps(rows[-1])])}
    return {"model": PROJECT | {"bucket": bucket | {"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]"}}}


def create_run_files(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """Where to upload files of a run."""
    files = [{"name": name, "uploadUrl": f"{server.url}/upload/{name}"} for name in variables["files"]]
    return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}


def artifact_type(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """Type of an artifact, None if there is none."""
    found = server.artifacts.get(variables["name"].partition(":")[0])
    return {"project": {"artifact": found and {"artifactType": {"name": found["type"]}}}}


def create_artifact(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """Begins a version of an artifact, which takes the place of the one before."""
    asked = variables["input"]
    name = asked["artifactCollectionName"]
    server.artifacts[name] = asked | {"type": asked["artifactTypeName"], "name": name}
    return {"createArtifact": {"artifact": {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}}}


def artifact_manifest(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """Where to upload the list of an artifact's files."""
    url = f"{server.url}/artifact/{variables.get('artifactID') or variables['artifactManifestID']}/manifest"
    file = {"id": "f", "uploadUrl": url, "uploadHeaders": []}
    manifest = {"id": variables.get("artifactID") or variables["artifactManifestID"], "file": file}
    return {name: {"artifactManifest": manifest} for name in ("createArtifactManifest", "updateArtifactManifest")}


def create_artifact_files(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """Where to upload files of an artifact."""
    nodes = [
        {
            "name": file["name"],
            "storagePath": f"wandb_artifacts/{file['md5']}",
            "uploadUrl": f"{server.url}/artifact/{file['artifactID']}/{file['name']}",
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "artifact": {"id": file["artifactID"]},
        }
        for file in variables["input"]["artifactFiles"]
    ]
    return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}


def commit_artifact(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """Makes a version of an artifact visible."""
    return {"commitArtifact": {"artifact": {"digest": server.artifacts[variables["artifactID"]]["digest"]}}}


def artifact_by_id(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """The artifact of an id."""
    return {"artifact": describe_artifact(server, variables["id"])}


def artifact_by_name(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """The artifact of a name and an alias, None if there is none."""
    name, _, alias = variables["name"].partition(":")
    found = server.artifacts.get(name)
    if found is None or alias not in [each["alias"] for each in found["aliases"]]:
        return {"project": {"artifactCollectionMembership": None}}
    artifact = describe_artifact(server, name)
    membership = {
        "__typename": "ArtifactCollectionMembership",
        "id": "m",
        "versionIndex": 0,
        "createdAt": artifact["createdAt"],
    }
    aliases = [{"__typename": "ArtifactAlias", "id": "a", "alias": each["alias"]} for each in found["aliases"]]
    membership |= {"aliases": aliases, "artifactCollection": artifact["artifactSequence"], "artifact": artifact}
    return {"project": {"artifactCollectionMembership": membership}}


def fetch_manifest(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """Where the list of an artifact's files is."""
    return {"artifact": {"currentManifest": {"file": {"directUrl": f"{server.url}/artifact/{variables['id']}/manifest"}}}}


def file_urls(server: WandbServer, variables: dict[str, Any]) -> dict[str, Any]:
    """Where the files of an artifact are."""
    folder = f"/artifact/{variables['collection']}/"
    names = [path.removeprefix(folder) for path in server.uploads if path.startswith(folder)]
    edges = [
        {"node": {"__typename": "File", "name": name, "directUrl": f"{server.url}{folder}{name}"}}
        for name in names
        if name != "manifest"
    ]
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    collection = {"__typename": "ArtifactSequence", "artifactMembership": {"files": {"pageInfo": page, "edges": edges}}}
    return {"project": {"artifactCollection": collection}}


def describe_artifact(server: WandbServer, name: str) -> dict[str, Any]:
    """What the server says of its artifact."""
    found = server.artifacts[name]
    sizes = [len(body) for path, body in server.uploads.items() if path.startswith(f"/artifact/{name}/")]
    sequence = {"__typename": "ArtifactSequence", "name": name, "project": PROJECT | {"internalId": "i"}}
    return {
        "__typename": "Artifact",
        "id": name,
        "artifactSequence": sequence,
        "versionIndex": 0,
        "artifactType": {"name": found["type"]},
        "description": None,
        "metadata": found["metadata"],
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": "COMMITTED",
        "size": sum(sizes),
        "digest": found["digest"],
        "commitHash": "c",
        "fileCount": len(sizes) - 1,
        "createdAt": "2026-01-01T00:00:00",
        "updatedAt": None,
        "aliases": [],
    }


ANSWERS: dict[str, Callable[[WandbServer, dict[str, Any]], dict[str, Any]]] = {
    "Viewer": viewer,
    "GetDefaultEntity": viewer,
    "UpsertBucket": upsert_bucket,
    "RunResumeStatus": resume_status,
    "CreateRunFiles": create_run_files,
    "ArtifactType": artifact_type,
    "CreateArtifact": create_artifact,
    "CreateArtifactManifest": artifact_manifest,
    "UpdateArtifactManifest": artifact_manifest,
    "CreateArtifactFiles": create_artifact_files,
    "CommitArtifact": commit_artifact,
    "ArtifactByID": artifact_by_id,
    "FetchArtifactManifest": fetch_manifest,
    "GetArtifactMembershipFileUrls": file_urls,
    "ArtifactMembershipByName": artifact_by_name,
}


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
