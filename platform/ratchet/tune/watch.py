"""Follow what the steps of a trial write, whichever trial trains them, and hand each line on once.

Training runs in other processes, and another trial's workers may train a step that trials share. What all of them have
is the step's metrics.jsonl. A thread reads it as it grows.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet.track.jsonl import NAME, Tail

_POLL_SECONDS = 0.25
_log = logging.getLogger(__name__)

Listener = Callable[[str, Mapping[str, Any]], None]
"""Takes a step's name and one line of its metrics."""


class TrialStop(Exception):  # noqa: N818  nothing went wrong: a scheduler wants no more of this trial
    """Raised by a listener to end the trial, with the reason; raised again where the trial is driven."""


class Watch:
    """Hands the lines of a trial's steps to listeners, as long as the block `with watch(step, folder)` lasts.

    Each line is handed on once, in order. After a resume has cut the file back, lines are passed
    over up to the highest step that was handed on. Listeners are called in a thread of the watch
    (at the end of a block: in that of the block), never two at a time.

    A listener that raises TrialStop ends the trial: `check` raises the stop in the driver's own thread. So does the end
    of the block, whatever else came of it. A listener that raises anything else is logged and called no more; training
    and the other listeners go on, and `close` raises its error. So nothing that a listener does ends training but a
    TrialStop, and nothing is lost.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = list(listeners)
        self._lock = threading.Lock()
        self._stop: TrialStop | None = None
        self._errors: list[Exception] = []

    @contextlib.contextmanager
    def __call__(self, step: str, folder: Path) -> Iterator[None]:
        """Follow `folder`/metrics.jsonl while the block makes, awaits or finds the step.

        The folder, a link to it and the file may come later, or never. Raises TrialStop at the end
        of the block, in place of the block's own error, which is its cause.
        """
        file = _Followed(step, folder / NAME)
        over = threading.Event()
        thread = threading.Thread(target=self._follow, args=(file, over), name="ratchet-watch", daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            self._end(file, over, thread)
            if self._stop is not None:
                raise self._stop from error
            raise
        self._end(file, over, thread)
        self.check()

    def check(self) -> None:
        """Raise TrialStop where a listener has asked for the end of the trial."""
        if self._stop is not None:
            raise self._stop

    def close(self) -> None:
        """Raise the first error of a listener, once the trial's own work is done and recorded."""
        if self._errors:
            raise self._errors[0]

    def _follow(self, file: _Followed, over: threading.Event) -> None:
        while not over.wait(_POLL_SECONDS):
            self._hand_on(file)

    def _end(self, file: _Followed, over: threading.Event, thread: threading.Thread) -> None:
        over.set()
        thread.join()
        # A resume may have cut the file back and written it again: from its start, lines known are passed over.
        file.afresh()
        self._hand_on(file)

    def _hand_on(self, file: _Followed) -> None:
        for line in file.new():
            for listener in tuple(self._listeners):  # a copy, as one that fails is taken out
                with self._lock:
                    if not self._guard(functools.partial(listener, file.step, line), file.step):
                        self._listeners.remove(listener)

    def _guard(self, call: Callable[[], None], step: str) -> bool:
        """Whether a call came back; what it raised instead is kept."""
        try:
            call()
        except TrialStop as stop:
            self._stop = self._stop or stop
        except Exception as error:
            self._errors.append(error)
            _log.exception("what follows step %s failed; training goes on without it", step)
        else:
            return True
        return False


class _Followed:
    """One step's metrics, with the highest step that was handed on."""

    def __init__(self, step: str, path: Path) -> None:
        self.step = step
        self._path = path
        self._tail = Tail(path)
        self._highest = 0

    def afresh(self) -> None:
        """Read from the start of the file the next time, however it came to be what it is."""
        self._tail = Tail(self._path)

    def new(self) -> Iterator[Mapping[str, Any]]:
        for line in self._tail.new():
            if line["step"] > self._highest:
                self._highest = line["step"]
                yield line
