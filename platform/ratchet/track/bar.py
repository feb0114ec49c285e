"""Work that is counted in this process: a bar on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from ratchet.track.pace import Pace, has_bar, line_by_line
from ratchet.track.progress import Console, duration


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
    if not has_bar(console.stream):

        def note(done: int, total: int) -> None:
            work.done, work.total = done, total
            work.pace.mark(done)

        with line_by_line(console.say, lambda: f"{label:<20} {work.words()}"):
            yield note
        return
    from tqdm import tqdm

    form = "{desc} {percentage:3.0f}% {bar}{postfix} [{elapsed}]"
    with tqdm(desc=label, leave=False, dynamic_ncols=True, bar_format=form, file=console.stream, total=1) as bar:
        bar.set_postfix_str(work.words())

        def show(done: int, total: int) -> None:
            work.done, work.total, bar.total = done, total, total
            work.pace.mark(done)
            bar.set_postfix_str(work.words(), refresh=False)
            bar.update(done - bar.n)

        yield show


@contextlib.contextmanager
def under_way(label: str, what: str, console: Console) -> Iterator[None]:
    """Print every half minute that uncounted work goes on, and for how long it has."""
    began = time.monotonic()
    with line_by_line(console.say, lambda: f"{label:<20} {what}, {duration(time.monotonic() - began)} so far"):
        yield
