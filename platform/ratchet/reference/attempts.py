"""How often a block was begun and not finished: what keeps a block that kills its process from killing forever.

The count stands beside the block's file while it is computed. It is of one pass: a run that a person
stops and starts again begins at none.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from ratchet.store.files import write_text

MOST = 2
"""Processes that may die over one block."""


@contextlib.contextmanager
def attempt(work: Path, run: str) -> Iterator[int]:
    """Note beside `work` that it is begun in the pass named `run`; yield how often it was before.

    The note goes away with any end but the death of the process. Raises StorageError.
    """
    path = work.with_suffix(".begun")
    before = _count(path, run)
    write_text(path, json.dumps({"run": run, "count": before + 1}) + "\n")
    try:
        yield before
    finally:
        path.unlink(missing_ok=True)


def _count(path: Path, run: str) -> int:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 0
    return int(found["count"]) if found["run"] == run else 0
