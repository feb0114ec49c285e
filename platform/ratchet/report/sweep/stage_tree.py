"""The tree of a sweep's stages: from the start model, rightwards, to the trials that end there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ratchet.documents.sweep import Point, SweepOutcome, SweepStage, TrialOutcome
from ratchet.report import figures as fig
from ratchet.report.drawing import Drawing, Shape, layered
from ratchet.report.figures import cut, many
from ratchet.report.sweep.values import decimals, leading, ordered, result_of
from ratchet.report.sweep.words import result_text
from ratchet.track.progress import duration

MOST_NODES = 100
"""Stages that are drawn; of more, the first levels."""

MOST_NAMED = 4
"""Points named at the end of one branch."""


def stage_tree(sweep: SweepOutcome) -> Drawing | None:
    """Draw a sweep's stages, or return None where none was trained; those of the best points come first."""
    if not sweep.stages:
        return None
    rank = {point.id: index for index, point in enumerate(ordered(sweep))}
    goodness = {trial.id: rank[trial.point] for trial in sweep.trials}
    below: dict[str | None, list[SweepStage]] = {}
    for one in sorted(sweep.stages, key=lambda it: min((goodness[name] for name in it.trials), default=len(rank))):
        below.setdefault(one.start, []).append(one)
    kept = _kept(below)
    start = Shape("", (), "start model", detail="the plan's start model")
    items = [start, *_Branches(sweep, below, kept).items(None)]
    boxes = [(one.parents[0], one.id, "best" if "best" in one.look else "") for one in items[1:] if not one.note]
    edges = sorted(boxes, key=lambda edge: edge[2] == "best")  # last, so that no other line lies over the way to it
    text = (
        "From the start model rightwards; a box was trained once, by the trial that it names, for all trials beyond it."
    )
    if left := len(sweep.stages) - len(kept):
        text += f" {many(left, 'stage')} are left out: {len(kept)} stages of the first levels are shown."
    swatches = (
        ("shared", "shared by several trials"),
        ("", "of one trial"),
        ("best", f"on the way to {leading(sweep)}"),
    )
    return layered("Tree of stages", text, items, edges, swatches)


def _kept(below: Mapping[str | None, Sequence[SweepStage]]) -> set[str]:
    """Return the stages to draw, level by level until MOST_NODES."""
    kept: set[str] = set()
    level = list(below.get(None, ()))
    while level and len(kept) < MOST_NODES:
        kept |= {one.id for one in level[: MOST_NODES - len(kept)]}
        level = [child for one in level for child in below.get(one.id, ())]
    return kept


def _end(sweep: SweepOutcome, trial: TrialOutcome) -> str:
    """Return the stage that a trial's first objective is of, as far as it came: its last step, else its last of all."""
    names = {stage.id: stage.name for stage in sweep.stages}
    wanted = sweep.objectives[0].metric.split("/")[0]
    # Steps of a stepwise stage are named by it and a number.
    found = [one for one in trial.steps if names[one].split(".")[0] == wanted]
    return (found or trial.steps)[-1]


class _Branches:
    """The boxes and notes of the tree, each branch before the next one."""

    def __init__(self, sweep: SweepOutcome, below: Mapping[str | None, Sequence[SweepStage]], kept: set[str]) -> None:
        self.sweep, self.below, self.kept = sweep, below, kept
        self.numbers = {trial.id: trial.number for trial in sweep.trials}
        winners = {sweep.best} if sweep.best else {point.id for point in sweep.points if point.front} | {*sweep.tied}
        self.winning = {trial.id for trial in sweep.trials if trial.point in winners}
        self.ending: dict[str, list[TrialOutcome]] = {}
        for trial in sweep.trials:
            if trial.steps:
                self.ending.setdefault(_end(sweep, trial), []).append(trial)

    def items(self, start: str | None) -> Iterator[Shape]:
        """Yield what starts from `start`: each stage, the trials that end there, and then what starts from it."""
        stages = self.below.get(start, ())
        shown = [one for one in stages if one.id in self.kept]
        for one in shown:
            yield self._box(one)
            if ending := self.ending.get(one.id):
                yield self._trials(one, ending)
            yield from self.items(one.id)
        if left := len(stages) - len(shown):
            said = f"… {left:,} more start here"
            yield Shape(f"more of {start}", (start or "",), lines=(said,), detail=said)

    def _box(self, stage: SweepStage) -> Shape:
        maker = self.numbers.get(stage.made_by)
        by = f"by trial {maker}" if maker is not None else "made before"
        lines = (f"{stage.pairs:,} pairs · {duration(stage.seconds)}", f"{many(len(stage.trials), 'trial')} · {by}")
        label = f"{stage.name} · {stage.chunk}" if stage.chunk else stage.name
        detail = f"{label}: {stage.kind}, {stage.id}, made by {stage.made_by}, in {_names(stage)}"
        looks = [
            *(["shared"] if len(stage.trials) > 1 else []),
            *(["best"] if self.winning & set(stage.trials) else []),
        ]
        return Shape(stage.id, (stage.start or "",), cut(label, 19), lines, cut(detail, 400), " ".join(looks))

    def _trials(self, stage: SweepStage, ending: list[TrialOutcome]) -> Shape:
        """Name the trials that end with a stage, two lines a point."""
        points = [point for point in ordered(self.sweep) if any(trial.point == point.id for trial in ending)]
        lines = []
        for point in points[:MOST_NAMED]:
            lines += self._said(point, [trial for trial in ending if trial.point == point.id])
        if len(points) > MOST_NAMED:
            lines.append(f"… and {len(points) - MOST_NAMED:,} more points")
        best = any(trial.id in self.winning for trial in ending)
        detail = cut(", ".join(f"{trial.id} ({trial.status})" for trial in ending), 400)
        return Shape(f"end of {stage.id}", (stage.id,), lines=tuple(lines), detail=detail, look="best" if best else "")

    def _said(self, point: Point, trials: Sequence[TrialOutcome]) -> list[str]:
        """Return a point's result here (of its one trial where only one of several ends here), and its name."""
        whole = len(trials) == sum(trial.point == point.id for trial in self.sweep.trials)
        results = []
        for place, objective in enumerate(self.sweep.objectives):
            digits = decimals(self.sweep, place)
            found = result_of(point, place) if whole else trials[0].metrics.get(objective.metric)
            if found is not None and found.value is not None:
                known = found.standard_error is not None or found.low is not None
                results.append(result_text(found, digits) if known else fig.number(found.value, digits))
        star = ""
        if point.id == self.sweep.best:
            star = "best: " if whole else "best point: "
        elif point.front and not self.sweep.best:
            star = "front: "
        elif point.id in self.sweep.tied:
            star = "tie: "
        status = "" if results else next((one.status for one in trials if one.status != "finished"), fig.NONE)
        seeds = ", ".join(f"seed {trial.seed}" for trial in trials if trial.seed is not None)
        name = ", ".join([point.id if whole else trials[0].point, *([seeds] if seeds else []), *point.marks])
        return [cut(f"{star}{', '.join(results) or status}", 32), cut(name, 38)]


def _names(stage: SweepStage) -> str:
    return ", ".join(stage.trials[:8]) + (f" and {len(stage.trials) - 8} more" if len(stage.trials) > 8 else "")
