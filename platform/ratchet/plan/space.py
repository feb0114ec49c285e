"""What a file of `tune_spaces/` may say: which keys of a plan vary, and how the best values are looked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ratchet.plan.base import Name, Seed, Strict, wrong
from ratchet.plan.distributions import Distribution

Mode = Literal["max", "min"]


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
    """Hours after which no trial is begun, over all calls that work on the sweep; those under way end as usual, and
    those that a kill left unfinished are gone on with."""


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
    """Run each point once with each of these: `seed` of the stages whose keys vary, or of all training stages where
    no key of a stage does. Left out: the plan's own seeds."""
