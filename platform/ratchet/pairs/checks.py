"""Why a row is not kept: the plan's conditions on its fields (`where`), and the checks that every pair passes."""

from __future__ import annotations

import dataclasses
import enum
import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from ratchet.errors import PlanError
from ratchet.pairs.pair import PreferencePair, Turn

CONDITIONS_VERSION = 1
"""Of how conditions are read. It is in the identity of pairs: raise it when one would keep other rows."""
# One of the noncharacters that Unicode keeps free for inner use, so no proper text holds it.
BROKEN = "\ufdd0"
"""Stands for bytes that were not UTF-8 where a reader cannot stop at them; no text may hold this noncharacter."""

# `in` must be a word by itself, as fields such as `origin` end with it.
_SHAPE = re.compile(r"\s*(?P<field>[^\s=!<>]+)(?:\s*(?P<sign>==|!=|<=|>=|<|>)|\s+(?P<word>in)\b)\s*(?P<value>.+?)\s*")
_ITEM = re.compile(r"""\s*(?P<item>"(?:[^"\\]|\\.)*"|'[^']*'|[^\s,\[\]"'][^,\[\]"']*)\s*(?:,|$)""")
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

Value = str | int | float | bool | None


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


@dataclasses.dataclass(frozen=True)
class Condition:
    """A field (dots lead into objects), an operator, and what to compare with (one value, or those of `in`)."""

    text: str
    field: str
    operator: str
    values: tuple[Value, ...]


def parse_condition(text: str) -> Condition:
    """Read one condition. Raises PlanError naming it."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise _unreadable(f"cannot read the condition `{text}`")
    sign = match["sign"] or match["word"]
    values = _items(match["value"], text) if sign == "in" else (_value(match["value"], text),)
    # `true > 0` holds in Python, and nobody who writes it means that.
    if sign in _ORDER and (isinstance(values[0], bool) or values[0] is None):
        raise _unreadable(f"`{text}`: {sign} needs a number or a text to compare with")
    return Condition(text, match["field"], sign, values)


def _unreadable(what: str) -> PlanError:
    return PlanError(
        what,
        where="where",
        fix="write `field operator value`, with ==, !=, <, <=, >, >= or `in [a, b]`",
        code="plan.condition",
    )


def check_conditions(row: Mapping[str, Any], conditions: tuple[Condition, ...]) -> None:
    """Raise Unfit (`where`) at the first condition that the row does not meet, or whose field it lacks."""
    for condition in conditions:
        value = _field(row, condition)
        if not _holds(value, condition):
            raise Unfit(Reason.WHERE, f"{condition.text}: {condition.field} is {str(value)[:80]}")


def _holds(value: Any, condition: Condition) -> bool:
    if condition.operator in _ORDER:
        left, right = _comparable(value, condition.values[0])
        if left is None or isinstance(left, str) != isinstance(right, str):
            raise Unfit(Reason.WHERE, f"{condition.text}: {condition.field} is {str(value)[:80]}, not comparable")
        return _ORDER[condition.operator](left, right)
    return any(_equal(value, wanted) for wanted in condition.values) != (condition.operator == "!=")


def _equal(value: Any, wanted: Value) -> bool:
    left, right = _comparable(value, wanted)
    return bool(left == right)


def _comparable(value: Any, wanted: Value) -> tuple[Any, Any]:
    """Return both as floats where `wanted` is a number and `value` is one or reads as one."""
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        ordered = isinstance(value, str | bool) or value is None
        return (value if ordered else _Other()), wanted
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None, float(wanted)
    try:
        return float(value), float(wanted)
    except (ValueError, OverflowError):
        return None, float(wanted)


class _Other:
    """Something that equals no literal and has no order."""


def _field(row: Mapping[str, Any], condition: Condition) -> Any:
    if condition.field in row:
        return row[condition.field]
    value: Any = row
    for part in condition.field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise Unfit(Reason.WHERE, f"{condition.text}: no field {condition.field}")
        value = value[part]
    return value


def _items(text: str, whole: str) -> tuple[Value, ...]:
    inner = text[1:-1].strip()
    if not (text.startswith("[") and text.endswith("]") and inner):
        raise _unreadable(f"`{whole}`: `in` needs a list such as [a, b]")
    values, at = [], 0
    while at < len(inner):
        match = _ITEM.match(inner, at)
        if match is None:
            raise _unreadable(f"`{whole}`: cannot read the list at `{inner[at:]}`")
        values.append(_value(match["item"].strip(), whole))
        at = match.end()
    return tuple(values)


def _value(text: str, whole: str) -> Value:
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1]
    if text[0] in "\"'[{":
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if isinstance(value, str):
            return value
        raise _unreadable(f"`{whole}`: cannot read the value `{text}`")
    words: dict[str, Value] = {"true": True, "false": False, "null": None}
    if text in words:
        return words[text]
    if re.search(r"[=<>]", text):
        raise _unreadable(f"`{whole}`: put a text that holds =, < or > in quotes")
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?", text):
        return float(text)
    return text
