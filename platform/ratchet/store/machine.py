"""What Linux reports of this machine: its memory, its load and its processes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
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
    """Return this machine's memory, or its container's where that has less.

    What a container holds of files alone, and has not used lately, can still be given away.
    """
    found = dict(re.findall(r"^(\w+):\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"), re.M))
    whole = Memory(int(found.get("MemTotal", 0)) * _KB, int(found.get("MemAvailable", 0)) * _KB)
    limit, used = (_CGROUP / name for name in ("memory.max", "memory.current"))
    # `max` stands where the container has no limit.
    if not (limit.exists() and used.exists()) or (most := limit.read_text(encoding="utf-8").strip()) == "max":
        return whole
    stat_file = _CGROUP / "memory.stat"
    files = (
        re.search(r"^inactive_file (\d+)", stat_file.read_text(encoding="utf-8"), re.M) if stat_file.exists() else None
    )
    left = int(most) - int(used.read_text(encoding="utf-8")) + (int(files[1]) if files else 0)
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
        # Field 22 of proc(5), when it was started: here without the two fields before the state.
        return found[0] in {"Z", "X"} or int(found[19]) != self.started


def this_process() -> Process:
    """Return the process that asks."""
    try:
        started = int(stat(os.getpid())[19])
    except OSError:
        started = None
    return Process(socket.gethostname(), _machine(), os.getpid(), started)


_starts: list[Callable[[], object]] = []
_starting = threading.RLock()


@contextlib.contextmanager
def started_by_work(start: Callable[[], object]) -> Iterator[None]:
    """Call `start` once, with the first work that is to be done in the block; not at all where there is none."""
    _starts.append(start)
    try:
        yield
    finally:
        if start in _starts:
            _starts.remove(start)


def begin_work() -> None:
    """Start what work goes on in (a Ray, or this process's threads), where that waits for the first work."""
    with _starting:
        while _starts:
            _starts.pop()()


def on_ray() -> bool:
    """Whether work that is now to be done can be spread over a Ray, which is started for it where it waits for work."""
    begin_work()
    return has_ray()


def has_ray() -> bool:
    """Whether this process is connected to a Ray by now. Loads and starts none to find out."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def stat(pid: int) -> list[str]:
    """Return a process's state, parent and so on: what follows its name, which may hold anything. Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


@functools.cache
def _machine() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        # Containers of one machine share its boot, and not its process numbers.
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def keep_to_threads() -> None:
    """Let torch, where it is imported already, use as many threads as Ray says, if this is a process of Ray.

    Ray sets `OMP_NUM_THREADS` to the CPUs of a task or an actor when it begins; torch reads that once, when it is
    imported, which for a worker that begins warm was before.
    """
    torch, threads = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "")
    if on_ray() and torch is not None and threads.isdigit():
        torch.set_num_threads(max(1, int(threads)))


_NO_MEMORY = re.compile(
    r"out ?of ?memory|can(no|')t allocate memory|low on memory|\bMemoryError|bad_alloc", re.IGNORECASE
)


def out_of_memory(said: str) -> bool:
    """Whether an error is about memory, as CUDA, torch on a CPU, Ray's watch over a node, Python and C++ say it."""
    return _NO_MEMORY.search(said) is not None
