"""How fast counted work goes on, and a line about it every half minute where there is no terminal to watch a bar on."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

LINE_SECONDS = 30.0
"""How often work that goes on is a line of a log."""


def has_bar(stream: TextIO) -> bool:
    """Tell whether a bar can move there: on a terminal, unless `CI` is set."""
    return stream.isatty() and not os.environ.get("CI")


class Pace:
    """How long the rest of counted work takes, by the units seen so far.

    The first unit that is seen is where the clock begins: what comes before it, such as the start of processes, is
    no part of a unit's time. Where less is done than before, as after a restart, it begins again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None
        self._last = (0, 0.0)

    @property
    def begun(self) -> bool:
        """Whether a unit was seen."""
        return self._first is not None

    def mark(self, done: int) -> None:
        """Take note that so many units are done."""
        if self._first is None or done < self._last[0]:
            self._first = (done, self._clock())
        self._last = (done, self._clock())

    def rate(self) -> float | None:
        """Return the units of a second, or None where too few were seen to tell."""
        if self._first is None or self._last[0] <= self._first[0] or self._last[1] <= self._first[1]:
            return None
        return (self._last[0] - self._first[0]) / (self._last[1] - self._first[1])

    def left(self, total: int) -> float | None:
        """Return the seconds that the rest of `total` units takes, or None where that is unknown."""
        rate = self.rate()
        return None if rate is None else max(0.0, (total - self._last[0]) / rate - (self._clock() - self._last[1]))


@contextlib.contextmanager
def line_by_line(say: Callable[[str], None], line: Callable[[], str]) -> Iterator[None]:
    """Say what `line` returns, where it returns something, every LINE_SECONDS while the block runs, from a thread."""
    over = threading.Event()

    def follow() -> None:
        while not over.wait(LINE_SECONDS):
            if text := line():
                say(text)

    thread = threading.Thread(target=follow, name="ratchet-lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
