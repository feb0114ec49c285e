"""What came out of a sweep, from the files of its trials: `sweep.json` (documents/sweep.py says what it holds)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet.documents.report import Hardware
from ratchet.documents.sweep import (
    FORMAT,
    NAME,
    Importance,
    Key,
    Objective,
    SweepOutcome,
    SweepStage,
    SweepWork,
    TrialOutcome,
    Value,
)
from ratchet.errors import CorruptError
from ratchet.plan.schema import Plan
from ratchet.plan.space import Space
from ratchet.report.sweep.diagnoses import diagnose
from ratchet.store.codec import to_values
from ratchet.store.files import write_json
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.record import code_commit, now, versions
from ratchet.store.sound import legible_record
from ratchet.tune.compare import compare, shares_of, tied
from ratchet.tune.importance import importance
from ratchet.tune.rank import points_of
from ratchet.tune.trial import read_end, read_point

_END = "the trial's folder can be deleted: the trial is run again"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a sweep was asked for. `planned` trials are to be run in all, where that is known; texts are as written."""

    plan: Plan
    space: Space
    plan_text: str = ""
    space_text: str = ""
    planned: int | None = None

    @property
    def name(self) -> str:
        """The sweep's name, which its folder has too."""
        return f"{self.plan.name}-{self.space.name}"


def gather(
    layout: Layout,
    asked: Asked,
    *,
    seconds: float = 0.0,
    marks: Mapping[str, Sequence[str]] | None = None,
    hardware: Hardware | None = None,
    warnings: Sequence[str] = (),
) -> SweepOutcome:
    """Return what the trials of a sweep have come to so far. `layout` is of the storage root.

    `marks` gives words to points by their id. A folder without point.json is no trial; one without trial.json is
    unfinished. Raises CorruptError where a file of a trial is not what was written.
    """
    found = list(read_trials(layout, asked.name))
    trials = tuple(trial for trial, _, _ in found)
    objectives = tuple(
        Objective(metric, mode, any(shares_of(trials, metric))) for metric, mode in asked.space.objectives.items()
    )
    values = {trial.point: point for trial, point, _ in reversed(found)}
    points = points_of(trials, values, objectives, marks or {}, asked.space.seeds or ())
    keys = tuple(Key(key, one.kind, tuple(one.row.shown(one.given))) for key, one in asked.space.keys.items())
    same = tied(points)
    made = SweepOutcome(
        format=FORMAT,
        name=asked.name,
        plan=asked.plan.name,
        created=now(),
        ratchet=versions()["ratchet"],
        commit=code_commit(),
        space=asked.space.model_dump(mode="json", exclude_none=True),
        objectives=objectives,
        keys=keys,
        trials=trials,
        points=points,
        best=None if same else next((point.id for point in points if point.rank == 1), None),
        stages=_stages(layout, asked.name, found),
        work=_work(layout, asked.name, found),
        importance=tuple(
            Importance(objective.metric, key, share)
            for objective in objectives
            for key, share in importance(keys, points, objective.metric).items()
        ),
        planned=asked.planned,
        seconds=round(seconds, 1),
        versions=versions(),
        hardware=hardware,
        plan_text=asked.plan_text,
        space_text=asked.space_text,
        warnings=tuple(warnings),
        tied=same,
        comparisons=compare(layout, asked.plan, points, trials, objectives[0]),
    )
    return dataclasses.replace(made, diagnoses=diagnose(made))


def write_sweep(folder: Path, document: SweepOutcome) -> Path:
    """Write `sweep.json` into a sweep's folder, whole or not at all, and return its path. Raises StorageError."""
    write_json(folder / NAME, to_values(document))
    return folder / NAME


Found = tuple[TrialOutcome, Mapping[str, Any], Sequence[Mapping[str, Any]]]
"""A trial, its point's values, and its steps as its trial.json has them."""


def read_trials(layout: Layout, sweep: str) -> Iterator[Found]:
    """Yield the trials of a sweep in the order in which they were chosen. Raises CorruptError."""
    trials = layout.trials(sweep)
    folder = trials.run("-").parent
    read = []
    for path in folder.iterdir() if folder.is_dir() else ():
        chosen, ended = read_point(path), read_end(path)
        if chosen is None and ended is None:
            continue
        try:
            read.append(_trial({**(chosen or {}), **(ended or {})}, str(path.relative_to(layout.root))))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"not a trial as it was written: {error!r}", where=str(path), fix=_END) from error
    yield from sorted(read, key=lambda one: one[0].number)


def _trial(facts: Mapping[str, Any], folder: str) -> Found:
    steps = facts.get("steps", [])
    trial = TrialOutcome(
        id=facts["trial"],
        number=facts["number"],
        point=facts["point_id"],
        seed=facts["seed"],
        status=facts.get("status", "unfinished"),
        reason=_reason(facts.get("reason")),
        seconds=float(facts.get("seconds", 0.0)),
        metrics={
            name: Value(one["value"], one["standard_error"], one.get("low"), one.get("high"))
            for name, one in facts.get("metrics", {}).items()
        },
        steps=tuple(step["id"] for step in steps),
        run=folder,
        wandb=facts.get("wandb"),
    )
    return trial, facts["point"], steps


def _reason(reason: Mapping[str, Any] | None) -> str:
    if reason is None:
        return ""
    said = ": ".join(reason[key] for key in ("kind", "where", "what") if reason.get(key))
    return f"{said}\n{reason['fix']}" if reason.get("fix") else said


def _stages(layout: Layout, sweep: str, found: Sequence[Found]) -> tuple[SweepStage, ...]:
    """Return each distinct stage with the trials that have it, in the order in which trials first came to it."""
    here = _makers(layout, sweep, found)
    steps: dict[str, Mapping[str, Any]] = {}
    trials: dict[str, list[str]] = {}
    for trial, _, mine in found:
        for step in mine:
            steps.setdefault(step["id"], step)
            if trial.id not in (having := trials.setdefault(step["id"], [])):
                having.append(trial.id)
    told = ("name", "kind", "chunk", "start")
    return tuple(
        SweepStage(
            id=fp,
            trials=tuple(trials[fp]),
            made_by=here.get(fp, step["made_by"]),
            **{key: step[key] for key in told},
            **_cost(step),
        )
        for fp, step in steps.items()
    )


def _makers(layout: Layout, sweep: str, found: Sequence[Found]) -> dict[str, str]:
    """Return the trial that made it of each stage that this sweep made; all others were found in the store.

    A sweep that was put aside had this one's name too, and may have had trials of the same names: what was begun
    before the first trial of this one was chosen is that one's.
    """
    chosen = (read_point(layout.root / trial.run) for trial, _, _ in found)
    first = min((one["at"] for one in chosen if one is not None), default="")
    made: dict[str, str] = {}
    for step in (step for _, _, mine in found for step in mine):
        by, _, trial = step["made_by"].rpartition("/")
        if by == sweep and step["started"] >= first:
            made[step["id"]] = trial
    return made


def _cost(step: Mapping[str, Any]) -> dict[str, Any]:
    counts = {key: int(step[key] or 0) for key in ("pairs", "reference_pairs")}
    return counts | {key: float(step[key] or 0.0) for key in ("seconds", "reference_seconds")}


def _work(layout: Layout, sweep: str, found: Sequence[Found]) -> SweepWork:
    """Add up what this sweep made, once each, and what every trial would have made by itself.

    What was in the store before, of other runs and sweeps, is no work of this one. A reference pass counts as this
    sweep's where a stage that it made used it, whichever trial scored it first.

    Reference scores are added up by their own folders in the store: stages that differ in their loss alone share
    them, which no sum over stages shows. A run by itself makes none twice either.
    """
    asked = [step for _, _, mine in found for step in mine]
    distinct = {step["id"]: step for step in asked}
    here = _makers(layout, sweep, found)
    scored = {fp: _scored(layout, step) for fp, step in distinct.items()}
    own = [{name: one for step in mine for name, one in scored[step["id"]].items()} for _, _, mine in found]
    once = {name: one for fp in here for name, one in scored[fp].items()}
    costs, asked_costs = [_cost(distinct[fp]) for fp in here], [_cost(distinct[step["id"]]) for step in asked]
    return SweepWork(
        stages=len(here),
        stages_found=len(distinct) - len(here),
        stages_unshared=len(asked),
        pairs=sum(one["pairs"] for one in costs),
        pairs_unshared=sum(one["pairs"] for one in asked_costs),
        reference_passes=_passes(once),
        reference_passes_unshared=sum(map(_passes, own)),
        reference_pairs=sum(pairs for _, pairs in once.values()),
        reference_pairs_unshared=sum(pairs for some in own for _, pairs in some.values()),
        seconds=round(sum(one["seconds"] for one in costs), 3),
        seconds_unshared=round(sum(one["seconds"] for one in asked_costs), 3),
    )


def _passes(scored: Mapping[str, tuple[str, int]]) -> int:
    return len({of for of, _ in scored.values()})


def _pass_of(identity: Mapping[str, Any]) -> str:
    """Name the pass that some scores are of: one model, in one precision, over one source, whichever rows."""
    return fingerprint({key: value for key, value in identity.items() if key not in {"split", "rows"}})


def _scored(layout: Layout, step: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Return the reference scores of a stage by their name in the store: model and tokens, and how many pairs.

    Where the store does not have them any more, they are taken to be the stage's own.
    """
    known = {name: legible_record(layout.logps(name)) for name in step["references"]}
    if None in known.values():
        return {step["id"]: (step["id"], int(step["reference_pairs"]))}
    return {name: (_pass_of(one.identity), int(one.counts["pairs"])) for name, one in known.items() if one is not None}
