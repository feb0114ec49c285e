"""Why a row is not kept, and the checks that every pair passes."""

from __future__ import annotations

import enum

from ratchet.pairs.pair import PreferencePair, Turn

# One of the noncharacters that Unicode keeps free for inner use, so no proper text holds it.
BROKEN = "\ufdd0"
"""Stands for bytes that were not UTF-8 where a reader cannot stop at them; no text may hold this noncharacter."""


class Reason(enum.StrEnum):
    """The reasons in `skipped.parquet` and in a record's counts."""

    NOT_JSON = "not JSON"
    NOT_UTF8 = "not UTF-8"
    NUL = "NUL character"
    WRONG_TYPE = "wrong type"
    MISSING = "missing field"
    EMPTY = "empty text"
    MESSAGES = "bad messages"
    ANSWER = "bad answer"
    SAME = "chosen = rejected"
    TOO_LONG = "too long"
    WHERE = "where"
    TIE = "tie"
    MARGIN = "margin"
    NO_CALCULATION = "no intermediate calculation"
    DUPLICATE = "duplicate"
    SAMPLE = "sample"


POLICY = frozenset({Reason.WHERE, Reason.TIE, Reason.MARGIN, Reason.NO_CALCULATION, Reason.DUPLICATE, Reason.SAMPLE})
"""Reasons that say nothing bad of a row: the plan, or what the builder needs, leaves it out."""


class Unfit(Exception):  # noqa: N818 - a verdict on a row, not an error of the run
    """A row or pair that cannot be used; caught once for each, in `source.pairs_of` and `render.render_pair`."""

    def __init__(self, reason: enum.StrEnum, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def check_text(text: str, name: str) -> None:
    """Raise Unfit where `text` is blank, holds NUL, or cannot be written as UTF-8."""
    if not text.strip():
        raise Unfit(Reason.EMPTY, name)
    if "\0" in text:
        raise Unfit(Reason.NUL, f"{name}, character {text.index(chr(0)) + 1}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unfit(Reason.NOT_UTF8, f"{name}, character {error.start + 1}") from error
    if BROKEN in text:
        raise Unfit(Reason.NOT_UTF8, f"{name}, character {text.index(BROKEN) + 1}")


def check_pair(pair: PreferencePair, max_characters: int) -> None:
    """Raise Unfit unless the pair can be trained on.

    Every text has content; the prompt ends with the user; the sides differ by more than blank
    space at their ends; all texts together hold at most `max_characters`.
    """
    texts = [pair.chosen, pair.rejected or "", *(turn.content for turn in pair.prompt)]
    # First, as all other checks look at every character.
    if (size := sum(map(len, texts))) > max_characters:
        raise Unfit(Reason.TOO_LONG, f"{size} characters")
    check_prompt(pair.prompt)
    check_text(pair.chosen, "chosen")
    if pair.rejected is None:
        return
    check_text(pair.rejected, "rejected")
    # A loss on two equal answers has a gradient of 0, and a margin of 0 that lowers the accuracy.
    if pair.chosen.strip() == pair.rejected.strip():
        raise Unfit(Reason.SAME)


def check_prompt(prompt: tuple[Turn, ...]) -> None:
    """Raise Unfit unless the prompt has content, starts with its only system turn, and ends with the user's."""
    if not prompt or prompt[-1].role != "user":
        raise Unfit(Reason.MESSAGES, "the prompt does not end with the user")
    if any(turn.role == "system" for turn in prompt[1:]):
        raise Unfit(Reason.MESSAGES, "a system message that is not the first")
    for number, turn in enumerate(prompt, 1):
        check_text(turn.content, f"prompt, turn {number}")
