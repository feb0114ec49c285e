"""The nouns of preference data."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json

import numpy as np
import numpy.typing as npt

from ratchet.pairs.normal_form import opening_of, unblanked, wording

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
        """32 hex digits over the prompt as it is written."""
        return _digest(_turns(self.prompt))

    @functools.cached_property
    def prompt_key(self) -> str:
        """32 hex digits over the wording of the first user turn; pairs that share it share a side of the split."""
        return _short_digest(opening_of((turn.role, turn.content) for turn in self.prompt))

    @functools.cached_property
    def contest(self) -> Contest | None:
        """What was compared, whichever side won and however it is written; None for a demonstration."""
        if self.rejected is None:
            return None
        # The system turn aside: it says how to answer, and not what is better.
        asked = "\n".join(f"{turn.role}:{wording(turn.content)}" for turn in self.prompt if turn.role != "system")
        chosen, rejected = unblanked(self.chosen), unblanked(self.rejected)
        first, second = sorted((chosen, rejected))
        return Contest(_short_digest("\0".join((asked, first, second))), chosen == first)


@dataclasses.dataclass(frozen=True)
class Contest:
    """A prompt and two answers without their order: 32 hex digits, and whether the first by the alphabet was chosen.

    Two pairs contradict each other where the digits are equal and the winners are not.
    """

    key: str
    first_won: bool


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


def _short_digest(text: str) -> str:
    # BLAKE2b takes half the time of SHA-256. Unpaired surrogates are refused later, and must not stop a reader here.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
