"""The memory and the load of this machine, as Linux reports them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_KB = 1024


@dataclasses.dataclass(frozen=True)
class Memory:
    """The bytes that this machine, or the container that limits it, has in all, and could still give away."""

    total: int
    available: int

    @property
    def used(self) -> int:
        """The bytes that processes hold."""
        return self.total - self.available


def memory() -> Memory:
    """Return this machine's memory, or its container's where that has less."""
    found = dict(re.findall(r"^(\w+):\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"), re.M))
    whole = Memory(int(found.get("MemTotal", 0)) * _KB, int(found.get("MemAvailable", 0)) * _KB)
    limit, used = (_CGROUP / name for name in ("memory.max", "memory.current"))
    if not (limit.exists() and used.exists()) or (most := limit.read_text(encoding="utf-8").strip()) == "max":
        return whole
    left = int(most) - int(used.read_text(encoding="utf-8"))
    return Memory(min(whole.total, int(most)), min(whole.available, left))


def held(pids: Iterable[int]) -> int:
    """Return the resident bytes of processes of this machine; one that has ended holds none."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), re.M)
            total += int(found[1]) * _KB if found else 0  # a kernel's thread or a zombie has no such line
    return total


def gib(size: float) -> str:
    """Return bytes as people say them."""
    return f"{size / 2**30:.1f} GiB"


def busy() -> str:
    """Say in a few words how busy this machine is."""
    return (
        f"the load of this machine is {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, "
        f"and {gib(memory().available)} of its memory are free"
    )
