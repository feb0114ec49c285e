"""A Ray head of a test's own: own ports, own folder, no other Ray of this machine is met or ended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ratchet.reference.gone import family

_SECONDS = 180
_OBJECT_STORE = 100_000_000


@dataclasses.dataclass(frozen=True)
class Head:
    """Where a head is: `address` of the cluster, `dashboard` as URL, `folder` with its session and logs."""

    address: str
    dashboard: str
    folder: Path


@contextlib.contextmanager
def ray_head(token: str | None, host: str = "127.0.0.1") -> Iterator[Head]:
    """Start a head with token authentication, or without any; at the end its processes are ended, and no others."""
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    gcs, dashboard, metrics, agent, client = _ports(5)
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_AUTH", "RAY_ADDRESS"))}
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--node-ip-address={host}", f"--port={gcs}", f"--dashboard-host={host}", f"--dashboard-port={dashboard}"),
        *(f"--metrics-export-port={metrics}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--ray-client-server-port={client}", "--num-cpus=2", f"--object-store-memory={_OBJECT_STORE}"),
        *(f"--temp-dir={folder}", "--include-dashboard=true"),
    ]
    with (
        (folder / "head.log").open("wb") as log,
        subprocess.Popen(command, env={**kept, **auth}, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            _wait(dashboard, host, process, folder)
            yield Head(f"{host}:{gcs}", f"http://{host}:{dashboard}", folder)
        finally:
            _end(process)
    shutil.rmtree(folder, ignore_errors=True)


def _wait(port: int, host: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + _SECONDS
    while True:
        assert process.poll() is None, (folder / "head.log").read_text()
        assert time.monotonic() < end, f"no dashboard on port {port}: {(folder / 'head.log').read_text()}"
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=1).close()
            if "Ray runtime started" in (folder / "head.log").read_text():
                return
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the processes below ours: Ray's own end of a head takes a minute."""
    for pid in reversed(family(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
