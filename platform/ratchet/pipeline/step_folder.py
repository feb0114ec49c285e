"""The folder of a step: whether it is as it was written, and where it lies when trials share it.

A finished step that is not as it was written is put aside and made again. Steps of a sweep's trials lie in the store,
where every run that has them finds them.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import CorruptError
from ratchet.reference.models import MASTERS, MASTERS_FILE
from ratchet.store.files import storage_errors
from ratchet.store.record import Entry, Record, examine_folder, faults, put_aside, read_record, write_record
from ratchet.track.progress import SCORING

IDENTITY, REFERENCE, ROWS = "identity.json", "reference.json", "rows.npy"
SHOWN = {"ledger.jsonl", "metrics.jsonl"}
"""Files that only pages read: they are held against the record when they are read, and cost no training."""
_GONE = "a damaged step began with its float32 masters, which are gone"
_FILES = (IDENTITY, REFERENCE, ROWS, *SHOWN, "model", "adapter")
_log = logging.getLogger(__name__)


def write_step_record(folder: Path, record: Record) -> None:
    """Write a step's record, with the files that its model is made of and that tell of it. Raises StorageError."""
    write_record(folder, record, _FILES)


def step_faults(folder: Path) -> list[str]:
    """Return what is wrong with a finished step, in words; none where nothing is, or it is not finished."""
    try:
        record = read_record(folder)
    except CorruptError as error:
        return [f"record.json: {error.what}"]
    if record is None:
        return []
    files = {name: entry for name, entry in record.files.items() if name not in SHOWN}
    return faults(folder, {**files, **masters_files(folder, record)})


def masters_files(folder: Path, record: Record) -> dict[str, Entry]:
    """Return the float32 masters that a finished step left, as long as they are there: they may go."""
    masters, name = masters_of(record), f"{MASTERS}/{MASTERS_FILE}"
    there = masters is not None and (folder / name).exists()
    return {name: (masters["bytes"], masters["sha256"])} if masters is not None and there else {}


def masters_of(record: Record) -> Mapping[str, Any] | None:
    """Return the size and digest of the masters that a finished step left, or None where no step needed any."""
    training: Mapping[str, Any] = record.facts.get("training") or {}
    found: Mapping[str, Any] | None = (training.get("published") or {}).get("masters")
    return found


def clear_step(folder: Path, damaged: Path, *, wanted: bool = False) -> None:
    """Put a finished step aside, into the folder `damaged`, where it is not as it was written; a warning names it.

    So too one that is `wanted` again for its masters, which are gone.
    Of a link only the link goes: what it leads to is the store's, whose maker holds a lease. Raises StorageError.
    """
    wrong = step_faults(folder)
    if not (wrong or wanted):
        return
    what = f"is damaged ({'; '.join(wrong)})" if wrong else f"is needed again ({_GONE})"
    if folder.is_symlink():
        _log.warning("%s %s: the step is made again beside it", folder.resolve(), what)
        folder.unlink()
    else:
        aside = put_aside(folder, damaged)
        _log.warning("%s %s: it was put aside as %s, and the step is made again", folder, what, aside)


def unchanged(path: Path) -> bool:
    """Whether a file of a step may be shown: its step is not finished, or has it as it was written; else it warns."""
    found = examine_folder(path.parent) if (path.parent / "record.json").exists() else []
    wrong = [] if isinstance(found, Record) else [fault for fault in found if fault.startswith(f"{path.name} ")]
    if wrong:
        _log.warning("%s is damaged: what it holds is left out (%s)", path, wrong[0])
    return not wrong


def link_step(folder: Path, home: Path) -> None:
    """Make `folder` a link to `home`, which is made if need be; a link that leads elsewhere is replaced.

    The link is relative, so that the storage may move. Raises StorageError.
    """
    target = Path(os.path.relpath(home, folder.parent))
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    with storage_errors(folder):
        home.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.is_symlink() or folder.readlink() != target:
            # No link can be made over another one, but a rename replaces it: others see the old or the new.
            aside.symlink_to(target)
            aside.replace(folder)


def drop_checkpoints(home: Path) -> None:
    """Remove the checkpoints of a finished step, whose model is there: a checkpoint is several models large.

    So too what says how far its workers came with scoring.
    """
    with storage_errors(home):
        shutil.rmtree(home / "checkpoints", ignore_errors=True)
        (home / SCORING).unlink(missing_ok=True)
