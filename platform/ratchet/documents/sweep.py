"""What came out of a sweep: `sweep.json`, as frozen dataclasses (docs/sweeps.md says what every key means).

Times are in seconds; a number that does not exist is None. Paths are relative to the storage root.
A point is a set of values of the plan's keys; a trial is one run of the plan at a point, with one seed.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from ratchet.documents.report import Diagnosis, Hardware
from ratchet.plan.distributions import DistributionName

NAME = "sweep.json"
FORMAT = 1
Status = typing.Literal["finished", "stopped", "failed", "unfinished"]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is wanted of a finished trial. A `share` lies from 0 to 1."""

    metric: str
    mode: typing.Literal["max", "min"]
    share: bool = False


@dataclasses.dataclass(frozen=True)
class Key:
    """A dotted key of the plan that varies. `kind` names its distribution; `values` are its values in their order
    (grid, choice, permutation), or the two ends of its range (uniform, loguniform, randint).
    """

    key: str
    kind: DistributionName
    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Value:
    """A metric of one trial, and its standard error over the items that it is a mean of, where it is one.

    A share has the ends of its exact 95 % interval, and no error where all its items agree.
    """

    value: float | None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class TrialOutcome:
    """One run of the plan. `reason` says why it was stopped or failed; `steps` are the `stages` ids that it is made of,
    in order; `run` is its folder; `wandb` its run there, `<project>/<run id>`.
    """

    id: str
    number: int
    point: str
    seed: int | None
    status: Status
    reason: str
    seconds: float
    metrics: Mapping[str, Value]
    steps: tuple[str, ...]
    run: str
    wandb: str | None = None


@dataclasses.dataclass(frozen=True)
class ObjectiveResult:
    """An objective at a point: the mean over the seeds that finished.

    `standard_error` is over seeds where two or more finished, else the trial's own over items; `of_seeds` tells. `low`
    and `high` are a share's 95 % interval: of one seed its own; of several that all came to the same the widest ends.
    """

    metric: str
    value: float | None
    standard_error: float | None
    seeds: int
    of_seeds: bool
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Point:
    """Values of the keys, and what they came to. `rank` is from 1, best first (None: no trial finished, or several
    objectives); `front` whether no other point is better in all objectives; `marks` such as `easy to hard`.
    """

    id: str
    values: Mapping[str, Any]
    results: tuple[ObjectiveResult, ...]
    rank: int | None
    front: bool
    marks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SweepStage:
    """One trained (or merged) model of the sweep, which every trial with the same beginnings has.

    `id` is its fingerprint, `start` the id of the stage that it starts from (None: the plan's start model), `trials`
    those that have it. `made_by` is the trial of this sweep that made it, else the plan whose run did, or
    `<sweep>/<trial>` of another sweep: it was found in the store. `pairs` are pairs trained, over all epochs.
    """

    id: str
    name: str
    kind: str
    chunk: str
    start: str | None
    trials: tuple[str, ...]
    made_by: str
    pairs: int
    seconds: float
    reference_pairs: int
    reference_seconds: float


@dataclasses.dataclass(frozen=True)
class SweepWork:
    """What this sweep computed, and what it would have if no trial had shared anything with another or an earlier run.

    `stages_found` were in the store before it and are no part of `stages`. A reference pass is one model over one
    source, pairs to train on and held-out ones together; it is this sweep's where a stage that it made used it.
    """

    stages: int
    stages_found: int
    stages_unshared: int
    pairs: int
    pairs_unshared: int
    reference_passes: int
    reference_passes_unshared: int
    reference_pairs: int
    reference_pairs_unshared: int
    seconds: float
    seconds_unshared: float


@dataclasses.dataclass(frozen=True)
class Importance:
    """How much of an objective's variation a key explains, from 0 to 1, all keys together 1 (fANOVA)."""

    metric: str
    key: str
    share: float


LEVEL = 0.05
"""Two points count as different where `p_all` is below this."""


@dataclasses.dataclass(frozen=True)
class PointComparison:
    """The first point of the ranks minus another one, with the ends of the 95 % interval.

    `basis` says what is set against what: the same held-out `pairs`, the same `seeds`, or two results that are taken
    to be `independent`; `count` is how many pairs or seeds, 0 where they are independent. `p` is of no difference,
    None where nothing tells an error, and `p_all` is it for all pairs of points: which one is first was seen in the
    same values.
    """

    point: str
    other: str
    difference: float
    standard_error: float | None
    low: float | None
    high: float | None
    p: float | None
    basis: typing.Literal["pairs", "seeds", "independent"]
    count: int
    p_all: float | None = None

    @property
    def shown(self) -> bool:
        """Whether the two points can be told apart."""
        return self.p_all is not None and self.p_all < LEVEL


@dataclasses.dataclass(frozen=True)
class SweepOutcome:
    """A sweep and what came of it. `best` is a point's id, None with several objectives, none finished, or a tie.

    `tied` are the points that share the best value, where two or more do.
    """

    format: int
    name: str
    plan: str
    created: str
    ratchet: str
    commit: str
    space: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    keys: tuple[Key, ...]
    trials: tuple[TrialOutcome, ...]
    points: tuple[Point, ...]
    best: str | None
    stages: tuple[SweepStage, ...]
    work: SweepWork
    importance: tuple[Importance, ...]
    planned: int | None = None
    seconds: float = 0.0
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hardware: Hardware | None = None
    plan_text: str = ""
    space_text: str = ""
    warnings: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    comparisons: tuple[PointComparison, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()
