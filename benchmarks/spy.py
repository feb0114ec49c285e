"""What Python processes do, counted: which modules they import, and how many processes there are.

`watched` gives an environment. Every Python process that starts in it, or below such a process, writes
down its beginning and each module that it looks for. A process that is killed has still written it,
and one that is forked begins a list of its own. `ratchet` is in that once the process imports it or
unpickles anything of it: a worker that Ray keeps ready, and never gives work of ours, has it not.
`opened_files` counts what is opened below a folder while something runs, by any library, as the
kernel (Linux) tells it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = "RATCHET_SPY"
_ROOT = Path(__file__).resolve().parent.parent
_START = "from benchmarks import spy\n\nspy.install()\n"
_IN_OPEN, _IN_ISDIR, _IN_NONBLOCK = 0x20, 0x40000000, 0o4000
# Closing too: the kernel tells equal events that follow one another as one.
_WATCHED = _IN_OPEN | 0x8 | 0x10
_EVENT = struct.Struct("iIII")


@dataclasses.dataclass(frozen=True)
class Seen:
    """A process: the words of its command, and the modules that it looked for itself, in order."""

    words: tuple[str, ...]
    modules: tuple[str, ...]

    @property
    def outside(self) -> frozenset[str]:
        """The modules that are not of Python's own library, nor of this file's package."""
        ours = {*sys.stdlib_module_names, "benchmarks", "sitecustomize", "usercustomize"}
        return frozenset(name for name in self.modules if name.partition(".")[0] not in ours)


def watched(folder: Path) -> dict[str, str]:
    """Return the environment for a command whose processes write into `folder`, with ours besides."""
    site = folder / "site"
    site.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(_START, encoding="utf-8")
    path = [str(site), str(_ROOT), str(_ROOT / "platform"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, FOLDER: str(folder), "PYTHONPATH": os.pathsep.join(path)}


def seen(folder: Path) -> list[Seen]:
    """Return the processes that have written into `folder`, the first one first."""
    files = sorted(folder.glob("*.process"), key=lambda file: int(file.stem.partition("-")[0]))
    found = []
    for file in files:
        words, *modules = file.read_text(encoding="utf-8").splitlines()
        found.append(Seen(tuple(words.split("\0")), tuple(modules)))
    return found


def install() -> None:
    """Begin to write down what this process imports; Python calls this before anything of a program runs."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]  # all that it needs is find_spec
    os.register_at_fork(after_in_child=finder.begin)
    sys.addaudithook(finder.hear)


class _Finder:
    """Asked for every module first; finds none, and writes down the name."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start this process's own list."""
        path = Path(os.environ[FOLDER]) / f"{time.monotonic_ns()}-{os.getpid()}.process"
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(self.file, ("\0".join(sys.orig_argv).replace("\n", " ") + "\n").encode())
        self.works = False

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note the first function or class of Ratchet that arrives: a fork need not import what its parent has."""
        if event == "pickle.find_class" and not self.works and str(arguments[0]).partition(".")[0] == "ratchet":
            self.works = True
            self.find_spec("ratchet")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        with contextlib.suppress(OSError):  # a program may close files that it does not know
            os.write(self.file, name.encode() + b"\n")


def opened_files(folders: Sequence[Path], action: Callable[[], object]) -> int:
    """Return how often files in `folders` and below were opened while `action` ran. Raises OSError off Linux."""
    libc = ctypes.CDLL(None, use_errno=True)
    queue = libc.inotify_init1(_IN_NONBLOCK)
    if queue < 0:
        raise OSError(ctypes.get_errno(), "inotify cannot be had")
    try:
        for folder in _and_below(folders):
            if libc.inotify_add_watch(queue, os.fsencode(folder), _WATCHED) < 0:
                raise OSError(ctypes.get_errno(), f"{folder} cannot be watched")
        action()
        return sum(1 for mask in _events(queue) if mask & _IN_OPEN and not mask & _IN_ISDIR)
    finally:
        os.close(queue)


def _and_below(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (Path(place) for place, _, _ in os.walk(folder))


def _events(queue: int) -> Iterator[int]:
    """Yield the masks of the events that wait in the queue."""
    while True:
        try:
            held = os.read(queue, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(held):
            _, mask, _, length = _EVENT.unpack_from(held, at)
            yield mask
            at += _EVENT.size + length
