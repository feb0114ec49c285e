"""Warnings that reach a person, whichever process logs them.

    <run folder>/warnings/<host>-<pid>.jsonl      a line for each warning that a process logged, once

Ray keeps the logs of its workers to itself. So what code of ours logs, at the level of a warning or above, is appended
to a file in the folder of the run. Each process has a file of its own, as appending to a common one is not safe on
network disks. The driver follows the folder (`track.heard`); pages list what it holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ratchet import redact
from ratchet.store.record import now

FOLDER = "warnings"


@dataclasses.dataclass(frozen=True)
class Warned:
    """One warning: when (UTC, ISO 8601), and what."""

    at: str
    what: str


class _Handler(logging.Handler):
    """Appends each warning to this process's file, or writes it to standard error where no folder was named."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.folder: Path | None = None
        self._said: set[tuple[Path | None, str]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        what = _text(record)
        if (self.folder, what) in self._said:
            return
        self._said.add((self.folder, what))
        if self.folder is not None:
            try:
                _append(self.folder, what)
            except OSError:  # a full disk must not take the warning away too
                self.folder = None
            else:
                return
        sys.stderr.write(f"warning: {what}\n")
        sys.stderr.flush()


_handler = _Handler()


def send(folder: str | None) -> None:
    """From now on this process's warnings go into a run's folder; None: to standard error.

    A process that works for the driver calls it with what `destination` returned in the driver.
    """
    # Ours and not the root: what other libraries log is not for the page.
    logger = logging.getLogger("ratchet")
    if _handler not in logger.handlers:
        logger.addHandler(_handler)
    _handler.folder = None if folder is None else Path(folder)


def destination() -> str | None:
    """Return the folder that this process's warnings go to, for the processes that work for it."""
    return None if _handler.folder is None else str(_handler.folder)


@contextlib.contextmanager
def sent(folder: Path) -> Iterator[None]:
    """Send this process's warnings into a run's folder while the block runs."""
    before = destination()
    send(str(folder.absolute()))
    try:
        yield
    finally:
        send(before)


def files(folder: Path, runs: Iterable[str] = (".",)) -> list[Path]:
    """Return the files of warnings below `folder`, of the run folders that match patterns: `.` is itself."""
    return sorted(path for one in runs for path in folder.glob(f"{one}/{FOLDER}/*.jsonl".removeprefix("./")))


def on_page(texts: Iterable[str], folder: Path, since: str = "", runs: Iterable[str] = (".",)) -> list[str]:
    """Return what a page says: `texts`, then the warnings of all processes, each once, oldest first.

    One that was last logged before `since` (UTC, ISO 8601), so by an earlier call, has its day behind it.
    """
    latest = {one.what: one.at for one in warnings_in(folder, runs)}
    found = list(dict.fromkeys(texts))
    for what, at in latest.items():
        if what not in found:
            found.append(what if at >= since else f"{what} ({at[:10]})")
    return found


def warnings_in(folder: Path, runs: Iterable[str] = (".",)) -> list[Warned]:
    """Return the warnings of all processes of a run, oldest first; a line that a kill cut short is left out."""
    lines = [raw for path in files(folder, runs) for raw in path.read_bytes().split(b"\n")[:-1]]
    return sorted((one for raw in lines if (one := parse_warning(raw)) is not None), key=lambda one: one.at)


def parse_warning(raw: bytes) -> Warned | None:
    """Return the warning of one line, or None where it is no whole one."""
    try:
        line = json.loads(raw)
        return Warned(str(line["at"]), str(line["what"]))
    except (ValueError, TypeError, KeyError):
        return None


def _text(record: logging.LogRecord) -> str:
    """Return what a record says, on one line, without secrets; an error that it carries by kind and first line."""
    what = " ".join(record.getMessage().split())
    if record.exc_info and (error := record.exc_info[1]) is not None:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        what = f"{what}: {type(error).__name__}: {first}"
    return redact.words(what)


def _append(folder: Path, what: str) -> None:
    path = folder / FOLDER / f"{socket.gethostname()}-{os.getpid()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        # In one write, so that the lines of several threads do not mix.
        os.write(handle, (json.dumps(dataclasses.asdict(Warned(now(), what)), ensure_ascii=False) + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)
