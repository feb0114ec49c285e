"""Records: the last file written into a folder, saying what it holds and what it was made from.

A folder without `record.json` is unfinished: it is resumed or made again, never trusted. A record names every file of
its folder with its size and SHA-256, and carries a digest of itself.

Who finds a folder asks `sound_record`, who reads a file asks `checked`, before any library sees a byte of it. A file is
read for that once in a process, as long as neither its size nor its times change. What is damaged is made again: the
holder of a folder's lease calls `make_room`, which puts the damaged folder aside and says so in one line.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import importlib.metadata
import json
import logging
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ratchet import __version__
from ratchet.errors import CorruptError, DataError
from ratchet.store.files import read_sealed, storage_errors, write_sealed
from ratchet.store.fingerprint import digest_once

_log = logging.getLogger(__name__)
_FIX = "run again: what is damaged is put aside and made again (`ratchet fsck` tells what else is)"
NAME = "record.json"
CARD = "README.md"
"""A model's card: no number comes from it, and people may edit it."""
Entry: TypeAlias = tuple[int, str]
"""A file's bytes, and their SHA-256 in hex."""
_REPORTED = (
    *("ray", "torch", "transformers", "tokenizers", "deepspeed", "peft", "numpy", "pyarrow"),
    *("datasets", "lm_eval", "sacrebleu", "rouge_score", "vllm"),
)


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Ratchet, Python and the libraries that decide numbers."""
    found = {"ratchet": __version__, "python": platform.python_version()}
    for name in _REPORTED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def code_commit() -> str:
    """Return the commit of Ratchet's own checkout, with `+` where files changed, or ``unknown``."""
    here = Path(__file__).resolve().parent
    # No tags, so that it is the commit's own number, whatever people call it.
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


@dataclasses.dataclass(frozen=True)
class Record:
    """What a finished folder holds.

    `identity` is what the fingerprint was taken of; `inputs` are the fingerprints of the records
    that it was made from, by role; `counts` are numbers that were proved; `facts` is all else
    that a report shows. `started` is UTC, ISO 8601; `seconds` is wall-clock. `files` are the
    folder's, by their path in it; `write_record` fills them in.
    """

    kind: str
    fingerprint: str
    identity: Mapping[str, Any]
    counts: Mapping[str, Any]
    started: str
    seconds: float
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=versions)
    commit: str = dataclasses.field(default_factory=code_commit)
    files: Mapping[str, Entry] = dataclasses.field(default_factory=dict)


def write_record(folder: Path, record: Record, names: Iterable[str] | None = None) -> None:
    """Write `record` as the folder's last file, with what its other files are now: all, or those that `names` names.

    A name of a folder stands for what lies below it; what is not there is left out. Raises StorageError.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files = {str(path.relative_to(folder)): _entry(path) for path in sorted(set(_files(folder, names)))}
    write_sealed(folder / NAME, dataclasses.asdict(dataclasses.replace(record, files=files)))


def _files(folder: Path, names: Iterable[str] | None) -> Iterator[Path]:
    """Yield the files that a record names: no hidden ones, which are unfinished, and no card."""
    for top in folder.iterdir() if names is None else map(folder.joinpath, names):
        for path in [top] if top.is_file() else top.rglob("*"):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.is_file() and not hidden and path.name not in {NAME, CARD}:
                yield path


def _entry(path: Path) -> Entry:
    return path.stat().st_size, digest_once(path)


def read_record(folder: Path) -> Record | None:
    """Return the folder's record, or None where it is unfinished. Raises CorruptError.

    Its files are not looked at: see `sound_record`.
    """
    fix = "run again: what it belongs to is put aside and made again; or see `ratchet fsck`"
    fields = read_sealed(folder / NAME, fix)
    if fields is None:
        return None
    try:
        return Record(**{**fields, "files": {name: (size, digest) for name, (size, digest) in fields["files"].items()}})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CorruptError(f"not a record: {error!r}", where=str(folder / NAME), fix=fix) from error


def now() -> str:
    """Return the time in UTC as ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_json_or_none(path: Path) -> Any:
    """Return the JSON in `path`, or None where there is no such file. Raises CorruptError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return read_json_or_none(path)  # on a network disk: another file has taken the name meanwhile
    except ValueError as error:
        raise CorruptError(
            f"not JSON: {error}", where=str(path), fix="delete the file; it will be made again"
        ) from error


def finished_record(folder: Path) -> Record:
    """Return the record of a finished folder. Raises DataError where there is none."""
    record = read_record(folder)
    if record is None:
        raise DataError("unfinished", where=str(folder), fix="run again")
    return record


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
        raise CorruptError(f"the file {fault}", where=str(path), fix=_FIX, code="corrupt.file")
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
