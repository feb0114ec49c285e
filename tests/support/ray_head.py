"""A Ray head of a test's own: own ports, own folder, no other Ray of this machine is met or ended."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

BIN = Path(sys.executable).parent
START_SECONDS = 180


@dataclass(frozen=True)
class Head:
    """A running head: `address` of the cluster, `dashboard` as URL, `folder` with its sessions and logs."""

    address: str
    dashboard: str
    token: str | None
    folder: Path
    process: subprocess.Popen[bytes]

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a client that has the cluster's token."""
        return {**plain_environment(), **authentication(self.token), **more}


def authentication(token: str | None) -> dict[str, str]:
    """Return the variables of a head, or a client, with a token or without any authentication."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}


def plain_environment() -> dict[str, str]:
    """Return this process' environment without another Ray's settings, and with this Python's commands first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {**kept, "CI": "true", "HF_HUB_OFFLINE": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def ray_head(cpus: int = 3, *, open_to_all: bool = False) -> Iterator[Head]:
    """Start a head, wait until its job server answers, and take it down with all that it started."""
    folder, token = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp")), None if open_to_all else secrets.token_hex(16)
    gcs, dashboard, agent, client, metrics = free_ports(5)
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}",
        f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
        "--dashboard-host=127.0.0.1", f"--temp-dir={folder}", f"--num-cpus={cpus}", "--object-store-memory=100000000",
        "--disable-usage-stats", f"--metrics-export-port={metrics}",
    ]  # fmt: skip
    # The library is not on the cluster's path: what a job finds of it came along.
    environment = {key: value for key, value in plain_environment().items() if key != "PYTHONPATH"}
    environment |= authentication(token)
    with (
        (folder / "start.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            head = Head(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", token, folder, process)
            _wait(head)
            yield head
        finally:
            _end(process)
            shutil.rmtree(folder, ignore_errors=True)


def get(head: Head, path: str) -> bytes:
    """Return what the dashboard answers to one who has the token."""
    headers = {"Authorization": f"Bearer {head.token}"} if head.token else {}
    answer = requests.get(head.dashboard + path, headers=headers, timeout=30)
    answer.raise_for_status()
    return answer.content


def _wait(head: Head) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        assert head.process.poll() is None, (head.folder / "start.log").read_text()
        assert time.monotonic() < end, f"the head did not start: {(head.folder / 'start.log').read_text()}"
        with contextlib.suppress(requests.RequestException):
            get(head, "/api/jobs/")
            if "Ray runtime started" in (head.folder / "start.log").read_text():
                return
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    with contextlib.suppress(ProcessLookupError):  # the group: whatever the head left behind
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
