"""Ids of calls: what a template reads of them, and turns with ids of that form.

Kimi's template writes the id where others write the tool's name, so that it must be `functions.NAME:N`. Mistral's takes
ids of nine letters and digits alone. Where a template reads an id, a call without one would leave a gap in its text.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ratchet.pairs.pair import Turn


@dataclasses.dataclass(frozen=True)
class IdForm:
    """A form of ids: whether an id of a tool's call has it, and the id of a call by its name, its place and its own."""

    fits: Callable[[str, str], bool]
    make: Callable[[str, int, str], str]


def _nine(name: str, place: int, own: str) -> str:
    # From what the call is, so that the same row has the same ids at every time.
    return hashlib.sha256(f"{place} {name} {own}".encode()).hexdigest()[:9]


ID_FORMS: Mapping[str, IdForm] = {
    "own": IdForm(lambda _, own: True, _nine),
    "any": IdForm(lambda _, own: bool(own), _nine),
    "nine": IdForm(lambda _, own: re.fullmatch("[A-Za-z0-9]{9}", own) is not None, _nine),
    "named": IdForm(
        lambda name, own: re.fullmatch(rf"functions\.{re.escape(name)}:\d+", own) is not None,
        lambda name, place, own: f"functions.{name}:{place}",
    ),
}
"""Forms of ids that templates ask for, those that most ids have first."""


def calls_in(turns: Sequence[Turn]) -> int:
    """Return how many calls turns have."""
    return sum(len(json.loads(turn.tool_calls)) for turn in turns if turn.tool_calls is not None)


def with_ids(turns: Sequence[Turn], form: str | None, place: int = 0, *, names: bool = False) -> Sequence[Turn]:
    """Return turns whose calls, and results of these, have ids of a form; their own ids where the form is None.

    An id that has the form stays. `place` is the number of calls before these turns. A result goes with the call of the
    same id that has none yet, else with one of its tool, else with the first. Calls of the last turn come first.
    With `names` a result that names no tool has the name of its call's.
    """
    if not (form or names) or all(turn.tool_calls is None and turn.role != "tool" for turn in turns):
        return turns
    waiting: list[tuple[str, str, str]] = []
    found: list[Turn] = []
    used = {str(call.get("id") or "") for turn in turns if turn.tool_calls for call in json.loads(turn.tool_calls)}
    for turn in turns:
        if turn.tool_calls is not None:
            calls, named = _named(json.loads(turn.tool_calls), ID_FORMS[form or "own"], place, used)
            place, waiting = place + len(calls), [*named, *waiting]
            text = json.dumps(calls, ensure_ascii=False, separators=(",", ":"))
            found.append(turn if form is None else dataclasses.replace(turn, tool_calls=text))
        elif turn.role == "tool" and waiting:
            _, name, became = waiting.pop(_answered(turn, waiting))
            known_as = turn.tool_call_id if form is None else became
            found.append(dataclasses.replace(turn, tool_call_id=known_as, name=turn.name or (name if names else None)))
        else:
            found.append(turn)
    return found


def _named(
    calls: Sequence[dict[str, Any]], form: IdForm, place: int, used: set[str]
) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    """Return calls with ids of a form, and of each its own id, its tool's name and the id that it has now.

    No id that is made is among those `used`, which it joins.
    """
    given, named = [], []
    for at, call in enumerate(calls, place):
        name, own = call["function"]["name"], str(call.get("id") or "")
        became = own
        if not form.fits(name, own):
            became = next(made for place in itertools.count(at) if (made := form.make(name, place, own)) not in used)
            used.add(became)
        given.append({"type": call["type"], "id": became, "function": call["function"]})
        named.append((own, name, became))
    return given, named


def _answered(turn: Turn, waiting: Sequence[tuple[str, str, str]]) -> int:
    """Return the place of the call that a result answers: by its id, else by its tool's name, else the first."""
    by_id = (at for at, (own, _, _) in enumerate(waiting) if own and own == turn.tool_call_id)
    by_name = (at for at, (_, name, _) in enumerate(waiting) if name == turn.name)
    return next(by_id, next(by_name, 0))
