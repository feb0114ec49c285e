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
    NOT_CSV = "not CSV"
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
    HELD_OUT = "prompt is held out"


POLICY = frozenset(
    {
        Reason.WHERE,
        Reason.TIE,
        Reason.MARGIN,
        Reason.NO_CALCULATION,
        Reason.DUPLICATE,
        Reason.SAMPLE,
        Reason.HELD_OUT,
    }
)
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
    if text.isascii():  # what follows looks at every character
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unfit(Reason.NOT_UTF8, f"{name}, character {error.start + 1}") from error
    if BROKEN in text:
        raise Unfit(Reason.NOT_UTF8, f"{name}, character {text.index(BROKEN) + 1}")


def check_pair(pair: PreferencePair, max_characters: int) -> None:
    """Raise Unfit unless the pair can be trained on.

    Every turn has content; the prompt ends with the user or a tool; the sides differ by more than blank
    space at their ends; all texts together hold at most `max_characters`.
    """
    # First, as all other checks look at every character.
    if (size := characters_of(pair)) > max_characters:
        raise Unfit(Reason.TOO_LONG, f"{size} characters")
    check_prompt(pair.prompt)
    if pair.tools is not None:
        check_text(pair.tools, "tools")
    check_turn(pair.chosen, "chosen")
    if pair.rejected is None:
        return
    check_turn(pair.rejected, "rejected")
    # A loss on two equal answers has a gradient of 0, and a margin of 0 that lowers the accuracy.
    if _bare(pair.chosen) == _bare(pair.rejected):
        raise Unfit(Reason.SAME)


def _bare(turn: Turn) -> tuple[str, ...]:
    return turn.content.strip(), (turn.reasoning or "").strip(), turn.tool_calls or ""


def characters_of(pair: PreferencePair) -> int:
    """Return the characters of a pair's texts, with its tools."""
    turns = (*pair.prompt, pair.chosen, *((pair.rejected,) if pair.rejected else ()))
    count = len(pair.tools or "")
    for turn in turns:
        count += len(turn.content) + len(turn.reasoning or "") + len(turn.tool_calls or "")
    return count


def check_turn(turn: Turn, name: str) -> None:
    """Raise Unfit where a text of a turn is broken, or it has no content and need have some."""
    for text in (turn.reasoning, turn.tool_calls):
        if text:
            check_text(text, name)
    # A tool may give nothing, and an assistant may call one without a word.
    if turn.content.strip() or not (turn.tool_calls or turn.role == "tool"):
        check_text(turn.content, name)


def check_prompt(prompt: tuple[Turn, ...]) -> None:
    """Raise Unfit unless the prompt starts with its only system turn, and ends with the user's or a tool's."""
    if not prompt or prompt[-1].role not in {"user", "tool"}:
        raise Unfit(Reason.MESSAGES, "the prompt does not end with the user or a tool's result")
    if any(turn.role == "system" for turn in prompt[1:]):
        raise Unfit(Reason.MESSAGES, "a system message that is not the first")
    for number, turn in enumerate(prompt):
        if turn.role == "tool" and (number == 0 or prompt[number - 1].role not in {"assistant", "tool"}):
            raise Unfit(Reason.MESSAGES, "a tool's result that follows no assistant's turn")
    for number, turn in enumerate(prompt, 1):
        check_turn(turn, f"prompt, turn {number}")
