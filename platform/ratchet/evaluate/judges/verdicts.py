"""How a rating is read from what a judge says.

A rating stands as FastChat asks for it (Zheng et al. 2023, llm_judge): `[[number]]`, else `Rating: [number]`. It is
looked for in what the judge says, not in what it thinks, and only where the judge came to its end. FastChat's own
rule, the first number of the whole text, is kept to check the files that it wrote.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from ratchet.evaluate.thoughts import UNCLOSED, spoken

LOWEST, HIGHEST = 1.0, 10.0
NO_RATING = "no rating"
OUT_OF_RANGE = "rating out of range"
DISPUTED = "disputed: several ratings, or one that may be quoted"

_NUMBER = r"(\d+\.?\d*)"
_STRONG = re.compile(rf"\[\[{_NUMBER}\]\]", re.ASCII)
_WEAK = re.compile(rf"\[{_NUMBER}\]", re.ASCII)
_LOOSE = r"[^\w\[\]\n]{0,8}"
_CALLED = rf"\b(?:rating|score|grade|verdict)\b{_LOOSE}"
_FLAGS = re.ASCII | re.IGNORECASE | re.MULTILINE
# What is no rating as it was asked for, but shows that another `[[number]]` may be an example: an escaped or bold one,
# `[[7/10]]`, a plain `Rating: 7`.
_OTHER = re.compile(
    r"\\?\[\s?\\?\[[^\w\[\]\n]{0,4}(\d+(?:[.,]\d+)?)[^\[\]\n]{0,12}\]\s?\\?\]"
    r"|\brating\b[^\w\[\n]{0,8}[:=][^\w\[\n]{0,8}(\d+(?:\.\d+)?)(?!\w)",
    _FLAGS,
)
# A bare `[number]` is a citation or a place in a list, unless it is called a rating or is the last line.
_STATED = re.compile(
    rf"\b(?:rating|score|grade|verdict)\b[^\w\[\n:=]{{0,8}}(?:[:=]|\b(?:is|of)\b){_LOOSE}\[{_NUMBER}\](?!\])"
    rf"|{_CALLED}\[{_NUMBER}\]\W*$"
    rf"|^[^\w\[\]]*\[{_NUMBER}\]\W*\Z",
    _FLAGS,
)
_ORDER = r"(?:\d+|one|two|first|second)"
_THING = r"(?:turn|question|answer|response|round)"
# A judge of two turns may rate each of them before it rates what it was asked to rate.
_PART = re.compile(
    rf"\b(?:{_THING}\W{{1,4}}{_ORDER}|{_ORDER}\W{{1,4}}{_THING})\b[^\[\]\n]{{0,24}}\[\[{_NUMBER}\]\]", _FLAGS
)
_WHOLE = re.compile(rf"\b(?:rating|score|grade|verdict|overall|final)\b{_LOOSE}\[\[{_NUMBER}\]\]", _FLAGS)
# What servers call an answer that its author ended: OpenAI and vLLM, Anthropic, TGI, Together, Cohere.
_ENDED = frozenset({"stop", "end_turn", "stop_sequence", "eos_token", "eos", "complete"})


@dataclasses.dataclass(frozen=True)
class VerdictReading:
    """What a judgment says: a rating from 1 to 10, else the problem."""

    rating: float | None
    problem: str = ""


def read_verdict(text: str, finish_reason: str = "stop", quotable: Iterable[float] = ()) -> VerdictReading:
    """Return the rating in a judgment, or why it has none.

    There is none in a judgment that did not come to its end, in thoughts, and where several ratings differ: nobody
    can tell which one is meant. `quotable` are numbers that others wrote in square brackets, so that a bare
    `[number]` among them may be a quotation.
    """
    said = spoken(text)
    if finish_reason.lower() not in _ENDED:
        return VerdictReading(None, f"{NO_RATING} ({finish_reason or 'unfinished'})")
    if said is None:
        return VerdictReading(None, f"{NO_RATING} ({UNCLOSED})")
    whole = _of_the_whole(said)
    strong = _values(_STRONG, whole)
    found = strong | _values(_STATED, said)
    if not found:
        return VerdictReading(None, NO_RATING)
    if len(found) > 1 or not _values(_OTHER, whole) <= found or (not strong and found & set(quotable)):
        return VerdictReading(None, DISPUTED)
    (rating,) = found
    return VerdictReading(rating) if LOWEST <= rating <= HIGHEST else VerdictReading(None, OUT_OF_RANGE)


def read_as_fastchat(text: str) -> float | None:
    """Return the first `[[number]]` of a text, else its first `[number]`, as FastChat does; None without any."""
    found = _STRONG.search(text) or _WEAK.search(text)
    return float(found[1]) if found else None


def _of_the_whole(said: str) -> str:
    """Return what is said without ratings of single turns, where there is one of the whole beside them."""
    rest = _PART.sub("", said)
    return rest if _WHOLE.search(rest) else said


def _values(pattern: re.Pattern[str], text: str) -> set[float]:
    return {float(next(filter(None, found.groups())).replace(",", ".")) for found in pattern.finditer(text)}
