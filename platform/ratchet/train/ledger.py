"""The ledger: which rows each step trained on, and the proof that no pair was lost or seen twice."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ratchet.errors import CorruptError, TrainingError
from ratchet.store.files import storage_errors, write_text
from ratchet.train.batches import Course, GlobalBatch

NAME = "ledger.jsonl"


class Ledger:
    """Appends to one ledger, a line a step.

    Opening cuts it back to `resume_step` by rename, so a stale worker that still holds the old file
    writes into nothing. Raises CorruptError where a line up to `resume_step` is absent or broken.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        self.path = path
        kept = [line for line in _lines(path) if line["step"] <= resume_step]
        if [line["step"] for line in kept] != list(range(1, resume_step + 1)):
            raise CorruptError(
                f"the ledger does not hold steps 1 to {resume_step}",
                where=str(path),
                fix="start this step over with --fresh: its data order cannot be proved",
                code="corrupt.ledger",
            )
        write_text(path, "".join(_text(line) for line in kept))
        with storage_errors(path):
            self._file = path.open("a", encoding="utf-8")

    def append(self, batch: GlobalBatch) -> None:
        """Add one step's line. Raises StorageError."""
        with storage_errors(self.path):
            self._file.write(_text({"step": batch.step, "epoch": batch.epoch, "rows": batch.rows.tolist()}))
            self._file.flush()

    def make_durable(self) -> None:
        """Fsync. Raises StorageError."""
        with storage_errors(self.path):
            # So that the ledger never holds less than a committed checkpoint.
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        with storage_errors(self.path):
            self._file.close()


def prove_ledger(path: Path, course: Course) -> dict[str, int]:
    """Check that each whole epoch has each row exactly once, a part of one at most once; return counts.

    Raises TrainingError with the first step or rows that are wrong.
    """
    steps = [line["step"] for line in _lines(path)]
    if steps != list(range(1, course.total_steps + 1)):
        raise _unproved(
            path, f"it holds {len(steps)} steps and {course.total_steps} were trained, or their order is off"
        )
    seen = 0
    for epoch, lines in itertools.groupby(_lines(path), key=lambda line: int(line["epoch"])):
        counts = np.zeros(course.rows, dtype=np.int32)
        for line in lines:
            rows = np.array(line["rows"], dtype=np.int64)
            if ((rows < 0) | (rows >= course.rows)).any():
                raise _unproved(path, f"epoch {epoch} has a row outside the table of {course.rows}")
            np.add.at(counts, rows, 1)
        if (counts > 1).any():
            raise _unproved(path, f"epoch {epoch} saw {int((counts > 1).sum())} rows twice, first {counts.argmax()}")
        # An epoch that max_steps cuts off may lack rows; every other one may not, the last included.
        whole = epoch * course.steps_per_epoch <= course.total_steps
        if whole and (counts == 0).any():
            raise _unproved(path, f"epoch {epoch} missed {int((counts == 0).sum())} rows, first {counts.argmin()}")
        seen += int(counts.sum())
    return {"steps": len(steps), "pairs_seen": seen, "pairs": course.rows, "epochs": course.epochs}


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":")) + "\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    texts = path.read_text(encoding="utf-8").split("\n")
    for number, text in enumerate(texts[:-1], 1):  # what follows the last newline was cut short
        try:
            yield json.loads(text)
        except ValueError as error:
            raise CorruptError(
                f"not a line of a ledger: {error}", where=f"{path}:{number}", fix="start this step over with --fresh"
            ) from error


def _unproved(path: Path, what: str) -> TrainingError:
    return TrainingError(
        f"the ledger does not prove that each pair was seen once an epoch: {what}",
        where=str(path),
        fix="start this step over with --fresh; if it happens again, please report it",
        code="training.ledger",
    )
