"""A stand-in of wandb's service on 127.0.0.1: enough of its GraphQL for `wandb sweep`, `wandb agent` and runs.

    with service() as wandb:
        subprocess.run([... "wandb", "sweep", "sweep.yaml"], env={**os.environ, **wandb.environment(tmp_path)})

It keeps what it is told: sweeps as they were upserted, the runs with their config and history, and
every request. `trials` holds the points that the agents are given, one after another; when none is
left, they are told to end. `fault` makes it answer every request with that status, or `hang`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

ENTITY, PROJECT, SWEEP = "ada", "ratchet-tests", "sw33p001"
KEY = "0" * 40
_OWNER = {"id": "p", "name": PROJECT, "entity": {"id": "e", "name": ENTITY}}


@dataclasses.dataclass
class Service:
    """What the service was told, and how it answers."""

    url: str = ""
    trials: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Points for the agents: parameter names and values."""
    fault: int | str | None = None
    """An HTTP status for every answer, or `hang`."""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The sweep's configuration, as `wandb sweep` sent it."""
    asked: list[tuple[str, dict[str, Any]]] = dataclasses.field(default_factory=list)
    """Operations of GraphQL, with their variables, in order."""
    runs: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """What was upserted of each run, by its id."""
    history: dict[str, dict[int, dict[str, Any]]] = dataclasses.field(default_factory=dict)
    """Lines of each run's history, by their offset."""
    summary: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    unknown: list[str] = dataclasses.field(default_factory=list)
    over: threading.Event = dataclasses.field(default_factory=threading.Event)
    given: int = 0

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables with which wandb in a subprocess speaks to this service."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "HOME": str(home),
            "WANDB_ERROR_REPORTING": "false",
            "NO_PROXY": "127.0.0.1",
        }

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """Return the `data` of a GraphQL operation, or None where it is not known."""
        self.asked.append((operation, asked))
        match operation:
            case "Viewer":
                return {
                    "viewer": {"id": "u", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}
                }
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "UpsertSweep":
                self.config = yaml.safe_load(asked["config"])
                return {"upsertSweep": {"sweep": {"name": SWEEP, "project": _OWNER}, "configValidationWarnings": []}}
            case "SweepWithRuns":
                sweep = {"id": "s", "name": SWEEP, "state": "RUNNING", "config": yaml.safe_dump(self.config)}
                return {"project": {"sweep": {**sweep, "runs": {"edges": []}}}}
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": "agent1"}}}
            case "Heartbeat":
                commands = self._commands(json.loads(asked["runState"]))
                return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(commands)}}
            case "RunResumeStatus":
                return {
                    "model": {"id": "m", "name": PROJECT, "entity": _OWNER["entity"], "bucket": self._bucket(asked)}
                }
            case "UpsertBucket":
                return {"upsertBucket": {"bucket": self._upsert(asked), "inserted": True}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/put/{name}"} for name in asked["files"]]
                return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}
        self.unknown.append(operation)
        return None

    def streamed(self, run: str, files: dict[str, dict[str, Any]]) -> None:
        """Take one request of a run's file stream: lines from an offset on."""
        if (lines := files.get("wandb-history.jsonl")) is not None:
            for number, line in enumerate(lines["content"], lines["offset"]):
                self.history.setdefault(run, {})[number] = json.loads(line)
        if (lines := files.get("wandb-summary.json")) is not None:
            self.summary.setdefault(run, {}).update(json.loads(lines["content"][-1]))

    def _commands(self, running: dict[str, bool]) -> list[dict[str, Any]]:
        if running:
            return []
        if self.given == len(self.trials):
            return [{"type": "exit"}]
        self.given += 1
        run, point = f"run{self.given}", self.trials[self.given - 1]
        args = {name: {"value": value} for name, value in point.items()}
        return [{"type": "run", "run_id": run, "program": self.config.get("program"), "args": args}]

    def _upsert(self, asked: dict[str, Any]) -> dict[str, Any]:
        told = self.runs.setdefault(asked["name"], {})
        told |= {key: value for key, value in asked.items() if value is not None}
        names = {"id": asked["name"], "name": asked["name"], "displayName": told.get("displayName") or asked["name"]}
        return {**names, "config": told.get("config", "{}"), "sweepName": told.get("sweep"), "project": _OWNER}

    def _bucket(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        if (told := self.runs.get(asked["name"])) is None:
            return None
        lines = self.history.get(asked["name"], {})
        return {
            "id": asked["name"],
            "name": asked["name"],
            "displayName": told.get("displayName"),
            "summaryMetrics": json.dumps(self.summary.get(asked["name"], {})),
            "logLineCount": 0,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(lines[max(lines)])] if lines else []),
            "eventsTail": "[]",
            "config": told.get("config", "{}"),
            "tags": [],
            "notes": "",
            "wandbConfig": json.dumps({"t": 1}),
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: Service

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)

    do_PUT = do_POST

    def _answer(self, body: bytes) -> None:
        if self.service.fault == "hang":
            self.service.over.wait(120)
            return
        if self.service.fault:
            self._send(int(self.service.fault), {"error": "out of order"})
            return
        if self.path == "/graphql":
            request = json.loads(body)
            found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            data = self.service.answer(found[1] if found else "", request.get("variables") or {})
            self._send(200, {"data": data} if data is not None else {"errors": [{"message": "unknown"}]})
            return
        if self.path.endswith("/file_stream"):
            self.service.streamed(self.path.split("/")[4], json.loads(body).get("files") or {})
        elif not self.path.startswith("/put/"):
            self.service.unknown.append(f"{self.command} {self.path}")
        self._send(200, {})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of callers that hang up."""


@contextlib.contextmanager
def service() -> Iterator[Service]:
    """Serve until the block ends."""
    found = Service()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"service": found}))
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def wandb_says(folder: Path, environment: dict[str, str], *words: str, seconds: float = 120) -> str:
    """Run a command of wandb's own in `folder` to its end; return what it said."""
    command = [sys.executable, "-m", "wandb", *words]
    found = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stderr
