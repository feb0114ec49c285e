"""What the doctor asks a dashboard, against a server of this machine that plays one."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from certificate import self_signed
from ratchet.cli import main
from ratchet.doctor.dashboard import answers_unasked, get, inspect_dashboard, own_token
from ratchet.doctor.facts import Dashboard
from ratchet.serving.address import is_loopback

TOKEN = "a-token-of-a-test"  # noqa: S105
JOBS: list[Any] = [
    {"submission_id": "one", "runtime_env": {"env_vars": {"WANDB_API_KEY": "x", "OMP_NUM_THREADS": "1"}}},
    {"job_id": "02", "submission_id": None, "runtime_env": {"env_vars": {"HF_TOKEN": "y", "EMPTY_TOKEN": ""}}},
    {"job_id": "03", "runtime_env": None},
]


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        server.seen.append((self.path, self.headers.get("Authorization")))
        allowed = not server.token or self.headers.get("Authorization") == f"Bearer {server.token}"
        status, fields = {
            "/api/jobs/": (200, server.jobs) if allowed else (401, {}),
            "/api/authentication_mode": (200, {"authentication_mode": "token" if server.token else "disabled"}),
            "/api/version": (200, {"ray_version": "2.60.0"}) if allowed else (403, {}),
            "/away": (302, {}),
        }.get(self.path, (404, {}))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/api/version")
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.token, server.jobs, server.seen = "", JOBS, []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def url(server: Any) -> str:
    return f"http://127.0.0.1:{server.server_port}"


LEAKS = (("one", "WANDB_API_KEY"), ("02", "HF_TOKEN"))


def test_an_open_one_gives_all_away(server: Any) -> None:
    found = inspect_dashboard(url(server) + "/", TOKEN)
    assert found == Dashboard(url(server), True, "disabled", 200, True, "2.60.0", loopback=True, secrets=LEAKS)
    assert found.jobs_open


def test_a_closed_one_is_asked_without_a_token_first(server: Any) -> None:
    server.token = TOKEN
    assert inspect_dashboard(url(server), TOKEN) == Dashboard(
        url(server), True, "token", 401, False, "2.60.0", True, LEAKS
    )
    assert server.seen[:2] == [("/api/jobs/", None), ("/api/jobs/", f"Bearer {TOKEN}")]
    assert inspect_dashboard(url(server), None) == Dashboard(url(server), True, "token", 401, False, None, True, ())


@pytest.mark.parametrize(
    "jobs", [b"<html>", b"[1]", {"a": 1}, None, [{"runtime_env": "x"}], [{"runtime_env": {"env_vars": 3}}]]
)
def test_what_is_no_list_of_jobs_has_no_secrets(jobs: Any, server: Any) -> None:
    server.jobs = jobs
    found = inspect_dashboard(url(server), None)
    assert found.secrets == ()
    assert found.jobs_open is (isinstance(jobs, list) or jobs == b"[1]")


def test_one_that_is_not_there(server: Any) -> None:
    assert inspect_dashboard("http://127.0.0.1:1", TOKEN) == Dashboard("http://127.0.0.1:1", reachable=False)
    assert not answers_unasked("http://127.0.0.1:1/metrics")
    assert not answers_unasked("file:///etc/passwd")
    assert not inspect_dashboard("file:///etc", None).reachable


def test_the_doctor_calls_one_that_is_not_there_a_problem(
    capsys: pytest.CaptureFixture[str], server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["doctor", "--address", "http://127.0.0.1:1"]) == 69
    assert "problem  cluster: no dashboard answers at http://127.0.0.1:1" in capsys.readouterr().out
    server.token = TOKEN
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    assert main(["doctor", "--address", url(server)]) == 0
    assert "ok       authentication: on" in capsys.readouterr().out


def test_a_redirect_is_not_followed_and_a_proxy_not_used(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert get(url(server) + "/away", TOKEN)[0] == 302
    assert [path for path, _ in server.seen] == ["/away"]


def test_the_machines_own_authorities_are_trusted(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(self_signed(tmp_path / "ca.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    address = url(server).replace("http", "https")
    assert not inspect_dashboard(address, TOKEN).reachable
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert inspect_dashboard(address, TOKEN).reachable


def test_whose_token_counts(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-a-file\n")
    at = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    assert own_token(at) == "of-a-file"
    assert own_token({**at, "RAY_AUTH_TOKEN": TOKEN}) == TOKEN
    assert own_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}) is None


HOSTS = {"127.0.0.1": True, "127.9.9.9": True, "::1": True, "localhost": True, "10.0.0.1": False, "192.0.2.2": False}


@pytest.mark.parametrize(("host", "told"), HOSTS.items())
def test_what_is_this_machine_alone(host: str, told: bool) -> None:
    assert is_loopback(host) is told
