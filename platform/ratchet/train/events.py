"""The events of a training step, in the order in which they happened: `events.jsonl` in its folder.

`documents.events` says which there are, what they mean, and how older lines are read.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ratchet.documents.events import Event, read_event
from ratchet.errors import DataError
from ratchet.store.codec import to_values
from ratchet.store.files import storage_errors
from ratchet.store.record import now

NAME = "events.jsonl"


def write_event(step_folder: Path, event: Event) -> None:
    """Add a line. Several processes may: a line is one write at the end of the file. Raises StorageError."""
    path = step_folder / NAME
    values = to_values(dataclasses.replace(event, at=now()))
    line = json.dumps({key: value for key, value in values.items() if value is not None})
    with storage_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, f"{line}\n".encode())
        finally:
            os.close(handle)


def events_of(step_folder: Path) -> list[Event]:
    """Return the events of a step, oldest first; a line that a kill cut short is left out."""
    try:
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
