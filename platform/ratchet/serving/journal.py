"""The journal: every answer that was paid for, a JSON line each, so that none is asked for twice.

A line is on the disk before the next is begun. So only the last can be torn, by a kill or a power
cut, and the answer in it was never counted on: it is dropped, and asked for again. So is the answer of a line that was
changed since it was written.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import TracebackType

from ratchet.errors import CorruptError, RunError
from ratchet.serving.requests import Answer, Request, request_identity
from ratchet.store.append import AppendLog, Place, parse_checked_line, read_places
from ratchet.store.fingerprint import fingerprint


def parse_answer(raw: bytes) -> tuple[str, Answer]:
    """Return the key and the answer of one line. Raises ValueError where it is none."""
    line = parse_checked_line(raw)
    try:
        key, fields = line["key"], line["answer"]
        if key != fingerprint(line["request"]):
            raise ValueError("its key is not the fingerprint of its request")
        if not isinstance(fields["text"], str):
            raise ValueError("its answer has no text")
        lists = {name: tuple(fields[name]) for name in ("logprobs", "greedy") if fields.get(name) is not None}
        return key, Answer(**{**fields, **lists})
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def places_in(path: Path) -> tuple[dict[str, Place], int]:
    """Return where each key's line lies, and where the last whole line ends.

    Raises CorruptError where a request has two answers.
    """
    said: dict[str, int] = {}

    def key_of(raw: bytes, number: int) -> str:
        key, answer = parse_answer(raw)
        if said.setdefault(key, hash(answer)) != hash(answer):
            raise CorruptError(
                "another answer to a request that has one above",
                where=f"{path}:{number}",
                fix="remove that line; its request will be asked again",
            )
        return key

    return read_places(path, key_of)


class Journal:
    """One journal, open for appending. Use it in a `with`: no other process may write it meanwhile.

    Only the places of answers are held in memory, not the answers. Raises RunError where another
    process holds the journal, CorruptError where a request has two answers, StorageError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        held = RunError(
            "another process is writing this journal",
            where=str(path),
            fix="wait for it, stop it, or give this one a journal of its own",
        )
        self._log = AppendLog(path, places_in, held)

    def __contains__(self, key: str) -> bool:
        return key in self._log.places

    def find(self, key: str) -> Answer:
        """Return the answer under `key`. Raises KeyError where `key` is absent."""
        return parse_answer(self._log.read(key))[1]

    def append(self, model: str, request: Request, answer: Answer) -> None:
        """Add one answer; when this returns, no kill and no power cut can lose it. Raises StorageError."""
        identity = request_identity(model, request)
        key = fingerprint(identity)
        self._log.append(key, {"key": key, "request": identity, "answer": dataclasses.asdict(answer)})

    def close(self) -> None:
        """Let go of the file, and of the lock on it."""
        self._log.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
