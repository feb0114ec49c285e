"""Identity: what a thing was made from, as one short digest.

A fingerprint is taken of canonical JSON. A value without one stable text form (a set, an object,
a NaN) raises: guessing would let two different things share a name.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_MOMENT_NS = 2_000_000_000


def canonical(value: Any, *, at: str = "") -> Any:
    """Return `value` as plain JSON types with a stable form. Raises TypeError naming the key."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"no fingerprint for {value!r} at {at or 'top'}")
        # A plan may say 1 or 1.0 and means the same. From 2**53 on a float does not hold every whole number.
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"no fingerprint for the key {bad[0]!r} at {at or 'top'}: keys are text")
        return {key: canonical(value[key], at=f"{at}.{key}" if at else key) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [canonical(item, at=f"{at}[{i}]") for i, item in enumerate(value)]
    raise TypeError(f"no fingerprint for a {type(value).__name__} at {at or 'top'}")


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the first 20 hex digits of the SHA-256 of `identity` in canonical JSON."""
    text = json.dumps(canonical(identity), ensure_ascii=True, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest_once(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex; a file is read once in a process while its size and times stay.

    One that changed a moment ago is read each time: it may change again before the clock of its disk has moved on.
    """
    state = settled_state(path)
    return digest_file(path) if state is None else _digest(path, state)


def settled_state(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file does: inode, size and times. None where it changed a moment ago."""
    state = path.stat()
    if time.time_ns() - state.st_ctime_ns < _MOMENT_NS:
        return None
    return (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@functools.lru_cache(maxsize=1 << 16)
def _digest(path: Path, state: tuple[int, ...]) -> str:
    # The state is the cache's key alone: a file of which a part of it has changed is read again.
    return digest_file(path)


def digest_files(paths: list[Path]) -> str:
    """Return one digest over files' names and contents, whatever folder they lie in."""
    lines = sorted(f"{path.name} {digest_file(path)}" for path in paths)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:20]


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[str]:
    """Return the dotted keys at which two identities differ, as `key: old → new`."""
    found: list[str] = []
    for key in sorted({*old, *new}):
        left, right, name = old.get(key), new.get(key), f"{at}{key}"
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += changed_keys(left, right, f"{name}.")
        elif canonical(left) != canonical(right):
            found.append(f"{name}: {left!r} → {right!r}")
    return found
