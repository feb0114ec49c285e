"""A stand-in of the hub: it says which commits names mean, and they move when a test says so."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from huggingface_hub import constants


class Hub:
    """`commits` by what is asked, such as `datasets/owner/rows` and `datasets/owner/rows@v1`; `asked` in turn."""

    def __init__(self) -> None:
        self.commits: dict[str, str] = {}
        self.asked: list[str] = []


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve a hub on this machine, and let the hub's library ask it."""
    hub = Hub()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, _, revision = unquote(self.path).removeprefix("/api/").partition("/revision/")
            said = name + (f"@{revision}" if revision else "")
            hub.asked.append(said)
            commit = hub.commits.get(said)
            body = json.dumps({"id": name.partition("/")[2], "sha": commit}).encode()
            self.send_response(200 if commit else 404)
            if commit is None:
                self.send_header("X-Error-Code", "RevisionNotFound" if revision else "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
