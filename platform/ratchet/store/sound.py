"""Whether a finished folder still holds what was written into it, byte for byte.

A record names the size and the SHA-256 of every file of its folder. Who finds a folder asks `sound_record`, who reads
a file asks `checked`, before any library sees a byte of it. A file is read for that once in a process, as long as
neither its size nor its times change.

What is damaged is made again: the holder of a folder's lease calls `make_room`, which puts the damaged folder aside
and says so in one line.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from ratchet.errors import CorruptError
from ratchet.store.files import storage_errors
from ratchet.store.fingerprint import digest_once
from ratchet.store.record import NAME, Entry, Record, read_record

_log = logging.getLogger(__name__)
_FIX = "run again: what is damaged is put aside and made again (`ratchet fsck` tells what else is)"


def sound_record(folder: Path) -> Record | None:
    """Return the record of a finished folder whose files are all as they were written, else None."""
    record = legible_record(folder)
    return None if record is None or faults(folder, record.files) else record


def legible_record(folder: Path) -> Record | None:
    """Return the folder's record, its files unseen, for who only shows what is there; None where it cannot be believed.

    The next run makes such a folder again.
    """
    try:
        return read_record(folder)
    except CorruptError:
        return None


def faults(folder: Path, files: Mapping[str, Entry]) -> list[str]:
    """Return what is wrong with the files that a record names, in words; none where all are as they were written."""
    return [f"{name} {fault}" for name, entry in files.items() if (fault := _fault(folder / name, entry))]


def checked(path: Path) -> Path:
    """Return the path of a file in a finished folder, once its bytes are known to be those that its record names.

    A folder without a record is unfinished: nothing is known of it, and nothing is checked. Raises
    CorruptError; FileNotFoundError where the file is absent.
    """
    record = read_record(path.parent)
    if record is None:
        return path
    if not path.exists():
        raise FileNotFoundError(str(path))
    entry = record.files.get(path.name)
    fault = "is not named in its record" if entry is None else _fault(path, entry)
    if fault:
        raise CorruptError(f"the file {fault}", where=str(path), fix=_FIX)
    return path


def make_room(folder: Path, damaged: Path) -> Record | None:
    """Return the record of a sound folder; otherwise make room for the folder to be made again.

    For folders that appear whole by one rename, so that one without a record has lost it. A damaged one is moved into
    the folder `damaged`, and a warning names it. The caller holds the folder's lease. Raises StorageError.
    """
    if not folder.exists():
        return None
    found = examine_folder(folder)
    if isinstance(found, Record):
        return found
    aside = put_aside(folder, damaged)
    _log.warning("%s is damaged (%s): it was put aside as %s and is made again", folder, "; ".join(found), aside)
    return None


def examine_folder(folder: Path) -> Record | list[str]:
    """Return the record of a sound folder, or what is wrong with the folder, in words."""
    try:
        record = read_record(folder)
    except CorruptError as error:
        return [f"{NAME}: {error.what}"]
    if record is None:
        return [f"{NAME} is missing"]
    return faults(folder, record.files) or record


def put_aside(path: Path, damaged: Path) -> Path:
    """Move a file or folder into the folder `damaged`, under a name that is free, and return where it lies then.

    Raises StorageError.
    """
    name, number = f"{path.parent.name}-{path.name}", 1
    with storage_errors(damaged):
        damaged.mkdir(parents=True, exist_ok=True)
        while (aside := damaged / f"{name}.{number}").exists():
            number += 1
        path.rename(aside)
    return aside


def _fault(path: Path, entry: Entry) -> str:
    size, digest = entry
    try:
        if path.stat().st_size != size:
            return f"has {path.stat().st_size} bytes of {size}"
        return "" if digest_once(path) == digest else "does not have the bytes that were written"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
