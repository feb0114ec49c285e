"""Progress for people: lines on standard error, bars on a terminal, and how long the rest of the work takes.

Training runs in other processes; the driver learns of it from `metrics.jsonl` alone. Where
standard error is no terminal, or `CI` is set, there is no bar, but a line every half minute.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from ratchet import redact
from ratchet.errors import CorruptError
from ratchet.store.codec import from_values
from ratchet.store.record import read_json_or_none
from ratchet.track.jsonl import Tail

LINE_SECONDS = 30.0
"""How often work that goes on is a line of a log."""

SCORING = "scoring.json"
"""The file of a step that says how many pairs its workers have scored under the model that they trained."""
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
        """Where lines go."""
        # Looked for at each line, as it may change.
        return self._stream or sys.stderr

    def say(self, text: str) -> None:
        """Write one line."""
        from tqdm import tqdm

        stream = self.stream
        # A line written under a moving bar would be overwritten by its next move.
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


def has_bar(stream: TextIO) -> bool:
    """Tell whether a bar can move there: on a terminal, unless `CI` is set."""
    return stream.isatty() and not os.environ.get("CI")


@dataclasses.dataclass(frozen=True)
class ScoredSoFar:
    """What SCORING holds: the pairs that are scored, of all that are to be; none before it is known how many."""

    done: int = 0
    total: int = 0


def read_scored(path: Path) -> ScoredSoFar:
    """Return how far the workers of a step have come with scoring. Raises CorruptError."""
    values, fix = read_json_or_none(path), "delete the file"
    return from_values(ScoredSoFar, values or {}, where=str(path), fix=fix, error=CorruptError)


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
def every(seconds: float, do: Callable[[], None], name: str) -> Iterator[None]:
    """Call `do` every so many seconds while the block runs, from a thread of that name."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(seconds):
            do()

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()  # nothing is said after the block: what follows may be the error that ended it


@contextlib.contextmanager
def line_by_line(say: Callable[[str], None], line: Callable[[], str]) -> Iterator[None]:
    """Say what `line` returns, where it returns something, every LINE_SECONDS while the block runs."""

    def look() -> None:
        if text := line():
            say(text)

    with every(LINE_SECONDS, look, "ratchet-lines"):
        yield


def _bar(stream: TextIO, label: str, counts: str, **more: Any) -> Any:
    # Imported where a bar is drawn: `ratchet check` shows none, and is quick.
    from tqdm import tqdm

    form = "{desc} {percentage:3.0f}% {bar}" + counts + "{postfix} [{elapsed}]"
    return tqdm(desc=label, leave=False, dynamic_ncols=True, bar_format=form, file=stream, **more)


class _Work:
    """What is known of the work: `done` of `total` units, and how fast it goes."""

    def __init__(self, unit: str) -> None:
        self.unit, self.done, self.total, self.pace = unit, 0, 0, Pace()

    def words(self) -> str:
        """Return where the work is; before its first unit, that its processes start."""
        if not self.pace.begun:
            return "starting processes"
        rate, left = self.pace.rate(), self.pace.left(self.total)
        told = [] if rate is None or left is None else [f"{rate:.1f} {self.unit}/s", f"{duration(left)} left"]
        return ", ".join([f"{self.done:,} of {self.total:,} {self.unit}", *told])


@contextlib.contextmanager
def counted(label: str, unit: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yield `show(done, total)`, which shows how far work has come.

    On a terminal a bar moves; else there is a line every half minute, also while nothing is done yet.
    """
    work = _Work(unit)
    # tqdm needs a total before the first unit is counted, and shows none of it: the words say how many there are.
    bar = _bar(console.stream, label, "", total=1) if has_bar(console.stream) else None

    def show(done: int, total: int) -> None:
        work.done, work.total = done, total
        work.pace.mark(done)
        if bar is not None:
            bar.total = total
            bar.set_postfix_str(work.words(), refresh=False)
            bar.update(done - bar.n)

    if bar is None:
        with line_by_line(console.say, lambda: f"{label:<20} {work.words()}"):
            yield show
        return
    with bar:
        bar.set_postfix_str(work.words())
        yield show


@contextlib.contextmanager
def under_way(label: str, what: str, console: Console) -> Iterator[None]:
    """Print every half minute that uncounted work goes on, and for how long it has."""
    began = time.monotonic()
    with line_by_line(console.say, lambda: f"{label:<20} {what}, {duration(time.monotonic() - began)} so far"):
        yield


@contextlib.contextmanager
def follow_training(metrics_path: Path, label: str, total_steps: int, console: Console) -> Iterator[None]:
    """Show the progress of a training step while the block runs; one line at its end.

    On a terminal: a bar with step of `total_steps`, loss, margin, pairs a second and time left; elsewhere a line with
    the same every half minute. Until the first step both say that workers start. `metrics_path` is followed in a
    thread, also back, where a resume cuts the file. Beside it workers say how many pairs they have scored.
    """
    follower = _Follower(Tail(metrics_path), label, total_steps, console.stream, metrics_path.with_name(SCORING))
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
    def __init__(self, tail: Tail, label: str, total: int, out: TextIO, scoring: Path) -> None:
        self._tail, self._label, self._total, self._scoring = tail, label, total, scoring
        self._line: dict[str, Any] = {}
        self._pace = Pace()
        self._bar: Any = None
        self._look()
        self._pace = Pace()  # steps of an earlier call say nothing of how fast this one is
        if has_bar(out):
            self._bar = _bar(out, label, " {n_fmt}/{total_fmt}", total=total, initial=self._line.get("step", 0))
            self._bar.set_postfix_str(_STARTING)

    @contextlib.contextmanager
    def running(self, console: Console) -> Iterator[None]:
        """Look every moment while the block runs; without a bar, say lines."""
        with every(_POLL_SECONDS, self._look, "ratchet-progress"):
            if self._bar is not None:
                yield
                return
            console.step(self._label, _STARTING)
            with line_by_line(console.say, lambda: f"{self._label:<20} {self._words()}"):
                yield

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
            scored = read_scored(self._scoring)
            return [f"{scored.done:,} of {scored.total:,} pairs scored" if scored.total else "publishing the model"]
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
