"""What a file of `tune_spaces/` may say: which keys of a plan vary, and how the best values are looked for.

The classes say what each part may hold. The functions say what the parts of a space may not say together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ratchet.plan.base import Name, Seed, Strict, wrong
from ratchet.plan.distributions import Distribution, size_of
from ratchet.plan.document import Document, KeyPath, Problem

Mode = Literal["max", "min"]
MOST_ORDERED = 4
"""Names of a permutation that tpe may have: it sees orders as values that have nothing in common, and 5! = 120 of them
are more than most sweeps have trials."""


class Search(Strict):
    """How points are chosen."""

    by: Literal["grid", "random", "tpe"] = "grid"
    """`grid`: every combination of the values of `grid`, `choice`, `randint` and `permutation` keys. `random`: each key
    drawn by itself, but for `grid` keys, whose combinations come in turn. `tpe`: where earlier trials did well
    (Bergstra et al. 2011, by Optuna)."""
    seed: Seed = 0
    """Seed of what is drawn."""


class Scheduler(Strict):
    """Ends trials that do worse than others at the same optimiser step of a stage."""

    kind: Literal["asha", "median"]
    """`asha`: at each rung the best 1/reduction of the trials that came so far go on (Li et al. 2020).
    `median`: a trial ends whose best value is worse than the median of the others' means (Golovin et al. 2017)."""
    metric: str
    """A metric of training steps: `<stage>/train/<key of metrics.jsonl>`, such as `align/train/heldout/accuracy`."""
    mode: Mode
    """Whether more of it is better."""
    grace: Annotated[int, Field(ge=1)] = 10
    """Optimiser steps of the stage before which no trial is ended."""
    reduction: Annotated[float, Field(gt=1)] = 3.0
    """asha: at each rung one of so many goes on, and the next rung is so many times as far."""
    among: Annotated[int, Field(ge=2)] = 3
    """median: trials that must have come as far before one is ended."""

    @model_validator(mode="after")
    def _of_its_kind(self) -> Scheduler:
        for key, kind in (("reduction", "asha"), ("among", "median")):
            if key in self.model_fields_set and self.kind != kind:
                raise wrong(key, f"goes with kind {kind}, and the kind is {self.kind}: leave it out", "kind")
        return self


class Budget(Strict):
    """When a sweep is over; whichever comes first."""

    trials: Annotated[int, Field(ge=1)] | None = None
    """Plan runs, every seed counted. Left out: every combination of a grid."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Hours after which no trial is begun, over all calls that work on the sweep. Those under way end as usual, and
    those that a kill left unfinished are finished."""


class Space(Strict):
    """One sweep: keys of a plan and their values, what is wanted, and how much it may take."""

    name: Name
    """Names the sweep, with the plan: `<storage>/sweeps/<plan>-<name>`."""
    keys: Annotated[dict[str, Distribution], Field(min_length=1)]
    """Dotted keys of the plan, each with its values."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values of the plan by dotted key that every trial has."""
    unset: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Dotted keys of the plan that every trial leaves out, so that their defaults hold."""
    objectives: Annotated[dict[str, Mode], Field(min_length=1, max_length=3)]
    """Metrics of a finished trial, each with the way that is better; with several the result is a Pareto front."""
    search: Search = Search()
    """How points are chosen."""
    scheduler: Scheduler | None = None
    """Ends bad trials early; left out: every trial goes to its end. Not with `seeds`."""
    budget: Budget = Budget()
    """When the sweep is over."""
    at_once: Annotated[int, Field(ge=1)] | None = None
    """Trials under way at a time; left out: as many as the cluster has room for."""
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)] | None = None
    """Run each point once with each of these. They are the `seed` of the stages whose keys vary, or of all training
    stages where no key of a stage does. Left out: the plan's own seeds."""


def space_problems(document: Document, space: Space) -> list[Problem]:
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
                # "a.b" is below "a", and "ab" is not: so the dot belongs to the comparison.
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
    # A scheduler would end the seeds that do badly, and the mean of the point would be over the lucky ones.
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
