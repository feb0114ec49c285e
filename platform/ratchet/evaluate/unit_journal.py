"""The journal of units: what was computed stands on the disk before it counts, a JSON line each.

Only the last line can be torn, by a kill or a power cut; it is dropped, and its unit computed again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ratchet.errors import CorruptError, RunError
from ratchet.serving.requests import Answer
from ratchet.store.append import AppendLog, Place

_log = logging.getLogger(__name__)


class UnitJournal:
    """One journal, open for appending. Use it in a `with`: no other process may write it meanwhile.

    Raises RunError where another process holds it, CorruptError where a line before the last is
    broken, StorageError.
    """

    def __init__(self, path: Path) -> None:
        held = RunError("another process evaluates this model now", where=str(path), fix="wait for it, or stop it")
        self._log = AppendLog(path, _places, held)

    def __contains__(self, key: str) -> bool:
        return key in self._log.places

    def find(self, key: str) -> list[Answer]:
        """Return the answers of a unit. Raises KeyError where it has none."""
        return _parse(self._log.read(key))[1]

    def append(self, key: str, answers: Sequence[Answer]) -> None:
        """Add a unit; when this returns, no kill and no power cut can lose it. Raises StorageError."""
        self._log.append(key, _line(key, answers))

    def __enter__(self) -> UnitJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()


def _line(key: str, answers: Sequence[Answer]) -> bytes:
    said = [dataclasses.asdict(answer) for answer in answers]
    line = {"key": key, "answers": said, "check": _check(key, said)}
    return json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _parse(raw: bytes) -> tuple[str, list[Answer]]:
    """Return the key and the answers of one line. Raises ValueError where it is none."""
    if not raw.endswith(b"\n"):
        raise ValueError("cut short")
    line = json.loads(raw)
    try:
        if line["check"] != _check(line["key"], line["answers"]):
            raise ValueError("its check does not fit")
        return line["key"], [_answer(fields) for fields in line["answers"]]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _answer(fields: dict[str, Any]) -> Answer:
    lists = {name: tuple(fields[name]) for name in ("logprobs", "greedy") if fields[name] is not None}
    return Answer(**{**fields, **lists})


def _check(key: str, said: list[dict[str, Any]]) -> str:
    text = json.dumps([key, said], allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _places(path: Path) -> tuple[dict[str, Place], int]:
    found: dict[str, Place] = {}
    end, torn = 0, ""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if torn:
                raise CorruptError(
                    f"not a line of a journal: {torn}",
                    where=f"{path}:{number - 1}",
                    fix="remove that line; its unit will be computed again",
                )
            try:
                key, _ = _parse(raw)
            except ValueError as error:
                torn = str(error)
                continue
            found[key] = end, len(raw)
            end += len(raw)
    if torn:
        _log.warning("%s: the last line was not written to its end and is dropped", path)
    return found, end
