"""Questions with options: their texts and labels, and which of them an answer means, read one way for all of a source.

`1` may be a label, an option's text, or an index. One row alone does not tell; all of them together do.
"""

from __future__ import annotations

import collections
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.fields import json_type


class AnswerForm(enum.StrEnum):
    """How the right option is written, in the order in which forms are tried that read as many rows."""

    LABEL = "a label"
    TEXT = "an option's text"
    FROM_0 = "a letter, or an index from 0"
    FROM_1 = "an index from 1"


_NONE = "not one of the options"


def options_of(value: Any, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the options' texts, and their labels where they have any. Raises Unfit."""
    labels: Sequence[Any] = ()
    if isinstance(value, Mapping):
        value, labels = value.get("text"), value.get("label") or ()
    elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        labels = [item.get("label") for item in value if item.get("label") is not None]
        value = [item.get("text") for item in value]
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise Unfit(Reason.WRONG_TYPE, f"{name} is not a list of texts")
    if len(value) < 2:
        raise Unfit(Reason.MISSING, f"{name} holds fewer than two options")
    if not isinstance(labels, list | tuple) or (labels and len(labels) != len(value)):
        raise Unfit(Reason.WRONG_TYPE, f"{name} does not have one label for each option")
    return tuple(value), tuple(str(label) for label in labels)


def meanings_of(answer: Any, texts: tuple[str, ...], labels: tuple[str, ...], key: str) -> dict[AnswerForm, int]:
    """Return the option (from 0) that `answer` means in each form that it may have. Raises Unfit where it has none."""
    if isinstance(answer, bool) or not isinstance(answer, int | str):
        raise Unfit(Reason.WRONG_TYPE, f"{key} is {json_type(answer)}, not an index, a letter or a text")
    word, found = str(answer).strip(), dict[AnswerForm, int]()
    if labels.count(word) == 1:
        found[AnswerForm.LABEL] = labels.index(word)
    if isinstance(answer, str) and texts.count(answer) == 1:
        found[AnswerForm.TEXT] = texts.index(answer)
    if word.isascii() and word.isdecimal():
        found[AnswerForm.FROM_0], found[AnswerForm.FROM_1] = int(word), int(word) - 1
    elif len(word) == 1 and word.isascii() and word.isalpha():
        found[AnswerForm.FROM_0] = ord(word.upper()) - ord("A")
    found = {form: index for form, index in found.items() if 0 <= index < len(texts)}
    if not found:
        raise Unfit(Reason.ANSWER, f"{key} is {answer!r:.40}: {_NONE}")
    return found


def right_option(meanings: Mapping[AnswerForm, int], form: AnswerForm | None, said: str) -> int:
    """Return the option that an answer means in a form; without one, that of all its forms. Raises Unfit.

    `said` names the answer in the reason. No row by itself has an index from 1: the other rows must say so.
    """
    if form is not None:
        if form not in meanings:
            raise Unfit(Reason.ANSWER, f"{said}: not {form}, as the other rows have")
        return meanings[form]
    if AnswerForm.LABEL in meanings:
        return meanings[AnswerForm.LABEL]
    found = {index for one, index in meanings.items() if one is not AnswerForm.FROM_1}
    if len(found) != 1:
        raise Unfit(
            Reason.ANSWER, f"{said}: " + ("the text of one option and the index of another" if found else _NONE)
        )
    return found.pop()


def form_of(found: Iterable[Mapping[AnswerForm, int]]) -> AnswerForm:
    """Return the form in which most answers of a source can be read.

    Of forms that read as many, a label comes first, and an index from 0 before one from 1. Raises Unfit where texts and
    indices read as many rows and mean other options: then nothing says which it is.
    """
    rows = list(found)
    counts = collections.Counter(form for one in rows for form in one)
    best = max(AnswerForm, key=lambda form: counts[form])
    if best is AnswerForm.TEXT:
        for form in (AnswerForm.FROM_0, AnswerForm.FROM_1):
            both = [one for one in rows if form in one and best in one]
            if counts[form] == counts[best] and any(one[form] != one[best] for one in both):
                what = f"the answers of {counts[form]:,} of {len(rows):,} rows may be {best}, or {form}"
                raise Unfit(Reason.ANSWER, what)
    return best
