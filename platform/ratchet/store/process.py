"""Processes of this machine, as /proc shows them."""

from __future__ import annotations

import dataclasses
import functools
import os
import socket
import sys
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Process:
    """A process, so that no other one is taken for it.

    `machine` is one boot of one machine, and one space of process numbers on it; `started` is in clock ticks since
    the boot, as numbers are used again. Both are None where they cannot be known.
    """

    host: str
    machine: str | None
    pid: int
    started: int | None

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this machine; False where that is unknown."""
        return self.machine is not None and self.machine == _machine()

    def has_ended(self) -> bool:
        """Whether it ran on this machine and does not run any more; False where that is unknown."""
        if not self.is_here:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another person's, whose processes may be hidden in /proc
            return False
        try:
            found = stat(self.pid)
        except OSError:
            return False
        return found[0] in {"Z", "X"} or int(found[19]) != self.started


def this_process() -> Process:
    """Return the process that asks."""
    try:
        started = int(stat(os.getpid())[19])
    except OSError:
        started = None
    return Process(socket.gethostname(), _machine(), os.getpid(), started)


def on_ray() -> bool:
    """Whether this process is connected to a Ray, over which work can be spread. Loads no Ray to find out."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def stat(pid: int) -> list[str]:
    """Return a process's state, parent and so on: what follows its name, which may hold anything. Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


@functools.cache
def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None
