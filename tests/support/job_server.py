"""A server that speaks as Ray's job server does, over real sockets, and misbehaves when told to."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Handler"], None]


class JobServer(ThreadingHTTPServer):
    """Jobs by name, requests as they came, and faults: one is taken from the left for each request to `/api/jobs/`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.version = "2.60.0"
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, str] = {}
        self.requests: list[str] = []
        self.faults: deque[Fault | None] = deque()
        self.always: Fault | None = None
        self.busy = 0  # submissions that are sent away before any job is made
        self.lock = threading.Lock()
        self.on_log: Callable[[str], None] = lambda name: None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the test's."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, name: str, status: str = "RUNNING", **more: Any) -> None:
        self.jobs[name] = {
            "type": "SUBMISSION", "submission_id": name, "entrypoint": "true", "status": status, "metadata": {}, **more,
        }  # fmt: skip

    def end(self, name: str, status: str, exit_code: int | None = None, message: str = "") -> None:
        self.jobs[name] |= {"status": status, "driver_exit_code": exit_code, "message": message}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: JobServer

    def log_message(self, *arguments: Any) -> None:
        """Nothing on the terminal."""

    def answer(self, status: int, body: str, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode())))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:
        self._take()
        parts = self.path.strip("/").split("/")
        if self._fault():
            return
        if parts[1] == "version":
            self.answer(200, json.dumps({"ray_version": self.server.version, "version": "4"}))
        elif parts[1] == "packages":
            self.answer(404, "no such package", "text/plain")
        elif len(parts) == 2:
            self.answer(200, json.dumps(list(self.server.jobs.values())))
        elif parts[2] not in self.server.jobs:
            self.answer(404, f"Job {parts[2]} does not exist", "text/plain")
        elif parts[-1] == "logs":
            self.answer(200, json.dumps({"logs": self.server.logs.get(parts[2], "")}))
            self.server.on_log(parts[2])
        else:
            self.answer(200, json.dumps(self.server.jobs[parts[2]]))

    def do_PUT(self) -> None:
        self._take()
        self._body()
        self.answer(200, "", "text/plain")

    def do_POST(self) -> None:
        self._take()
        body = self._body()
        if self.path.endswith("/stop"):
            self.server.end(self.path.split("/")[3], "STOPPED")
            self.answer(200, json.dumps({"stopped": True}))
            return
        if self.server.busy:
            self.server.busy -= 1
            self.answer(500, "No available agent to submit job, please try again later.", "text/plain")
            return
        asked = json.loads(body)
        with self.server.lock:
            taken = asked["submission_id"] in self.server.jobs
            if not taken:
                self.server.add(asked["submission_id"], "PENDING", **{k: asked[k] for k in ("metadata", "runtime_env")})
        if self._fault():
            return
        if taken:
            self.answer(500, "ValueError: Job with submission_id already exists.", "text/plain")
        else:
            self.answer(200, json.dumps({"job_id": asked["submission_id"], "submission_id": asked["submission_id"]}))

    def _take(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")

    def _fault(self) -> bool:
        if self.server.always is not None:
            self.server.always(self)
            return True
        if not self.path.startswith("/api/jobs/") or not self.server.faults:
            return False
        fault = self.server.faults.popleft()
        if fault is not None:
            fault(self)
        return fault is not None


def says(status: int, body: str = "oops", kind: str = "text/plain", **headers: str) -> Fault:
    return lambda handler: handler.answer(status, body, kind, **headers)


def resets(handler: Handler) -> None:
    """End the connection as a server that is killed does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def stops_half_way(handler: Handler) -> None:
    """Promise more than comes."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"logs": "half')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def hangs(until: threading.Event) -> Fault:
    """Say nothing until told to, then hang up."""

    def fault(handler: Handler) -> None:
        until.wait(60)
        handler.close_connection = True

    return fault


@contextlib.contextmanager
def job_server() -> Iterator[JobServer]:
    """Run a server for as long as the block."""
    with JobServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
