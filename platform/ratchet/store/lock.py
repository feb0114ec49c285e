"""One process at a time on a run folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ratchet.errors import RunError
from ratchet.store.files import storage_errors
from ratchet.store.record import now


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the system lets go when the process ends, however it ends.

    Raises RunError naming the holder where another process has it.
    """
    path = folder / "lock"
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text() or "an unknown process"
            raise RunError(
                f"another run is using this folder: {holder}",
                where=str(folder),
                fix="wait for it, stop it, or give this plan another name",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now()}).encode(), 0)
        yield
    finally:
        os.close(handle)
