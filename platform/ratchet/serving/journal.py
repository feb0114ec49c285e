"""The journals: every answer that was computed or paid for, a JSON line each, so that none is asked for twice.

A line is on the disk before the next is begun. So only the last can be torn, by a kill or a power cut, and the answer
in it was never counted on: it is dropped, and asked for again. So is the answer of a line that was changed since.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ratchet.serving.requests import Answer, Request, request_identity
from ratchet.store.append import AppendLog, parse_checked_line
from ratchet.store.fingerprint import fingerprint


class Journal(AppendLog[Answer]):
    """Answers of a server by the key of their request. No other process may write it meanwhile.

    Raises RunError where one does, CorruptError where a request has two answers, StorageError.
    """

    def __init__(self, path: Path) -> None:
        fix = "wait for it, stop it, or give this one a journal of its own"
        super().__init__(path, parse_answer, held="another process is writing this journal", fix=fix)

    def append(self, model: str, request: Request, answer: Answer) -> None:
        """Add one answer; when this returns, no kill and no power cut can lose it. Raises StorageError."""
        identity = request_identity(model, request)
        key = fingerprint(identity)
        self.add(key, {"key": key, "request": identity, "answer": _values(answer)})


class UnitJournal(AppendLog[list[Answer]]):
    """Answers of a model by the key of the unit that they were computed in. No other process may write it meanwhile.

    Raises RunError where one does, CorruptError where a unit has two lines that differ, StorageError.
    """

    def __init__(self, path: Path) -> None:
        held = "another process evaluates this model now"
        super().__init__(path, parse_unit, held=held, fix="wait for it, or stop it")

    def append(self, key: str, answers: Sequence[Answer]) -> None:
        """Add a unit; when this returns, no kill and no power cut can lose it. Raises StorageError."""
        self.add(key, {"key": key, "answers": list(map(_values, answers))})


def parse_answer(raw: bytes) -> tuple[str, Answer]:
    """Return the key and the answer of one line. Raises ValueError where it is not one of a server's journal."""
    line = parse_checked_line(raw)
    try:
        if line["key"] != fingerprint(line["request"]):
            raise ValueError("its key is not the fingerprint of its request")
        return line["key"], _answer(line["answer"])
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def parse_unit(raw: bytes) -> tuple[str, list[Answer]]:
    """Return the key of a unit's line, and its answers. Raises ValueError where it is not such a line."""
    line = parse_checked_line(raw)
    try:
        return line["key"], list(map(_answer, line["answers"]))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


# Not by `store.codec`, which writes null for NaN and `?` for half a surrogate pair. A model may give either, and who
# asked must see just what it gave: a likelihood that is NaN is a fault of the model, and null is none at all.
def _values(answer: Answer) -> dict[str, Any]:
    fields = dataclasses.asdict(answer)
    if answer.logprobs is not None:
        fields["logprobs"] = [one if one is None or math.isfinite(one) else str(one) for one in answer.logprobs]
    return fields


def _answer(fields: dict[str, Any]) -> Answer:
    if not isinstance(fields["text"], str):
        raise ValueError("its answer has no text")
    lists = {name: tuple(fields[name]) for name in ("logprobs", "greedy") if fields.get(name) is not None}
    if "logprobs" in lists:
        lists["logprobs"] = tuple(float(one) if isinstance(one, str) else one for one in lists["logprobs"])
    return Answer(**{**fields, **lists})
