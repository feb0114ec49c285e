"""A small server of OpenAI's protocol on a real socket, that misbehaves as it is told; a bench to ask it from.

It answers a chat with `re: <the last message>`, a completion with `then`, and a score with -1, -2, ….
`script` holds what it does instead with the next requests, in their order.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ratchet.pairs.pair import Turn
from ratchet.serving.endpoint import Endpoint, EndpointSettings
from ratchet.serving.journal import Journal
from ratchet.serving.requests import ChatRequest, Sampling
from ratchet.serving.retry import RequestPace

Behaviour = Callable[["_Handler", dict[str, Any]], None]

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


@dataclasses.dataclass
class Server:
    """What a test says to the server, and what the server saw."""

    url: str = ""
    script: collections.deque[Behaviour] = dataclasses.field(default_factory=collections.deque)
    always: Behaviour | None = None
    bodies: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    paths: list[str] = dataclasses.field(default_factory=list)
    headers: list[dict[str, str]] = dataclasses.field(default_factory=list)
    now: int = 0
    most_at_once: int = 0
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def said(self) -> list[str]:
        """The last message of each chat that came, in the order of coming."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2].partition("/")[0]


def fields_for(body: dict[str, Any]) -> dict[str, Any]:
    """Return what a server that works well says to `body`."""
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    if "messages" in body:
        allowed = body.get("structured_outputs", {}).get("choice")
        text = allowed[-1] if allowed else f"re: {body['messages'][-1]['content']}"
        return {"choices": [{**choice, "message": {"role": "assistant", "content": text}}], "usage": usage}
    if body.get("echo"):
        logprobs = [None, *(-float(i) for i in range(1, len(body["prompt"])))]
        return {"choices": [{**choice, "text": "echo", "logprobs": {"token_logprobs": logprobs}}], "usage": usage}
    return {"choices": [{**choice, "text": "then"}]}


def well(handler: _Handler, body: dict[str, Any]) -> None:
    handler.send(200, json.dumps(fields_for(body)))


def says(status: int, text: str = "", **headers: str) -> Behaviour:
    """Answer with a status, a body and headers (`Retry_After=` is `Retry-After`)."""
    return lambda handler, _: handler.send(status, text, {key.replace("_", "-"): headers[key] for key in headers})


def slow(seconds: float) -> Behaviour:
    """Answer well, after a while."""

    def behave(handler: _Handler, body: dict[str, Any]) -> None:
        time.sleep(seconds)
        well(handler, body)

    return behave


def silent(handler: _Handler, _: dict[str, Any]) -> None:
    """Answer nothing until the other side has had enough, whatever time that takes."""
    handler.close_connection = True
    handler.connection.recv(1)


def hangs_up(handler: _Handler, _: dict[str, Any]) -> None:
    """Close the connection without a word."""
    handler.close_connection = True


def stops_half_way(handler: _Handler, _: dict[str, Any]) -> None:
    """Promise a long body, send a little of it, and close."""
    handler.send(200, '{"choices": [', {"Content-Length": "5000"})
    handler.close_connection = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or head and body of a reply are 40 ms apart
    state: Server

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            state.bodies.append(body)
            state.paths.append(self.path)
            state.headers.append(dict(self.headers))
            self.under_way = True
            state.now += 1
            state.most_at_once = max(state.most_at_once, state.now)
            behaviour = state.script.popleft() if state.script else state.always or well
        try:
            behaviour(self, body)
        except (BrokenPipeError, ConnectionResetError):  # a client that did not wait
            self.close_connection = True
        finally:
            self.leave()

    def leave(self) -> None:
        """Count this request as over. Before the first byte goes out: the client may be quick to ask again."""
        with self.state.lock:
            self.state.now -= self.under_way
            self.under_way = False

    def send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.leave()
        content = text.encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
        """Say nothing."""


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server on a free port of this machine, with TLS where there is a `context`."""
    state = Server()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": state}))
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    state.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def chat(text: str, **sampling: object) -> ChatRequest:
    return ChatRequest((Turn("user", text),), Sampling(**sampling))


@dataclasses.dataclass
class Bench:
    """One server, and endpoints of it whose waits are written down and not waited.

    The time is `NOW`, and every back-off is the longest that may be drawn.
    """

    server: Server
    path: Path
    waits: list[float] = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def endpoint(
        self, *, real_pace: bool = False, look: Callable[[], None] = lambda: None, **settings: object
    ) -> Iterator[Endpoint]:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        pace = RequestPace() if real_pace else RequestPace(sleep, lambda: NOW, lambda low, high: high)
        with Journal(self.path) as journal:
            fields = {"base_url": self.server.url, "model": "m", "allow_private": True, **settings}
            yield Endpoint(EndpointSettings(**fields), journal, pace, look)
