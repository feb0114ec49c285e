"""The nouns of preference data."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class Turn:
    """One message: `role` is system, user or assistant."""

    role: str
    content: str


@dataclasses.dataclass(frozen=True)
class PreferencePair:
    """A prompt with a chosen and a rejected answer.

    `rejected` is None for a demonstration (instruction and output): `sft` stages take those, and
    preference stages refuse them. `file` and `row` (from 1) say where it came from, and are no
    part of its identity.
    """

    prompt: tuple[Turn, ...]
    chosen: str
    rejected: str | None
    file: str
    row: int

    @functools.cached_property
    def pair_id(self) -> str:
        """32 hex digits over prompt and both answers: equal content, equal id."""
        return _digest([_turns(self.prompt), self.chosen, self.rejected])

    @functools.cached_property
    def prompt_id(self) -> str:
        """32 hex digits over the prompt; pairs that share it share a side of the split."""
        return _digest(_turns(self.prompt))


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A row that was read and not kept: why, and where it stands."""

    file: str
    row: int
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class TokenisedPair:
    """A pair as token ids. `rejected` is empty for a demonstration. Shapes: (length,), int32."""

    pair_id: str
    prompt: Ids
    chosen: Ids
    rejected: Ids


def _turns(turns: tuple[Turn, ...]) -> list[list[str]]:
    return [[turn.role, turn.content] for turn in turns]


def _digest(value: object) -> str:
    # ASCII, so that the digest does not change with how JSON writes other characters. JSON, so that ['a', 'b'] and
    # ['ab'] differ.
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
