"""Progress for people: lines on standard error, and a bar that follows a metrics file.

Training runs in other processes; the driver learns of it from `metrics.jsonl` alone. Where
standard error is no terminal, or `CI` is set, there is no bar, but a line every half minute.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from ratchet import redact
from ratchet.track.jsonl import parse_metrics
from ratchet.track.pace import Pace, has_bar, line_by_line

_POLL_SECONDS = 0.25
_STARTING = "training begins"


def duration(seconds: float) -> str:
    """Return seconds as people say them: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


class Console:
    """Lines about steps, on standard error (or `stream`), above a bar where there is one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    @property
    def stream(self) -> TextIO:
        """Where lines go: standard error is looked for at each one, as it may change."""
        return self._stream or sys.stderr

    def say(self, text: str) -> None:
        """Write one line."""
        from tqdm import tqdm

        stream = self.stream
        with tqdm.external_write_mode(file=stream):
            stream.write(redact.words(text) + "\n")
            stream.flush()

    def step(self, name: str, what: str) -> None:
        """Say that a step starts, and what it does."""
        self.say(f"{name:<20} {what}")

    def done(self, name: str, facts: Mapping[str, Any], seconds: float) -> None:
        """Say that a step is done, with its figures, in the order given."""
        figures = ", ".join(f"{key} {_figure(value)}" for key, value in facts.items())
        self.say(f"{name:<20} done in {duration(seconds)}{': ' if figures else ''}{figures}")


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class Tail:
    """Reads what is new in a growing metrics file.

    A file that was cut back (it is shorter, or another file under the name) is read from its start
    again; a line that is still being written is left for the next time. Raises nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_id: tuple[int, int] | None = None
        self._offset = 0

    def last(self) -> dict[str, Any] | None:
        """Return the newest whole line that was not returned before, or None."""
        found = self.new()
        return found[-1] if found else None

    def new(self) -> list[dict[str, Any]]:
        """Return the whole lines that were not returned before, in the file's order.

        After a cut these are all that the file holds, those too that it held before the cut.
        """
        found: list[dict[str, Any]] = []
        try:
            with self._path.open("rb") as file:
                facts = os.fstat(file.fileno())
                file_id = (facts.st_dev, facts.st_ino)
                if file_id != self._file_id or facts.st_size < self._offset:
                    self._file_id, self._offset = file_id, 0
                file.seek(self._offset)
                for raw in file:
                    if (line := parse_metrics(raw)) is None:
                        break
                    found.append(line)
                    self._offset += len(raw)
        except OSError:
            pass  # not there yet, or away for a moment on a network disk: the next poll sees the rest
        return found


@contextlib.contextmanager
def follow_training(metrics_path: Path, label: str, total_steps: int, console: Console) -> Iterator[None]:
    """Show the progress of a training step while the block runs; one line at its end.

    On a terminal: a bar with step of `total_steps`, loss, margin, pairs a second and time left; elsewhere a line with
    the same every half minute. Until the first step both say that workers start. `metrics_path` is followed in a
    thread, also back, where a resume cuts the file.
    """
    follower = _Follower(Tail(metrics_path), label, total_steps, console.stream)
    started = time.monotonic()
    ended = "stopped at"
    try:
        with follower.running(console):
            yield
        ended = "ended at"
    finally:
        follower.close()
        console.say(f"{label:<20} {ended} {follower.where()}, {duration(time.monotonic() - started)}")


class _Follower:
    def __init__(self, tail: Tail, label: str, total: int, out: TextIO) -> None:
        self._tail, self._label, self._total = tail, label, total
        self._line: dict[str, Any] = {}
        self._pace = Pace()
        self._bar: Any = None
        self._look()
        self._pace = Pace()  # steps of an earlier call say nothing of how fast this one is
        if has_bar(out):
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=self._line.get("step", 0),
                desc=label,
                file=out,
                leave=False,
                dynamic_ncols=True,
                bar_format="{desc} {percentage:3.0f}% {bar} {n_fmt}/{total_fmt}{postfix} [{elapsed}]",
            )
            self._bar.set_postfix_str(_STARTING)

    @contextlib.contextmanager
    def running(self, console: Console) -> Iterator[None]:
        """Look again and again while the block runs; without a bar, say lines."""
        over = threading.Event()

        def work() -> None:
            while not over.wait(_POLL_SECONDS):
                self._look()

        thread = threading.Thread(target=work, name="ratchet-progress", daemon=True)
        thread.start()
        try:
            if self._bar is not None:
                yield
                return
            console.step(self._label, _STARTING)
            with line_by_line(console.say, lambda: f"{self._label:<20} {self._words()}"):
                yield
        finally:
            over.set()
            thread.join()

    def close(self) -> None:
        """See what came last, and take the bar away."""
        self._look()
        if self._bar is not None:
            self._bar.close()

    def where(self) -> str:
        """Return the step that training is at, with its figures."""
        return ", ".join([f"step {self._line.get('step', 0):,} of {self._total:,}", *_facts(self._line)])

    def _words(self) -> str:
        if not self._pace.begun:
            return _STARTING
        return ", ".join([self.where(), *self._rest()])

    def _rest(self) -> list[str]:
        if self._line.get("step") == self._total:
            return ["publishing the model"]
        left = self._pace.left(self._total)
        return [] if left is None else [f"{duration(left)} left"]

    def _look(self) -> None:
        line = self._tail.last()
        if line is None:
            return
        self._line = line
        self._pace.mark(line["step"])
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join([*_facts(line), *self._rest()]), refresh=False)
            self._bar.update(line["step"] - self._bar.n)
            self._bar.refresh()


def _facts(line: Mapping[str, Any]) -> list[str]:
    """Return loss, margin and pairs a second, those that the line has."""
    shown = (("loss", "loss", ".4f"), ("margin", "rewards/margins", ".3f"), ("", "pairs_per_second", ".1f"))
    found = []
    for name, key, form in shown:
        if isinstance(value := line.get(key), int | float):
            found.append(f"{name} {value:{form}}" if name else f"{value:{form}} pairs/s")
    return found
