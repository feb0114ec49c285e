"""The journal of units: what was computed stands on the disk before it counts, a JSON line each.

A line that was torn by a kill, or changed since, is left out, and its unit computed again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ratchet.errors import RunError
from ratchet.serving.requests import Answer
from ratchet.store.append import AppendLog, Place, parse, read_places


class UnitJournal:
    """One journal, open for appending. Use it in a `with`: no other process may write it meanwhile.

    Raises RunError where another process holds it, StorageError.
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
        self._log.append(key, {"key": key, "answers": list(map(_fields, answers))})

    def __enter__(self) -> UnitJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.close()


def _parse(raw: bytes) -> tuple[str, list[Answer]]:
    """Return the key and the answers of one line. Raises ValueError where it is none."""
    line = parse(raw)
    try:
        return line["key"], [_answer(fields) for fields in line["answers"]]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _fields(answer: Answer) -> dict[str, Any]:
    """Return an answer as JSON, which has no NaN: a model may give one, and who asked must see it."""
    fields = dataclasses.asdict(answer)
    if answer.logprobs is not None:
        known = [one is None or math.isfinite(one) for one in answer.logprobs]
        fields["logprobs"] = [one if fine else str(one) for one, fine in zip(answer.logprobs, known, strict=True)]
    return fields


def _answer(fields: dict[str, Any]) -> Answer:
    lists = {name: tuple(fields[name]) for name in ("logprobs", "greedy") if fields[name] is not None}
    if "logprobs" in lists:
        lists["logprobs"] = tuple(float(one) if isinstance(one, str) else one for one in lists["logprobs"])
    return Answer(**{**fields, **lists})


def key_of(raw: bytes) -> str:
    """Return the key of one line. Raises ValueError where it is none."""
    return _parse(raw)[0]


def _places(path: Path) -> tuple[dict[str, Place], int]:
    return read_places(path, lambda raw, _: key_of(raw))
