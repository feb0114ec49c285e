"""Records: the last file written into a folder, saying what it holds and what it was made from.

A folder without `record.json` is unfinished: it is resumed or made again, never trusted. A record names every file of
its folder with its size and SHA-256, and carries a digest of itself; `store.sound` holds the one against the other.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ratchet import __version__
from ratchet.errors import CorruptError, DataError
from ratchet.store.files import storage_errors
from ratchet.store.fingerprint import digest_once
from ratchet.store.sealed import read_sealed, write_sealed

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

    Its files are not looked at: see `store.sound`.
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
