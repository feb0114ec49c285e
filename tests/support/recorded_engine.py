"""An engine that answers from a recording, the journal of an earlier run, and sends no request."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ratchet.errors import DataError
from ratchet.serving.journal import parse_answer
from ratchet.serving.requests import Answer, Request, answer_key, request_words
from ratchet.store.append import read_places


class RecordedEngine:
    """Answers as `model` did when the recording was made. Use it in a `with`.

    Raises DataError where there is no such file, CorruptError where it is no journal.
    """

    def __init__(self, path: Path, model: str) -> None:
        self.path, self.model = path, model
        try:
            self._places, _ = read_places(path, parse_answer)
            self._file = path.open("rb")
        except FileNotFoundError:
            raise DataError("there is no such recording", where=str(path), fix="name the journal of a run") from None

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the recorded answers. Raises DataError naming the first request that has none."""
        keys = [answer_key(self.model, request) for request in requests]
        absent = [(key, request) for key, request in zip(keys, requests, strict=True) if key not in self._places]
        if absent:
            key, request = absent[0]
            raise DataError(
                f"{len(absent)} of {len(requests)} requests to {self.model!r} are not in this recording, first {key}: "
                f"{request_words(request)}",
                where=str(self.path),
                fix="record them with an endpoint; a request is found by its model, its text and its sampling together",
            )
        return [self._at(*self._places[key]) for key in keys]

    def _at(self, start: int, length: int) -> Answer:
        return parse_answer(os.pread(self._file.fileno(), length, start))[1]

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> RecordedEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
