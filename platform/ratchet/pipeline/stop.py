"""Being asked to stop: SIGTERM (`ray job stop`, Kubernetes, a batch system) and Ctrl-C.

While a model is trained the run goes on to the end of the optimiser step and saves it; all else is kept block by
block, and ends at once. Either way a call of the same command goes on. Asked a second time it ends at once.

A sweep takes the signals for its trials, which run in other processes and ask whether it was asked to stop.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from ratchet.errors import StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption(BaseException):
    """What a signal raises: no `except Exception` on its way takes it for an error of what it interrupts."""


class Stop:
    """Whether the run was asked to stop, and whether it must wait for a good moment.

    `elsewhere` says why another process wants it to, if one does: that is only remembered, as in `patiently`.
    """

    def __init__(
        self, say: Callable[[str], None] = lambda line: None, elsewhere: Callable[[], str | None] = lambda: None
    ) -> None:
        self.say, self._elsewhere = say, elsewhere
        self._why: str | None = None
        self._patient = False

    def why(self) -> str | None:
        """Return why the run should stop, in a few words, or None."""
        return self._why or self._elsewhere()

    def check(self) -> None:
        """Raise StoppedError where the run was asked to stop, and what it waited for is over."""
        if (why := self.why()) is not None:
            raise StoppedError(why, fix="run again: what was finished is kept", code="stopped.asked")

    @contextlib.contextmanager
    def patiently(self) -> Iterator[None]:
        """In here a first signal is only remembered: what runs looks at `why` and ends where it can go on.

        It may also come to its end: call `check` then, once that is recorded.
        """
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def ask(self, number: int) -> None:
        """Take a signal. Raises Interruption where nothing must be waited for."""
        again, self._why = self._why is not None, f"asked to stop by {signal.Signals(number).name}"
        if self._patient and not again:
            self.say("stopping after a checkpoint; another signal ends the run at once")
            return
        raise Interruption


@contextlib.contextmanager
def stoppable(stop: Stop) -> Iterator[None]:
    """Let signals ask `stop`. Ray takes SIGTERM for itself when it starts: `session.once_needed` gives it back.

    Only a process's main thread can take signals; elsewhere this does nothing. Raises StoppedError.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def take(number: int, frame: FrameType | None) -> None:
        # A signal may come when the block has ended, and the handlers from before are not back yet.
        if not over:
            stop.ask(number)

    over = False
    before: dict[signal.Signals, Any] = {number: signal.signal(number, take) for number in SIGNALS}
    try:
        yield
    except BaseException as error:
        if not _interrupted(error):
            raise
        # This raises: who raised the Interruption has said why before.
        stop.check()
    finally:
        over = True
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupted(error: BaseException) -> bool:
    """Tell whether it is an Interruption, or in a group of errors: from asynchronous work it comes in one."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(Interruption) is not None
    return isinstance(error, Interruption)
