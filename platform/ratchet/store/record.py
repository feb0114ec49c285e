"""Records: the last file written into a folder, saying what it holds and what it was made from.

A folder without `record.json` is unfinished: it is resumed or made again, never trusted.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet import __version__
from ratchet.errors import CorruptError
from ratchet.store.files import write_json

NAME = "record.json"
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
    that a report shows. `started` is UTC, ISO 8601; `seconds` is wall-clock.
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


def write_record(folder: Path, record: Record) -> None:
    """Write `record` as the folder's last file. Raises StorageError."""
    write_json(folder / NAME, dataclasses.asdict(record))


def read_record(folder: Path) -> Record | None:
    """Return the folder's record, or None where it is unfinished. Raises CorruptError."""
    path = folder / NAME
    try:
        fields = json.loads(path.read_text())
        return Record(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise CorruptError(
            f"not a record: {error}", where=str(path), fix="delete the folder; it will be made again"
        ) from error


def now() -> str:
    """Return the time in UTC as ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_json_or_none(path: Path) -> Any:
    """Return the JSON in `path`, or None where there is no such file. Raises CorruptError."""
    try:
        return json.loads(path.read_text())
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
