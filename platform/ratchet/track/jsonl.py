"""Metrics as JSON lines: `metrics.jsonl`, written always, and the source of every other view; wandb beside it.

Only JSON lines can stop training (a full disk); wandb never does. A value that is not finite is written as null:
JSON has no NaN, and a reader must see that the step ran and the number did not exist.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ratchet.store.files import storage_errors, write_bytes

NAME = "metrics.jsonl"
_log = logging.getLogger(__name__)


def finite(value: Any) -> Any:
    """Return `value` as a plain int or float, or None where it is not finite."""
    if isinstance(value, bool | int):
        return int(value)  # a count of tokens may be above 2^53, which a float rounds
    number = float(value)
    return number if math.isfinite(number) else None


def metrics_line(step: int, metrics: Mapping[str, float]) -> str:
    """Return one line of `metrics.jsonl`, newline included: `step` first, then the metrics."""
    line = {"step": step, **{key: finite(value) for key, value in metrics.items() if key != "step"}}
    return json.dumps(line, allow_nan=False) + "\n"


def parse_metrics(raw: bytes) -> dict[str, Any] | None:
    """Return one line as a mapping, or None where it is torn: cut short, or never fully written."""
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
    except ValueError:  # also UnicodeDecodeError: a power cut can leave zeros or half a character
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file up to the first torn one; an absent file has none."""
    return [line for line, _ in _whole_lines(path)]


def _whole_lines(path: Path) -> list[tuple[dict[str, Any], bytes]]:
    found: list[tuple[dict[str, Any], bytes]] = []
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return found
    with file:
        for raw in file:
            if (line := parse_metrics(raw)) is None:
                break
            found.append((line, raw))
    return found


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


class JsonLines:
    """Appends to one metrics file, a line a step.

    Opening cuts the file back to lines whose step is at most `resume_step` (0: a new start), whole
    or not at all. Each line is flushed to the system, so a killed process loses none; no fsync, so
    a power cut may lose the last ones, which the next opening cuts back anyway. Raises StorageError.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        lines = _whole_lines(path)
        kept = [(line, raw) for line, raw in lines if line["step"] <= resume_step]
        last = kept[-1][0]["step"] if kept else 0
        if last < resume_step:
            _log.warning("%s: the metrics of steps %d to %d were lost", path, last + 1, resume_step)
        # Written again and renamed, not truncated: a reader with the old file open sees whole lines to its end.
        write_bytes(path, b"".join(raw for _, raw in kept))
        with storage_errors(path):
            self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line. Raises StorageError where the disk is full."""
        with storage_errors(self.path):
            self._file.write(metrics_line(step, metrics))
            self._file.flush()

    def summary(self, values: Mapping[str, Any]) -> None:
        """Write nothing: what a step ends with stands in its record."""

    def close(self) -> None:
        with storage_errors(self.path):
            self._file.close()


class Tracker(Protocol):
    """What the training loop knows of tracking."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one optimiser step (from 1, rising)."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Take the figures that a finished step is known by."""

    def close(self) -> None:
        """Close files and connections. Nothing is logged after it."""


class _Several:
    def __init__(self, trackers: tuple[Tracker, ...]) -> None:
        self._trackers = trackers

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def summary(self, values: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.summary(values)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def open_tracker(folder: Path, settings: Mapping[str, Any] | None, resume_step: int) -> Tracker:
    """Open the trackers of one training step in `folder`; `resume_step` is 0 on a new start.

    `metrics.jsonl` is cut back to lines with step ≤ `resume_step`. `settings` may have one key,
    `wandb`: the fields of `track.wandb.WandbRun`. Raises StorageError for JSON lines; for wandb nothing.
    """
    lines = JsonLines(folder / NAME, resume_step)
    if not (settings and settings.get("wandb")):
        return lines
    from ratchet.track.wandb import WandbRun, WandbTracker

    return _Several((lines, WandbTracker(WandbRun(**{"folder": str(folder), **settings["wandb"]}))))
