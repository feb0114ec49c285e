"""Start a Ray on this machine, or reach one. A busy machine is waited for, and what is waited for is said.

Ray gives the parts of a new cluster some 30 seconds to find one another. Where other work takes all cores that is
often too short: Ray is given more time then, and is started again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import ClusterError
from ratchet.reference.processes import family, still_there
from ratchet.store.machine import busy
from ratchet.track.progress import line_by_line

LOCAL = "local"
ATTEMPTS = 4
"""Times that a Ray of this machine is started, before that is given up."""
_PAUSE_SECONDS = 2.0
PATIENCE = {
    "RAY_gcs_server_port_wait_time_s": "240",
    "RAY_raylet_start_wait_time_s": "240",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
}
"""What Ray waits for its own processes, by the environment variable that says so. One that is set already stays."""


def connect(
    asked: str | None,
    options: Mapping[str, Any],
    local: Mapping[str, Any],
    say: Callable[[str], None],
    python: str = sys.executable,
) -> None:
    """Reach the Ray at `asked` or at RAY_ADDRESS, or start one on this machine.

    `options` are those of `ray.init`, `local` those that a Ray of this machine has in their place or beside them. Its
    processes run `python`. Raises ClusterError.
    """
    address, key = asked or os.environ.get("RAY_ADDRESS") or LOCAL, "cluster.ray.address" if asked else "RAY_ADDRESS"
    # What workers write would run through the lines for people. What they warn of comes by way of `store.warned`.
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        say("starting Ray on this machine")
        with line_by_line(say, lambda: f"Ray is still starting; {busy()}"), _executable(python):
            _start({"address": LOCAL, "include_dashboard": False, **quiet, **options, **local}, say)
        return
    check_port(address, key)
    say(f"connecting to the Ray at {address}")
    error = _init({"address": address, **quiet, **options})
    if error is not None:
        raise ClusterError(
            f"no Ray could be reached at {address}: {_first_line(error)}",
            where=key,
            fix="check the address, that the cluster is up, and that no port is blocked",
            code="cluster.no-ray",
        ) from error


def check_port(address: str, key: str = "cluster.ray.address") -> None:
    """Ray itself waits minutes for a cluster that is not there. `key` says where the address stands."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address)
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray answers at {address}: {error}",
            where=key,
            fix="start the cluster, or leave the address (and RAY_ADDRESS) out for a Ray of this machine",
            code="cluster.no-ray",
        ) from error


def _start(options: Mapping[str, Any], say: Callable[[str], None]) -> None:
    # Children that the caller had before are not this attempt's to end.
    before = set(family(os.getpid()))
    for attempt in itertools.count(1):
        if (error := _init(options)) is None:
            return
        _end_left(before)
        why = _first_line(error)
        if attempt == ATTEMPTS:
            raise ClusterError(
                f"Ray did not start on this machine, {ATTEMPTS} times in a row: {why}",
                fix=f"{busy()}: run again when it has time and memory to spare; see that the disk of /tmp has room",
            ) from error
        say(f"Ray did not start ({why}); {busy()}; trying again, {attempt + 1} of {ATTEMPTS}")
        time.sleep(_PAUSE_SECONDS)


@contextlib.contextmanager
def _executable(python: str) -> Iterator[None]:
    """Let Ray start its processes with `python` meanwhile: it takes what Python names, and has no setting for it."""
    before, sys.executable = sys.executable, python
    try:
        yield
    finally:
        sys.executable = before


def _init(options: Mapping[str, Any]) -> Exception | None:
    """Call `ray.init`; return what went wrong. Ray raises RuntimeError, ValueError, ConnectionError and its own."""
    import ray

    try:
        ray.init(**options)
    except Exception as error:
        # A connection that is half made would let the next `ray.init` fail: it refuses to be called twice.
        ray.shutdown()
        return error
    return None


def _end_left(before: set[int]) -> None:
    """End the processes of a Ray that did not come up, which Ray forgets: they would slow down the next one."""
    left = [pid for pid in family(os.getpid()) if pid not in before and _is_of_ray(pid)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    still_there(left, 10)


def _is_of_ray(pid: int) -> bool:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return b"/ray/" in command or command.startswith(b"ray::")  # as workers call themselves
    return False


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
