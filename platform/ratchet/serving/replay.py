"""An engine that answers with a judge's recorded judgments, in FastChat's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ratchet.errors import DataError, RatchetError
from ratchet.serving.requests import Answer, ChatRequest, Request, request_words
from ratchet.store.lines import json_rows

_SHOWN = 8


class ReplayEngine:
    """Judgments of one judge, found by the prompt that the judge was given.

    A line has `judge` (a list of the judge's name and the prompt's), `user_prompt` and `judgment`.
    Recordings were drawn at temperature 0: a request at another one is not in them.
    Raises DataError where the file cannot be read, a line is not a judgment, or none is by `judge`.
    """

    def __init__(self, path: Path, judge: str) -> None:
        self.path, self.judge = path, judge
        self._said: dict[str, set[str]] = {}
        others = set()
        for number, row in json_rows(path):
            by = row.get("judge")
            name = by[0] if isinstance(by, list) and by else by
            texts = name, row.get("user_prompt"), row.get("judgment")
            if not all(isinstance(text, str) for text in texts):
                raise DataError(
                    "no judgment: judge, user_prompt or judgment is missing, or no text",
                    where=f"{path}:{number}",
                    fix="give a file of FastChat's model_judgment",
                )
            others.add(str(name))
            if name == judge:
                self._said.setdefault(row["user_prompt"], set()).add(row["judgment"])
        if not self._said:
            there = ", ".join(sorted(others)[:_SHOWN])
            raise DataError(f"has no judgment by {judge!r}", where=str(path), fix=f"it has judgments by {there}")

    def holds(self, prompt: str) -> bool:
        """Return whether this prompt has a recorded answer."""
        return prompt in self._said

    def attempt(self, requests: Sequence[Request]) -> list[Answer | RatchetError]:
        """Return the recorded answer to each request, or a DataError where there is none, in their order."""
        return [self._find(request) for request in requests]

    def _find(self, request: Request) -> Answer | RatchetError:
        said: set[str] = set()
        if isinstance(request, ChatRequest) and request.turns and not request.sampling.temperature:
            said = self._said.get(request.turns[-1].content, set())
        if len(said) == 1:
            return Answer(next(iter(said)), "stop")
        if said:
            return DataError(
                f"several judgments in the recording for {request_words(request)}",
                where=str(self.path),
                fix="keep the lines of one model and one run",
            )
        return DataError(f"not in the recording for {request_words(request)}", where=str(self.path))
