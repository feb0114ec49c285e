"""The layout that comes nearest to rows which fit none: what it needs, what they lack, and what may be meant by it."""

from __future__ import annotations

import collections
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
_OTHER_WORDS: Mapping[str, tuple[str, ...]] = {
    "prompt": ("question", "query", "input", "user", "problem", "ask", "text"),
    "instruction": ("question", "query", "input", "task", "problem"),
    "question": ("query", "prompt", "input"),
    "chosen": ("preferred", "better", "best", "good", "accepted", "winner", "positive", "win"),
    "rejected": ("worse", "bad", "worst", "dispreferred", "loser", "negative", "lose"),
    "output": ("answer", "completion", "target", "reply", "response"),
}
_LESS = 0.2
"""By how much a known data set's columns must fit better than those of a plain layout to be named instead."""


def nearest(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the nearest layout in a line, and what to do."""
    columns = collections.Counter(column for row in rows for column, value in row.items() if value is not None)
    common = [str(column) for column, count in columns.most_common() if 2 * count > len(rows)] or list(
        map(str, columns)
    )
    needs = {**_PLAIN, **{one.name: _needed(one.name) for one in SIGNATURES if one.reader}}
    # A layout of plain names is what most people mean, and more so where nothing is the same.
    held = {name: _held(needed, common) - _LESS * (name not in _PLAIN) for name, needed in needs.items()}
    best = max(needs, key=lambda name: held[name])
    best = best if held[best] > 0 else "pair"
    lacks = [need for need in needs[best] if need not in common]
    guesses: dict[str, str] = {}
    for need in lacks:
        left = [column for column in common if column not in needs[best] and column not in guesses.values()]
        if guess := _meant(need, left):
            guesses[need] = guess
    shown = ", ".join(f"{need} (is it {guesses[need]}?)" if need in guesses else need for need in lacks)
    types = "" if lacks else ", and these hold other types of values"
    what = f"  nearest: {best}, which has {', '.join(needs[best])}" + (f"; these rows lack {shown}" if lacks else types)
    known = ", ".join(f"{need}: {guesses.get(need, need if need in common else '…')}" for need in _PLAIN.get(best, ()))
    fields = known or "prompt: …, chosen: …, rejected: …"
    return what, f"say what the columns mean, `columns: {{{fields}}}`; or name a layout with `layout:`"


def _held(needed: Sequence[str], columns: Sequence[str]) -> float:
    """Return which share of the names is there; one that differs by a slip counts less than one that is the same."""
    left = [column for column in columns if column not in needed]
    return sum(1.0 if need in columns else 0.9 if close(need, left) else 0.0 for need in needed) / len(needed)


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
