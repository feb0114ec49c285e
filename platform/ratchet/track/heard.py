"""The driver's side of warnings: what any process of a run logs becomes one line on the terminal, as it comes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ratchet.store import warned
from ratchet.store.record import now
from ratchet.track.progress import every

_LOOK_SECONDS = 1.0


class Heard:
    """Says each warning once, however many processes log it.

    `folders` are patterns below `folder` of the run folders to follow: `.` is itself, `trials/*` a sweep's trials.
    Warnings of earlier calls, which the folders hold already, are not printed again.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], folders: Iterable[str] = (".",)) -> None:
        self._folder, self._say = folder.absolute(), say
        self._runs, self._began = tuple(folders), now()
        self._said: set[str] = set()
        self._offsets: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._news()

    def say(self, texts: Iterable[str]) -> None:
        """Print warnings that were not printed yet."""
        with self._lock:
            for text in texts:
                if text not in self._said:
                    self._said.add(text)
                    self._say(f"warning: {text}")

    def look(self) -> None:
        """Say what is new."""
        self.say(self._news())

    def on_page(self, texts: Iterable[str]) -> list[str]:
        """Print warnings that were not printed yet; return them for a page, with those that processes logged."""
        found = list(texts)
        self.say(found)
        return warned.on_page(found, self._folder, self._began, self._runs)

    @contextlib.contextmanager
    def all(self) -> Iterator[None]:
        """Send this process's own warnings there too while the block runs; what is new at its end is printed."""
        with warned.sent(self._folder):
            try:
                yield
            finally:
                self.look()

    @contextlib.contextmanager
    def meanwhile(self) -> Iterator[None]:
        """Look again and again, in a thread, while the block runs."""
        try:
            with every(_LOOK_SECONDS, self.look, "ratchet-warnings"):
                yield
        finally:
            self.look()

    def _news(self) -> list[str]:
        found: list[str] = []
        for path in warned.files(self._folder, self._runs):
            with contextlib.suppress(OSError), path.open("rb") as file:  # away for a moment: the next look sees it
                file.seek(self._offsets.get(path, 0))
                for raw in file:
                    if not raw.endswith(b"\n"):
                        break
                    self._offsets[path] = self._offsets.get(path, 0) + len(raw)
                    if (one := warned.parse_warning(raw)) is not None:
                        found.append(one.what)
        return found
