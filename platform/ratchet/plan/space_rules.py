"""What the parts of a sweep space say of each other, whatever the plan."""

from __future__ import annotations

from collections.abc import Iterator

from ratchet.plan.distributions import size_of
from ratchet.plan.document import Document, KeyPath, Problem
from ratchet.plan.space import Space

MOST_ORDERED = 4
"""Names of a permutation that tpe may have: it sees orders as values that have nothing in common, and 5! = 120 of them
are more than most sweeps have trials."""


def check(document: Document, space: Space) -> list[Problem]:
    """Return what does not go together: keys in each other's way, a searcher and what it is asked, no budget."""
    return [problem for rule in _RULES for problem in rule(document, space)]


def varied_stages(space: Space) -> set[str]:
    """Return the stages whose own keys vary."""
    parts = [key.split(".") for key in space.keys]
    return {part[1] for part in parts if part[0] == "stages" and len(part) > 1}


def _overlaps(document: Document, space: Space) -> Iterator[Problem]:
    said: list[tuple[KeyPath, str]] = [(("keys", key), key) for key in space.keys]
    said += [(("set", key), key) for key in space.set]
    said += [(("unset", n), key) for n, key in enumerate(space.unset)]
    for n, (path, key) in enumerate(said):
        for before, other in said[:n]:
            if key == other:
                what = f"{key} is under `{before[0]}` too: a key is varied, set or left out, once"
                yield document.problem(path, what)
            elif key.startswith(f"{other}.") or other.startswith(f"{key}."):
                inner, outer = (key, other) if key.startswith(other) else (other, key)
                yield document.problem(path, f"{inner} is a part of {outer}: give one of the two")


def _seeds(document: Document, space: Space) -> Iterator[Problem]:
    if space.seeds is None:
        return
    for n, seed in enumerate(space.seeds):
        if seed in space.seeds[:n]:
            yield document.problem(("seeds", n), f"{seed} is listed twice")
    stages = varied_stages(space)
    for part, keys in (("keys", space.keys), ("set", space.set)):
        for key in keys:
            names = key.split(".")
            if names[0] == "stages" and names[2:] == ["seed"] and (not stages or names[1] in stages):
                yield document.problem((part, key), "is what `seeds` sets: give one of the two")


def _scheduler(document: Document, space: Space) -> Iterator[Problem]:
    if space.scheduler is not None and space.seeds is not None:
        what = (
            "ends trials of some seeds of a point, whose mean over the others would flatter it, and there are `seeds`: "
            "give one of the two"
        )
        yield document.problem(("scheduler",), what)


def _search(document: Document, space: Space) -> Iterator[Problem]:
    for key, one in space.keys.items():
        path = ("keys", key, one.kind)
        if space.search.by == "grid" and size_of(one) is None:
            what = "has no end of values, and search.by is grid: give `grid` values, or search by random or tpe"
            yield document.problem(path, what)
        if space.search.by == "tpe" and one.row.orders and len(one.given) > MOST_ORDERED:
            what = (
                f"orders {len(one.given)} names, and tpe takes {MOST_ORDERED} at most, "
                "as orders are unrelated values to it: search by random or grid"
            )
            yield document.problem(path, what)


def _budget(document: Document, space: Space) -> Iterator[Problem]:
    if space.search.by != "grid" and space.budget.trials is None and space.budget.hours is None:
        path = ("budget",) if "budget" in document.data else ("search", "by")
        what = f"a search by {space.search.by} has no end of its own: give budget.trials or budget.hours"
        yield document.problem(path, what)


_RULES = (_overlaps, _seeds, _scheduler, _search, _budget)
