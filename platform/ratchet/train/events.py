"""What befell a training step, in the order it happened: `events.jsonl` in its folder.

Worker groups that began and ended, checkpoints that were set aside, steps that were skipped, nodes that went.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ratchet.store.files import storage_errors
from ratchet.store.record import now

NAME = "events.jsonl"


def note(step_folder: Path, what: str) -> None:
    """Add a line. Several processes may: a line is one write at the end of the file. Raises StorageError."""
    path = step_folder / NAME
    with storage_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, (json.dumps({"at": now(), "what": what}) + "\n").encode())
        finally:
            os.close(handle)


def noted(step_folder: Path) -> list[str]:
    """Return what was noted, oldest first; a line that a kill cut short is left out."""
    try:
        lines = (step_folder / NAME).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [found["what"] for line in lines if (found := _parsed(line)) is not None]


def _parsed(line: str) -> dict[str, str] | None:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError):
        return None
