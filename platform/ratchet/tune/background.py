"""What goes on beside a sweep: its time, and its page."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ratchet.errors import RatchetError
from ratchet.store.files import write_json
from ratchet.store.record import now, read_json_or_none

# What a kill takes from the hours that a budget counts.
_TICK_SECONDS = 30.0
_log = logging.getLogger(__name__)


class _Thread:
    """A thread that works for as long as a `with` lasts."""

    def __init__(self) -> None:
        self._over, self._asked = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"ratchet-{type(self).__name__.lower()}", daemon=True)

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Both: who waits to be asked looks only then whether it is over.
        self._over.set()
        self._asked.set()
        self._thread.join()

    def _work(self) -> None:
        raise NotImplementedError


class Clock(_Thread):
    """How long all calls have worked on a sweep, in seconds; kept in a file, which is half a minute old at most."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self._start = path, time.monotonic()
        self._calls: list[dict[str, Any]] = read_json_or_none(path) or []
        self.before = float(sum(call["seconds"] for call in self._calls))
        self._calls.append({"started": now(), "seconds": 0.0})

    @property
    def seconds(self) -> float:
        """Seconds of all calls until now."""
        return self.before + round(time.monotonic() - self._start, 1)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(kind, error, at)
        self._write()

    def _work(self) -> None:
        while not self._over.is_set():
            self._write()
            self._over.wait(_TICK_SECONDS)

    def _write(self) -> None:
        self._calls[-1]["seconds"] = self.seconds - self.before
        try:
            write_json(self.path, self._calls)
        except RatchetError as error:  # a full disk: what the trials write says so as well, and they matter
            _log.warning("%s", error)


class Pages(_Thread):
    """Writes a sweep's page when it is asked to, one at a time, while trials go on."""

    def __init__(self, write: Callable[[], object]) -> None:
        super().__init__()
        self._write = write

    def ask(self) -> None:
        """Ask for a page that shows what is known now."""
        self._asked.set()

    def _work(self) -> None:
        while True:
            self._asked.wait()
            # Before the work: what is asked for meanwhile is another page.
            self._asked.clear()
            if self._over.is_set():  # the last page is written by who waits for it
                return
            try:
                self._write()
            except Exception:  # the last page raises it again, once the trials have ended
                _log.exception("the sweep's page could not be written")
