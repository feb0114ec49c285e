"""What came out of a sweep, from the files of its trials: `sweep.json` (documents/sweep.py says what it holds)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
)
from ratchet.documents.trial import TrialStep
from ratchet.plan.schema import Plan
from ratchet.plan.space import Space
from ratchet.reference.models import pass_of
from ratchet.report.sweep.diagnoses import diagnose_sweep
from ratchet.store.codec import to_values
from ratchet.store.files import write_json
from ratchet.store.layout import Layout
from ratchet.store.record import code_commit, legible_record, now, versions
from ratchet.tune.compare import compare, shares_of, tied
from ratchet.tune.importance import importance
from ratchet.tune.rank import points_of
from ratchet.tune.trial import WrittenTrial, written_trials


@dataclasses.dataclass(frozen=True)
class SweepRequest:
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
    asked: SweepRequest,
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
    # The name is any trial's: what is wanted is the folder above it.
    found = written_trials(layout.trials(asked.name).run("-").parent)
    trials = tuple(_outcome(layout, trial) for trial in found)
    objectives = tuple(
        Objective(metric, mode, any(shares_of(trials, metric))) for metric, mode in asked.space.objectives.items()
    )
    # Reversed, so that the first trial of a point gives its values: one that says 1 and one that says 1.0 share the id.
    values = {trial.point.point_id: trial.point.point for trial in reversed(found)}
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
        stages=_stages(asked.name, found),
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
    return dataclasses.replace(made, diagnoses=diagnose_sweep(made))


def write_sweep(folder: Path, document: SweepOutcome) -> Path:
    """Write `sweep.json` into a sweep's folder, whole or not at all, and return its path. Raises StorageError."""
    write_json(folder / NAME, to_values(document))
    return folder / NAME


def _outcome(layout: Layout, written: WrittenTrial) -> TrialOutcome:
    point, end = written.point, written.end
    begun = TrialOutcome(
        id=point.trial,
        number=point.number,
        point=point.point_id,
        seed=point.seed,
        status="unfinished",
        reason="",
        seconds=0.0,
        metrics={},
        steps=(),
        run=str(written.folder.relative_to(layout.root)),
    )
    if end is None:
        return begun
    return dataclasses.replace(
        begun,
        status=end.status,
        reason=_reason(end.reason),
        seconds=end.seconds,
        metrics=end.metrics,
        steps=tuple(step.id for step in end.steps),
        wandb=end.wandb,
    )


def _reason(reason: Mapping[str, Any] | None) -> str:
    if reason is None:
        return ""
    said = ": ".join(reason[key] for key in ("kind", "where", "what") if reason.get(key))
    return f"{said}\n{reason['fix']}" if reason.get("fix") else said


def _stages(sweep: str, found: Sequence[WrittenTrial]) -> tuple[SweepStage, ...]:
    """Return each distinct stage with the trials that have it, in the order in which trials first came to it."""
    here = _makers(sweep, found)
    steps: dict[str, TrialStep] = {}
    trials: dict[str, dict[str, None]] = {}
    for trial in found:
        for step in _steps(trial):
            steps.setdefault(step.id, step)
            trials.setdefault(step.id, {})[trial.point.trial] = None
    return tuple(
        SweepStage(
            id=fp,
            name=step.name,
            kind=step.kind,
            chunk=step.chunk,
            start=step.start,
            trials=tuple(trials[fp]),
            made_by=here.get(fp, step.made_by),
            pairs=step.pairs,
            seconds=step.seconds,
            reference_pairs=step.reference_pairs,
            reference_seconds=step.reference_seconds,
        )
        for fp, step in steps.items()
    )


def _steps(trial: WrittenTrial) -> tuple[TrialStep, ...]:
    return trial.end.steps if trial.end else ()


def _makers(sweep: str, found: Sequence[WrittenTrial]) -> dict[str, str]:
    """Return the trial that made it of each stage that this sweep made; all others were found in the store.

    A sweep that was put aside had this one's name too, and may have had trials of the same names. What was begun before
    the first trial of this one was chosen belongs to that sweep.
    """
    first = min((trial.point.at for trial in found), default="")
    made: dict[str, str] = {}
    for step in (step for trial in found for step in _steps(trial)):
        by, _, trial = step.made_by.rpartition("/")
        if by == sweep and step.started >= first:
            made[step.id] = trial
    return made


def _work(layout: Layout, sweep: str, found: Sequence[WrittenTrial]) -> SweepWork:
    """Add up what this sweep made, once each, and what every trial would have made by itself.

    What was in the store before, of other runs and sweeps, is no work of this one. A reference pass counts as this
    sweep's where a stage that it made used it, whichever trial scored it first.

    Reference scores are added up by their own folders in the store. Stages that differ in their loss alone share them,
    which no sum over stages shows. A run by itself makes none twice either.
    """
    asked = [step for trial in found for step in _steps(trial)]
    distinct = {step.id: step for step in asked}
    here = [distinct[fp] for fp in _makers(sweep, found)]
    scored = {fp: _scored(layout, step) for fp, step in distinct.items()}
    own = [{name: one for step in _steps(trial) for name, one in scored[step.id].items()} for trial in found]
    once = {name: one for step in here for name, one in scored[step.id].items()}
    return SweepWork(
        stages=len(here),
        stages_found=len(distinct) - len(here),
        stages_unshared=len(asked),
        pairs=sum(step.pairs for step in here),
        pairs_unshared=sum(step.pairs for step in asked),
        reference_passes=_passes(once),
        reference_passes_unshared=sum(map(_passes, own)),
        reference_pairs=sum(pairs for _, pairs in once.values()),
        reference_pairs_unshared=sum(pairs for some in own for _, pairs in some.values()),
        seconds=round(sum(step.seconds for step in here), 3),
        seconds_unshared=round(sum(step.seconds for step in asked), 3),
    )


def _passes(scored: Mapping[str, tuple[str, int]]) -> int:
    return len({of for of, _ in scored.values()})


def _scored(layout: Layout, step: TrialStep) -> dict[str, tuple[str, int]]:
    """Return the reference scores of a stage by their name in the store: model and tokens, and how many pairs.

    Where the store does not have them any more, they are taken to be the stage's own.
    """
    known = {name: legible_record(layout.logps(name)) for name in step.references}
    if None in known.values():
        return {step.id: (step.id, step.reference_pairs)}
    return {name: (pass_of(one.identity), int(one.counts["pairs"])) for name, one in known.items() if one is not None}
