"""A stand-in for W&B's servers: as much of their interface as wandb asks for, on loopback."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "works"
KEY = "0123456789" * 4


@dataclass
class Arrived:
    """What arrived of one W&B run."""

    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    is_complete: bool = False

    @property
    def steps(self) -> list[tuple[int, str]]:
        """Every row of a curve: its step, and whether it is a loss or an evaluation."""
        rows = [row for row in self.history if "step" in row]
        return [(row["step"], "loss" if "loss" in row else "evaluation") for row in rows]


@dataclass
class StandIn:
    """The state of the server.

    `trouble` makes it answer wrongly: an HTTP status, "garbage", "slow" or "hang up". `calm` is the
    number of requests before the trouble begins.
    """

    url: str = ""
    runs: dict[str, Arrived] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    trouble: int | str | None = None
    calm: int = 0

    def run(self, name: str) -> Arrived:
        return self.runs.setdefault(name, Arrived())

    def env(self) -> dict[str, str]:
        """Environment variables with which wandb asks this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    @property
    def is_troubled(self) -> bool:
        return self.trouble is not None and len(self.bodies) > self.calm


@contextmanager
def stand_in(trouble: int | str | None = None, calm: int = 0) -> Iterator[StandIn]:
    """Serve until the block ends."""
    state = StandIn(trouble=trouble, calm=calm)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = _read(self)
            state.bodies.append(body)
            if state.is_troubled:
                _misbehave(self, state.trouble)
            else:
                _reply(self, json.dumps(_answer(state, self.path, body)).encode())

        do_GET = do_PUT = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, address: Any) -> None: ...  # wandb hung up

    server = Server(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def _read(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(request.rfile.readline(), 16):
            body += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
    else:
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
    if request.headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    return body


def _reply(request: BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
    request.send_response(status)
    request.send_header("content-type", "application/json")
    request.send_header("content-length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def _misbehave(request: BaseHTTPRequestHandler, trouble: int | str | None) -> None:
    if trouble == "garbage":
        _reply(request, b"\x00\xff<html>{{ not json")
    elif trouble == "hang up":
        request.close_connection = True
    elif trouble == "slow":
        time.sleep(30)
        request.close_connection = True
    else:
        _reply(request, b"{}", int(trouble or 500))


def _answer(state: StandIn, path: str, body: bytes) -> dict[str, Any]:
    if path == "/graphql":
        request = json.loads(body)
        return {"data": _graphql(state, request["query"], request.get("variables") or {})}

    if path.endswith("/file_stream"):
        _take_stream(state.run(path.split("/")[-2]), json.loads(body))
        return {"exitcode": None, "limits": {}}

    if path.startswith("/upload/"):
        _, _, run, name = path.split("/", 3)
        state.run(run).files[name] = body
    return {}


def _graphql(state: StandIn, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    name = variables.get("name") or variables.get("run") or ""
    project = {"id": "p", "name": "vlmbench", "entity": {"id": "e", "name": ENTITY}}
    if "upsertBucket" in query:
        config = json.loads(variables.get("config") or "{}")
        state.run(name).config |= {key: item["value"] for key, item in config.items()}
        bucket = {"id": "b", "name": name, "displayName": name, "config": "{}", "project": project}
        count = len(state.run(name).history)
        return {"upsertBucket": {"bucket": bucket | {"historyLineCount": count}, "inserted": True}}

    if "RunResumeStatus" in query and name in state.runs:
        return {"model": {**project, "bucket": _bucket(name, state.runs[name])}}
    if "createRunFiles" in query:
        links = [
            {"name": file, "uploadUrl": f"{state.url}/upload/{name}/{file}"}
            for file in variables["files"]
        ]
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": links}}
    if "viewer" in query.lower():
        viewer = {"id": "v", "entity": ENTITY, "username": "me", "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": []}}}
    return {}


def _bucket(name: str, run: Arrived) -> dict[str, Any]:
    config = {key: {"value": value} for key, value in run.config.items()}
    return {
        "id": "b",
        "name": name,
        "displayName": name,
        "summaryMetrics": json.dumps(run.summary),
        "logLineCount": 0,
        "historyLineCount": len(run.history),
        "eventsLineCount": 0,
        "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
        "eventsTail": "[]",
        "config": json.dumps(config),
        "tags": [],
        "notes": None,
        "wandbConfig": json.dumps({}),
    }


def _take_stream(run: Arrived, stream: dict[str, Any]) -> None:
    files = stream.get("files") or {}
    if "wandb-history.jsonl" in files:
        chunk = files["wandb-history.jsonl"]
        rows = [json.loads(line) for line in chunk["content"]]
        run.history[chunk["offset"] : chunk["offset"] + len(rows)] = rows
    if "wandb-summary.json" in files:
        run.summary = json.loads(files["wandb-summary.json"]["content"][-1])
    run.is_complete = run.is_complete or bool(stream.get("complete"))
