"""What came out of a sweep: `sweep.json`, as frozen dataclasses (docs/sweeps.md says what every key means).

Times are in seconds; a number that does not exist is None. Paths are relative to the storage root.
A point is a set of values of the plan's keys; a trial is one run of the plan at a point, with one seed.
"""

from __future__ import annotations

import dataclasses
import typing
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.documents.report import ABSENT, Diagnosis, Hardware
from ratchet.errors import DataError
from ratchet.plan.distributions import DistributionName
from ratchet.store.codec import from_values, read_document

NAME = "sweep.json"
FORMAT = 1
_KEYS = "docs/sweeps.md says what each key holds"
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


def load_sweep(path: Path) -> SweepOutcome:
    """Read a sweep.json. Raises DataError where it is absent, not JSON, or not a sweep that holds together."""
    found = read_document(SweepOutcome, path, absent=ABSENT, fix=_KEYS)
    return checked_sweep(found, str(path))


def read_sweep(values: Any, *, where: str = NAME) -> SweepOutcome:
    """Return JSON values as a SweepOutcome whose parts name only one another.

    Raises DataError naming the dotted key that is wrong, or the id that nothing has.
    """
    return checked_sweep(from_values(SweepOutcome, values, where=where, fix=_KEYS), where)


def checked_sweep(found: SweepOutcome, where: str) -> SweepOutcome:
    """Return a sweep. Raises DataError where an id stands twice, names nothing, or a stage starts from itself."""
    fault = _version_fault(found) or _name_fault(found) or _circle(found)
    if fault is not None:
        raise DataError(fault, where=where, fix=_KEYS, code="data.document")
    return found


def _version_fault(found: SweepOutcome) -> str | None:
    return None if found.format == FORMAT else f"format: expected {FORMAT}, got {found.format}"


def _name_fault(found: SweepOutcome) -> str | None:
    """Say which id stands twice, or names nothing."""
    ids = {
        kind: [one.id for one in some]
        for kind, some in (("points", found.points), ("trials", found.trials), ("stages", found.stages))
    }
    for kind, some in ids.items():
        if len(set(some)) < len(some):
            twice = Counter(some).most_common(1)[0][0]
            return f"{kind}: {twice[:60]!r} is there twice"
    named = [
        *(("points", "trials.point", one.point) for one in found.trials),
        *(("stages", "trials.steps", step) for one in found.trials for step in one.steps),
        *(("stages", "stages.start", one.start) for one in found.stages if one.start is not None),
        *(("trials", "stages.trials", trial) for one in found.stages for trial in one.trials),
        *([("points", "best", found.best)] if found.best is not None else []),
    ]
    known = {kind: set(some) for kind, some in ids.items()}
    return next(
        (f"{at}: {name[:60]!r} is not one of {kind}" for kind, at, name in named if name not in known[kind]), None
    )


def _circle(found: SweepOutcome) -> str | None:
    """Say which stage starts from itself, over others or not."""
    # The page draws what is reached from the start model: stages in a circle would be missing without a word.
    starts = {one.id: one.start for one in found.stages}
    for first in starts:
        way: set[str] = set()
        step: str | None = first
        while step is not None:
            if step in way:
                return f"stages.start: {step[:60]!r} starts from itself"
            way.add(step)
            step = starts[step]
    return None
