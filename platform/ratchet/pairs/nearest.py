"""The layout that comes nearest to rows which fit none: what it needs, what they lack, and what may be meant by it."""

from __future__ import annotations

import collections
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from ratchet.plan.columns import path_steps, paths_of
from ratchet.plan.outline import close
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
    "chosen": ("preferred", "better", "best", "good", "accepted", "winner", "positive", "win"),
    "rejected": ("worse", "bad", "worst", "dispreferred", "loser", "negative", "lose"),
    "output": ("answer", "completion", "target", "reply", "response"),
}
_ALIKE = 0.75
_LESS = 0.2
"""By how much a known data set's columns must fit better than those of a plain layout to be named instead."""


def nearest(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the nearest layout in a line, and what to do."""
    columns = collections.Counter(column for row in rows for column, value in row.items() if value is not None)
    common = [str(column) for column, count in columns.most_common() if 2 * count > len(rows)] or list(
        map(str, columns)
    )
    known = {one.name: _needed(one.name) for one in SIGNATURES if one.reader}
    # What has all columns of a known data set and does not fit is something else.
    needs = {**_PLAIN, **{name: needed for name, needed in known.items() if not set(needed) <= set(common)}}
    # A layout of plain names is what most people mean, and more so where nothing is the same.
    held = {name: _held(needed, common) - _LESS * (name not in _PLAIN) for name, needed in needs.items()}
    best = max(needs, key=lambda name: held[name])
    best = best if held[best] > 0 else "pair"
    lacks = [need for need in needs[best] if need not in common]
    guesses = _guesses(needs[best], common)
    shown = ", ".join(f"{need} (is it {guesses[need]}?)" if need in guesses else need for need in lacks)
    types = "" if lacks else ", and these hold other types of values"
    what = f"  nearest: {best}, which has {', '.join(needs[best])}" + (f"; these rows lack {shown}" if lacks else types)
    fields = ", ".join(
        f"{field}: {guesses.get(need, need if need in common else '…')}" for field, need in _fields(best).items()
    )
    return what, f"say what the columns mean, `columns: {{{fields}}}`; or name a layout with `layout:`"


def _fields(name: str) -> Mapping[str, str]:
    """Return what a plan's `columns` would have for a layout: each field with the column that holds it."""
    if name in _PLAIN:
        return {_COLUMNS.get((name, need), need): need for need in _PLAIN[name]}
    signature = next(one for one in SIGNATURES if one.name == name)
    given = ((field, where) for field, where in signature.columns.items() if field not in signature.optional)
    return {field: where if isinstance(where, str) else "…" for field, where in given}


def _held(needed: Sequence[str], columns: Sequence[str]) -> float:
    """Return which share of the names is there; a slip counts less than the same, and another word less again."""
    guesses = _guesses(needed, columns)
    values = [
        1.0 if need in columns else 0.0 if need not in guesses else 0.9 if _is_slip(need, guesses[need]) else 0.5
        for need in needed
    ]
    return sum(values) / len(needed)


def _guesses(needed: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Return the columns that are most likely meant by names which no column has."""
    found: dict[str, str] = {}
    for need in needed:
        left = [column for column in columns if column not in needed and column not in found.values()]
        if need not in columns and (guess := _meant(need, left)):
            found[need] = guess
    return found


def _is_slip(need: str, column: str) -> bool:
    return difflib.SequenceMatcher(None, need, column[:100].lower()).ratio() >= _ALIKE


def _needed(name: str) -> tuple[str, ...]:
    signature = next(one for one in SIGNATURES if one.name == name)
    paths = [
        path
        for field, where in signature.columns.items()
        if field not in signature.optional
        for path in paths_of(where)
    ]
    return tuple(dict.fromkeys(str(path_steps(path)[0]) for path in paths))


def _meant(need: str, columns: Sequence[str]) -> str | None:
    """Return the column that is most likely meant by a name."""
    if found := close(need, columns):
        return found
    for word in (need, *_OTHER_WORDS.get(need, ())):
        for column in columns:
            if word in column.lower():
                return column
    return None
