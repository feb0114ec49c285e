"""What may happen to a training step: each event's code, what it means, and whether a reader of the figures must know.

Readers and tests match on `code` and the fields of an event. `what` is a sentence for people, and may change.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import DataError
from ratchet.store.codec import from_values, to_values
from ratchet.store.files import storage_errors
from ratchet.store.record import now

NAME = "events.jsonl"
"""In a step's folder, in the order in which they happened."""

Code = typing.Literal[
    "group-began",
    "group-went-on",
    "group-ended",
    "adapters-reach",
    "worker-failed",
    "budget-found",
    "budget-halved",
    "checkpoint-damaged",
    "checkpoint-unfinished",
    "step-skipped",
    "uncoded",
]


@dataclasses.dataclass(frozen=True)
class EventKind:
    """What an event means; `must_know` puts it among the warnings of the run's page."""

    meaning: str
    must_know: bool


EVENTS: Mapping[Code, EventKind] = {
    "group-began": EventKind("a group of workers began the step from its start model", must_know=False),
    "group-went-on": EventKind("a group of workers went on from a checkpoint", must_know=False),
    "group-ended": EventKind("a group of workers saved and ended, because it was asked to", must_know=False),
    "adapters-reach": EventKind("adapters were put on the model, on this share of its parameters", must_know=False),
    "worker-failed": EventKind("a worker failed; its group ends with it", must_know=False),
    "budget-found": EventKind("the tokens of a pass were found by trying", must_know=False),
    "budget-halved": EventKind("memory ran out, and passes are half as large from there on", must_know=True),
    "checkpoint-damaged": EventKind("a checkpoint failed its check and was set aside", must_know=True),
    "checkpoint-unfinished": EventKind("a checkpoint that was never finished was removed", must_know=False),
    "step-skipped": EventKind("an update was left out, because a number in it was not finite", must_know=True),
    "uncoded": EventKind("a line of a version that wrote no codes, in words that this version does not know", False),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """One line of events.jsonl. A field that says nothing of its kind of event is None.

    `at` is UTC, ISO 8601; `step` an optimiser step, `attempt` a group of workers, `workers` how many it has, `worker`
    one of them by its rank, `checkpoint` the name of a folder.
    """

    at: str = ""
    code: Code
    what: str
    step: int | None = None
    attempt: str | None = None
    workers: int | None = None
    worker: int | None = None
    checkpoint: str | None = None


_OLD: tuple[tuple[Code, re.Pattern[str]], ...] = (
    ("group-began", re.compile(r"(?P<workers>\d+) workers? \((?P<attempt>.*)\) began")),
    ("group-went-on", re.compile(r"(?P<workers>\d+) workers? \((?P<attempt>.*)\) went on after step (?P<step>\d+)")),
    ("group-ended", re.compile(r"training ended after step (?P<step>\d+): ")),
    ("worker-failed", re.compile(r"worker (?P<worker>\d+) of (?P<workers>\d+) failed: ")),
    ("checkpoint-damaged", re.compile(r"(?P<checkpoint>step-\d+) failed its check")),
    ("checkpoint-unfinished", re.compile(r"(?P<checkpoint>\S+) was never finished")),
    ("step-skipped", re.compile(r"step (?P<step>\d+) was skipped: ")),
)
"""The sentences of the versions that wrote no codes. Files on disk do not change any more, so these do not either."""


def read_event(values: Any) -> Event:
    """Return an event from a line of events.jsonl, or from a step's record.

    A version without codes wrote a sentence: it gets its code here, and `uncoded` where nothing fits.
    Raises DataError where it is neither.
    """
    if isinstance(values, str):
        values = {"what": values}
    if isinstance(values, dict) and "code" not in values and isinstance(values.get("what"), str):
        values = {**values, **_coded(values["what"])}
    if isinstance(values, dict) and isinstance(code := values.get("code"), str) and code not in EVENTS:
        values = {**values, "code": "uncoded"}  # of a later version
    return from_values(Event, values, where="events.jsonl", fix="leave the line out")


def _coded(what: str) -> dict[str, Any]:
    for code, pattern in _OLD:
        if found := pattern.match(what):
            numbers = {"step", "workers", "worker"}
            return {"code": code} | {
                key: int(text) if key in numbers else text for key, text in found.groupdict().items()
            }
    return {"code": "uncoded"}


def read_events(lines: typing.Iterable[Any]) -> tuple[Event, ...]:
    """Return the events of a step's record."""
    return tuple(map(read_event, lines))


def write_event(step_folder: Path, event: Event) -> None:
    """Add a line; several processes may. Raises StorageError."""
    path = step_folder / NAME
    values = to_values(dataclasses.replace(event, at=now()))
    line = json.dumps({key: value for key, value in values.items() if value is not None})
    with storage_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            # In one write, so that the lines of several processes do not mix.
            os.write(handle, f"{line}\n".encode())
        finally:
            os.close(handle)


def events_of(step_folder: Path) -> list[Event]:
    """Return the events of a step, oldest first, from its whole lines."""
    try:
        # What follows the last newline was cut short by a kill.
        lines = (step_folder / NAME).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return list(_parsed(lines))


def _parsed(lines: list[str]) -> Iterator[Event]:
    for line in lines:
        try:
            yield read_event(json.loads(line))
        except (ValueError, DataError):
            continue
