"""Rows that are plainly of one form: one of them is read with marks for its texts, and says how all others are read.

What the layouts here make of a row follows from its columns, from what each holds, and from which of its texts are
equal; that is its form. So a row of marks is read by what reads any row, and where the marks stand in its pair is where
the texts of every row of that form stand. Nothing here knows a layout. What is not certain is left to that reader.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ratchet.errors import DataError
from ratchet.pairs.checks import Unfit
from ratchet.pairs.contract import columns_used
from ratchet.pairs.layouts import Sides
from ratchet.pairs.meanings import meaning_of, score_columns
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.pairs.source import SourceReading, pairs_said, said_by
from ratchet.pairs.span import SourceRow
from ratchet.plan.data import held_out_source

_BY_FORM = frozenset({"pair", "implicit_prompt", "alpaca", "sharegpt", "scored", "reply", "instruction"})
"""Layouts that read rows of one form alike, as far as their texts are plain."""
_MOST_FORMS = 1000
_MESSAGES: Mapping[tuple[str, ...], tuple[str, str]] = {
    ("role", "content"): ("role", "content"),
    ("content", "role"): ("role", "content"),
    ("from", "value"): ("from", "value"),
    ("value", "from"): ("from", "value"),
}
# With blanks at both ends: what strips a text leaves no mark behind.
_MARK = re.compile("( \ue0a7[0-9]+\ue0a7 \n)")
# Beyond these a difference of scores may not be exact, or no number.
_LARGE = 1e15

Parts = tuple[int | str, ...]
"""A text: numbers of the row's texts, and what stands between them."""


@dataclasses.dataclass(frozen=True)
class PlainForm:
    """Where the texts of a pair stand among a row's. `margin` are the columns whose difference its margin is."""

    roles: tuple[str, ...]
    prompt: tuple[Parts, ...]
    chosen: Parts
    rejected: Parts | None
    margin: tuple[str, str] | None


@dataclasses.dataclass(frozen=True)
class Outline:
    """What a row is known by, and the texts in the columns that are read, none of them empty."""

    key: tuple[Any, ...]
    texts: list[str]


def outline(row: Mapping[str, Any], read: frozenset[str]) -> Outline | None:
    """Return the outline of a row; None where it holds more than plain texts, numbers and messages of text."""
    texts: list[str] = []
    kinds: list[Any] = []
    for column, value in row.items():
        kind = type(value)
        if column not in read:
            kinds.append(value is None)
        elif kind is str:
            kinds.append(kind if value else "")
            if value:
                texts.append(value)
        elif kind is list:
            if not _spoken(value, texts, kinds):
                return None
        elif value is None or kind is int or kind is float:
            kinds.append(kind)
        else:
            return None
    for text in texts:
        first = text[0]
        if (not first.isalnum() or first == "H") and not _is_plain(text):
            return None
    return Outline((tuple(row), tuple(kinds), tuple(map(texts.index, texts))), texts)


def _spoken(messages: Sequence[Any], texts: list[str], kinds: list[Any]) -> bool:
    """Add what messages hold to `texts` and `kinds`, and say whether they are of a text alone."""
    kinds.append(len(messages))
    for message in messages:
        keys = _MESSAGES.get(tuple(message)) if type(message) is dict else None
        if keys is None:
            return False
        role, said = message[keys[0]], message[keys[1]]
        if type(role) is not str or type(said) is not str:
            return False
        kinds += (keys[0], role, bool(said))
        if said:
            texts.append(said)
    return True


def _is_plain(text: str) -> bool:
    """Say whether a text holds something, and can be no JSON and no dialogue."""
    bare = text.lstrip()
    return bare != "" and bare[0] not in "[{" and not bare.startswith("Human:")


class Forms:
    """The forms of a source's rows, found as these come."""

    def __init__(self, reading: SourceReading) -> None:
        self._reading = reading
        self._found: dict[tuple[Any, ...], PlainForm | None] = {}
        self._read = _read_by_form(reading)

    def of(self, row: Mapping[str, Any]) -> tuple[PlainForm, list[str]] | None:
        """Return the form of a row with its texts; None where it is to be read by itself."""
        if self._read is None or (seen := outline(row, self._read)) is None:
            return None
        form = self._found.get(seen.key, ...)
        if form is ...:
            form = self._form(row, seen) if len(self._found) < _MOST_FORMS else None
            if len(self._found) < _MOST_FORMS:
                self._found[seen.key] = form
        if form is None or (form.margin is not None and not self._decided(row, form.margin)):
            return None
        return form, seen.texts

    def _decided(self, row: Mapping[str, Any], margin: tuple[str, str]) -> bool:
        better, worse = row[margin[0]], row[margin[1]]
        least = max(self._reading.source.min_margin, 0)
        return bool(-_LARGE < better < _LARGE and -_LARGE < worse < _LARGE and better - worse > least)

    def _form(self, row: Mapping[str, Any], seen: Outline) -> PlainForm | None:
        # Twice, with numbers that rise and that fall: what is chosen by them differs then.
        rising, falling = (
            _form_of(row, seen, self._reading, self._read or frozenset(), falls=falls) for falls in (False, True)
        )
        return rising if rising == falling else None


def _read_by_form(reading: SourceReading) -> frozenset[str] | None:
    """Return the columns that rows of a source are read from; None where more than their form decides."""
    source = reading.source
    if len(reading.kinds) != 1 or reading.conditions or source.build or source.few_shot:
        return None
    (kind,) = reading.kinds
    if kind.layout not in _BY_FORM or kind.repeats or kind.begun or kind.opened or kind.reader is not None:
        return None
    return None if held_out_source(source) is not None else frozenset(kind.read)


def _form_of(
    row: Mapping[str, Any], seen: Outline, reading: SourceReading, read: frozenset[str], *, falls: bool
) -> PlainForm | None:
    """Return the form of a row by reading it with marks and known numbers; None where it has none."""
    kind = reading.kinds[0]
    others = [column for column in row if column not in read]
    if not kind.quiet.issuperset(row) or any(meaning_of(column, kind.gives) is not None for column in others):
        return None
    scores = score_columns(tuple(row)) or ()
    if any(type(row[column]) not in (int, float) for column in scores):
        return None
    marked, numbers = _marked(row, seen, read, falls=falls)
    at = SourceRow("", 0, marked)
    try:
        if not columns_used(marked, kind) <= read:
            return None
        sides, tools = said_by(at, marked, reading)
    except (Unfit, DataError):
        return None
    if not isinstance(sides, Sides) or tools is not None or (sides.margin is None and reading.source.min_margin):
        return None
    (item, *more) = pairs_said(at, sides, tools, reading)
    return None if more or not isinstance(item, PreferencePair) else _placed(item, sides.margin, numbers)


def _marked(
    row: Mapping[str, Any], seen: Outline, read: frozenset[str], *, falls: bool
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return a row with a mark for each of its texts, equal ones for equal texts, and the numbers it has now."""
    marks = iter(f" \ue0a7{number}\ue0a7 \n" for number in seen.key[2])
    numbers: dict[str, float] = {}
    made: dict[str, Any] = dict(row)
    for column, value in row.items():
        if column not in read:
            continue
        if isinstance(value, str) and value:
            made[column] = next(marks)
        elif isinstance(value, list):
            # What is empty is no text, and stays.
            made[column] = [
                {key: next(marks) if key in ("content", "value") and said else said for key, said in message.items()}
                for message in value
            ]
        elif isinstance(value, int | float):
            # Powers of 2, so that of no two differences one is another.
            made[column] = numbers[column] = type(value)(2 ** (44 - len(numbers) if falls else 4 + len(numbers)))
    return made, numbers


def _placed(pair: PreferencePair, margin: float | None, numbers: Mapping[str, float]) -> PlainForm | None:
    """Return where the marks stand in a pair; None where it has more than texts, or a margin of another kind."""
    turns = [*pair.prompt, pair.chosen, *([pair.rejected] if pair.rejected is not None else [])]
    beside = pair.tools or pair.asked or pair.dialogue
    plain = all(turn == Turn(turn.role, turn.content) for turn in turns)
    if beside is not None or pair.prompt[-1].role != "user" or not plain:
        return None
    apart = {numbers[left] - numbers[right]: (left, right) for left in numbers for right in numbers if left != right}
    if (margin is None) != (not numbers) or (margin is not None and (len(numbers) != 2 or margin not in apart)):
        return None
    return PlainForm(
        tuple(turn.role for turn in pair.prompt),
        tuple(_parts(turn.content) for turn in pair.prompt),
        _parts(pair.chosen.content),
        None if pair.rejected is None else _parts(pair.rejected.content),
        None if margin is None else apart[margin],
    )


def _parts(text: str) -> Parts:
    pieces = (piece for piece in _MARK.split(text) if piece)
    return tuple(int(piece[2:-3]) if _MARK.fullmatch(piece) else piece for piece in pieces)


def text_at(parts: Parts, texts: Sequence[str]) -> str:
    """Return a text of a row's pair, from the texts that the row has."""
    if len(parts) == 1 and isinstance(at := parts[0], int):
        return texts[at]
    return "".join([texts[part] if isinstance(part, int) else part for part in parts])


def texts_at(parts: Parts, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return what `text_at` returns of each row."""
    if len(parts) == 1 and isinstance(at := parts[0], int):
        return [texts[at] for texts in rows]
    return [text_at(parts, texts) for texts in rows]
