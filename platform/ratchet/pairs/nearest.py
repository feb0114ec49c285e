"""The layout that comes nearest to rows which fit none: what it needs, what they lack, and what may be meant by it."""

from __future__ import annotations

import collections
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from ratchet.pairs.columns import value_kind
from ratchet.pairs.two_answers import name_words, two_answers
from ratchet.plan.columns import path_steps, paths_of
from ratchet.plan.signatures.table import SIGNATURES

# In the order in which they are preferred where several lack as much.
_PLAIN: Mapping[str, tuple[str, ...]] = {
    "pair": ("prompt", "chosen", "rejected"),
    "alpaca": ("instruction", "chosen", "rejected"),
    "sharegpt": ("conversations", "chosen", "rejected"),
    "scored": ("prompt", "responses", "scores"),
    "annotated": ("instruction", "output_1", "output_2", "preference"),
    "choices": ("question", "choices", "answer"),
    "instruction": ("instruction", "output"),
}
"""The columns that a layout needs, in its commonest form."""
_COLUMNS: Mapping[tuple[str, str], str] = {
    ("sharegpt", "conversations"): "messages",
    ("instruction", "output"): "completion",
}
"""What `columns` calls a column that a layout has under a name of its own."""
_OTHER_WORDS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("question", "query", "input", "user", "problem", "ask", "text"),
    "instruction": ("question", "query", "input", "task", "problem"),
    "question": ("query", "prompt", "input"),
    "chosen": (
        *("preferred", "better", "best", "good", "accepted", "winner", "positive", "win"),
        *("correct", "passing", "revised", "edited"),
    ),
    "rejected": (
        *("worse", "bad", "worst", "dispreferred", "loser", "negative", "lose"),
        *("incorrect", "failing", "initial", "original"),
    ),
    "output": ("answer", "completion", "target", "reply", "response", "solution"),
    "reasoning_content": ("reasoning", "thinking", "thoughts", "cot", "rationale"),
}
_ONLY_TOGETHER = {"correct", "incorrect", "passing", "failing", "revised", "edited", "initial", "original"}
"""Words of the two sides that say too little where one of the sides has its own name."""
_THOUGHTS = "reasoning_content"
_BOTH = ("chosen", "rejected")
_ANY_OF_THEM = ("output",)
"""Needs of which no column is named where several have one of the words."""
_TALK = ("text", "turns", "turn")
_LIST = ("list", "texts", "turns", "object")
_TAKES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("prompt", "chosen", "rejected", "output", "output_1", "output_2"), _TALK),
    **dict.fromkeys(("instruction", "question"), ("text",)),
    **dict.fromkeys(("responses", "scores", "choices"), _LIST),
    "conversations": ("turns",),
}
"""What a column may hold that is meant by a name."""
_ABOUT = {"id", "type", "source", "model", "name", "len", "length", "tokens", "count", "num", "score", "rating"}
"""Words of columns that say something about a text, and hold none."""
_ALIKE = 0.8
_LESS = 0.2
"""By how much a known data set's columns must fit better than those of a plain layout to be named instead."""


def nearest(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the nearest layout in a line, and what to do."""
    columns = collections.Counter(column for row in rows for column, value in row.items() if value is not None)
    common = [str(column) for column, count in columns.most_common() if 2 * count > len(rows)] or list(
        map(str, columns)
    )
    holds = {column: _kind_in(rows, column) for column in common}
    if (compared := two_answers(holds)) is not None:
        return _compared(compared, holds, rows)
    known = {one.name: _needed(one.name) for one in SIGNATURES if one.reader}
    if _meant(_THOUGHTS, holds) is None:  # a question and an answer alone say too little of which column is which
        known = {name: needed for name, needed in known.items() if _THOUGHTS not in needed}
    # What has all columns of a known data set and does not fit is something else.
    needs = {**_PLAIN, **{name: needed for name, needed in known.items() if not set(needed) <= set(common)}}
    # A layout of plain names is what most people mean, and more so where nothing is the same.
    held = {name: _held(needed, holds) - _LESS * (name not in _PLAIN) for name, needed in needs.items()}
    best = max(needs, key=lambda name: held[name])
    if held[best] <= 0 and (inside := _opened(rows)):
        plain = {"messages", *(need for needed in _PLAIN.values() for need in needed)}
        if any(str(path).rpartition(".")[2] in plain for row in inside for path in row):
            return _dialogue_in(inside) or nearest(inside)
    best = best if held[best] > 0 else "pair"
    lacks = [need for need in needs[best] if need not in common]
    guesses = _guesses(needs[best], holds)
    shown = ", ".join(f"{need} (is it {guesses[need]}?)" if need in guesses else need for need in lacks)
    types = "" if lacks else ", and these hold other types of values"
    what = f"  nearest: {best}, which has {', '.join(needs[best])}" + (f"; these rows lack {shown}" if lacks else types)
    there = {need: need for need in needs[best] if need in common and _may_be(need, holds[need])} | guesses
    fields = ", ".join(f"{field}: {there.get(need, '…')}" for field, need in _fields(best).items())
    return what, f"say what the columns mean, `columns: {{{fields}}}`; or name a layout with `layout:`"


def _dialogue_in(inside: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Return what to do with rows whose one conversation lies in an object; None where there is none, or more."""
    talks = {path for row in inside for path, value in row.items() if value_kind(value) == "turns"}
    if len(talks) != 1 or any({*_BOTH} & {*name_words(path)} for row in inside for path in row):
        return None
    (path,) = talks
    return f"  nearest: instruction; the messages lie in {path}", f"say so, `columns: {{messages: {path}}}`"


def _opened(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what lies in the objects of rows, by paths; nothing where no row has an object."""
    opened = [
        {
            f"{column}.{part}": held
            for column, value in row.items()
            if isinstance(value, Mapping)
            for part, held in value.items()
        }
        for row in rows
    ]
    return [row for row in opened if row]


def _compared(
    compared: tuple[str, str, str | None], holds: Mapping[str, str | None], rows: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    """Return what to do with two answers of which neither name says that it is the better one."""
    first, second, verdict = compared
    left = {name: kind for name, kind in holds.items() if name not in compared}
    prompt = "prompt" if "prompt" in left else _meant("prompt", left)
    what = f"  nearest: annotated; {first} and {second} are two answers, and their names do not say which is better"
    answers = f"output_1: {_text_in(rows, first)}, output_2: {_text_in(rows, second)}"
    judged = f"preference: {{column: {verdict or '…'}, first: […], second: […]}}"
    return what, (
        f"say which is better, `columns: {{prompt: {prompt or '…'}, {answers}, {judged}}}`, with its values where "
        f"{first} is better in `first`, and where {second} is in `second`"
    )


def _text_in(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    """Return the path to an answer's text, also where an object holds it beside other things."""
    value = next((row[column] for row in rows if row.get(column) is not None), None)
    if value_kind(value) != "object" or not isinstance(value, Mapping):
        return column
    return f"{column}.{next((key for key in ('content', 'text', 'response', 'answer') if key in value), '…')}"


def _kind_in(rows: Sequence[Mapping[str, Any]], column: str) -> str | None:
    return next((value_kind(row[column]) for row in rows if row.get(column) is not None), None)


def _may_be(need: str, kind: str | None) -> bool:
    return need not in _TAKES or kind in _TAKES[need]


def _fields(name: str) -> Mapping[str, str]:
    """Return what a plan's `columns` would have for a layout: each field with the column that holds it."""
    if name in _PLAIN:
        return {_COLUMNS.get((name, need), need): need for need in _PLAIN[name]}
    signature = next(one for one in SIGNATURES if one.name == name)
    given = ((field, where) for field, where in signature.columns.items() if field not in signature.optional)
    return {field: where if isinstance(where, str) else "…" for field, where in given}


def _held(needed: Sequence[str], holds: Mapping[str, str | None]) -> float:
    """Return which share of the names is there; a slip counts less than the same, and another word less again."""
    guesses = _guesses(needed, holds)
    values = [
        1.0 if need in holds else 0.0 if need not in guesses else 0.9 if _is_slip(need, guesses[need]) else 0.5
        for need in needed
    ]
    return sum(values) / len(needed)


def _guesses(needed: Sequence[str], holds: Mapping[str, str | None]) -> dict[str, str]:
    """Return the columns that are most likely meant by names which no column has."""
    found: dict[str, str] = {}
    for need in needed:
        left = {name: kind for name, kind in holds.items() if name not in needed and name not in found.values()}
        if need not in holds and (guess := _meant(need, left)):
            found[need] = guess
    # One side alone is as likely the verdict on two answers as one of them.
    if any(side in needed and side not in holds and side not in found for side in _BOTH):
        found = {need: guess for need, guess in found.items() if need not in _BOTH or _is_slip(need, guess)}
    if not all(side in found for side in _BOTH):
        sides = {need: guess for need, guess in found.items() if need in _BOTH}
        weak = {need for need, guess in sides.items() if _ONLY_TOGETHER & {*name_words(guess)}}
        found = {need: guess for need, guess in found.items() if need not in weak}
    return found


def _is_slip(need: str, column: str) -> bool:
    """Say whether a name is another with letters mistaken. A word more or less, `in` or `s` are no slips."""
    words, others = name_words(need), name_words(column[:100])
    return len(words) == len(others) and all(
        one == other
        or (
            len(one) > 3
            and not one.endswith(other)
            and not other.endswith(one)
            and not one.startswith(other)
            and not other.startswith(one)
            and difflib.SequenceMatcher(None, one, other).ratio() >= _ALIKE
        )
        for one, other in zip(words, others, strict=True)
    )


def _needed(name: str) -> tuple[str, ...]:
    signature = next(one for one in SIGNATURES if one.name == name)
    paths = [
        path
        for field, where in signature.columns.items()
        if field not in signature.optional
        for path in paths_of(where)
    ]
    return tuple(dict.fromkeys(str(path_steps(path)[0]) for path in paths))


def _meant(need: str, holds: Mapping[str, str | None]) -> str | None:
    """Return the one column that is meant by a name: by a slip, or by another word for it; None where none is.

    A plan with the wrong column trains the wrong answers: of several that may be meant none is.
    """
    likely = [column for column, kind in holds.items() if _may_be(need, kind) and not _ABOUT & {*name_words(column)}]
    if slips := [column for column in likely if _is_slip(need, column)]:
        return slips[0] if len(slips) == 1 else None
    found = [
        [column for column in likely if word in name_words(column)] for word in (need, *_OTHER_WORDS.get(need, ()))
    ]
    if need in _ANY_OF_THEM:
        # What a model answered and what is held against it are both answers.
        likely = [column for column, kind in holds.items() if _may_be(need, kind) and kind != "number"]
        words = {need, *_OTHER_WORDS[need]}
        found = [[column for column in likely if words & {*name_words(column)} and "input" not in name_words(column)]]
    columns = next(filter(None, found), [])
    return columns[0] if len(columns) == 1 else None
