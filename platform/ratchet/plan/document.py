"""Documents: plain values, the place of every key, and problems that name both."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ratchet.errors import PlanError

SET = "--set"
KeyPath = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a key stands: a file and a line from 1, or `--set`. `written` is a scalar as it was typed.

    `under` is the key of another file under which a document's own key stands there, as in `keys.stages.align.beta`.
    """

    file: str
    line: int
    written: str | None = None
    under: str = ""

    def __str__(self) -> str:
        return self.file if self.file == SET else f"{self.file}:{self.line}"


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, with which dotted key, and what."""

    place: Place
    key: str
    what: str

    def __str__(self) -> str:
        key = f"{self.place.under}.{self.key}" if self.place.under else self.key
        place = f"{SET} {key}".rstrip() if self.place.file == SET else f"{self.place}: {key}".rstrip(": ")
        return f"{place}: {self.what}"


@dataclasses.dataclass(frozen=True)
class Document:
    """A YAML file as plain values, the place of every key, and what reading it already found wrong."""

    file: str
    data: Any
    places: Mapping[KeyPath, Place]
    problems: tuple[Problem, ...] = ()

    def place(self, path: KeyPath) -> Place:
        """Return the place of `path`, or of the nearest key around it."""
        # A missing key has no line, so its problem is shown at the key around it.
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(self.file, 1))

    def problem(self, path: KeyPath, what: str) -> Problem:
        """Return a problem at `path`."""
        return Problem(self.place(path), dotted(path), what)


def dotted(path: KeyPath) -> str:
    """Return a path as people write it: `stages.align.data[1]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # A key with dots or spaces is quoted, else it would read as several keys. A hostile one may be very long.
            plain = re.fullmatch(r"[\w<-]{1,60}(\.[\w<-]{1,60})*", part) is not None
            text += ("." if text else "") + (part if plain else shorten(json.dumps(part)))
    return text


def shorten(text: str, most: int = 60) -> str:
    """Return `text` on one line, with its end cut off where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def fail(problems: Iterable[Problem]) -> None:
    """Raise a PlanError with one line for each problem; do nothing where there are none.

    The lines of each file come in order; files in the order in which they first appear, and
    `--set` after them.
    """
    # Two checks may find the same fault.
    found = list(dict.fromkeys(problems))
    if not found:
        return
    files = list(dict.fromkeys(problem.place.file for problem in found))
    files.sort(key=lambda file: file == SET)
    found.sort(key=lambda problem: (files.index(problem.place.file), problem.place.line))
    raise PlanError("\n".join(map(str, found)))
