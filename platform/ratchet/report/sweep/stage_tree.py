"""The tree of a sweep's stages as inline SVG: from the start model, rightwards, to the trials that end there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ratchet.documents.sweep import Point, SweepOutcome, SweepStage, TrialOutcome
from ratchet.report import figures as fig
from ratchet.report.figures import cut, many
from ratchet.report.sweep.values import decimals, ordered, result_of
from ratchet.report.sweep.words import result_text
from ratchet.track.progress import duration

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _LINE = 152, 56, 26, 12, 17
_LEAF = 232

MOST_NODES = 100
"""Stages that are drawn; of more, the first levels."""

MOST_NAMED = 4
"""Points named at the end of one branch."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A stage at its place, the box in pixels: `lines` under its `label`; `shared` by several trials."""

    id: str
    label: str
    lines: tuple[str, str]
    detail: str
    x: int
    y: int
    shared: bool
    best: bool

    width = _WIDTH
    height = _HEIGHT


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What ends at a stage, in text lines beside its box: trials with their result, or that more is left out."""

    x: int
    y: int
    lines: tuple[str, ...]
    detail: str
    best: bool


@dataclasses.dataclass(frozen=True)
class Edge:
    """A line from a box to the one that starts from it."""

    path: str
    best: bool


@dataclasses.dataclass(frozen=True)
class Tree:
    """All of it with the size of its drawing; `left_out` stages are not drawn."""

    nodes: tuple[Node, ...]
    leaves: tuple[Leaf, ...]
    edges: tuple[Edge, ...]
    width: int
    height: int
    left_out: int
    levels: int


def stage_tree(sweep: SweepOutcome) -> Tree | None:
    """Lay out a sweep's stages, or return None where none was trained.

    A stage stands one column to the right of what it starts from. The first of several keeps its row, the others
    follow below it, those of the best points first.
    """
    if not sweep.stages:
        return None
    rank = {point.id: index for index, point in enumerate(ordered(sweep))}
    goodness = {trial.id: rank[trial.point] for trial in sweep.trials}
    below: dict[str | None, list[SweepStage]] = {}
    for one in sorted(sweep.stages, key=lambda it: min((goodness[name] for name in it.trials), default=len(rank))):
        below.setdefault(one.start, []).append(one)
    kept, levels = _kept(below)
    return _Layout(sweep, below, kept).tree(len(sweep.stages) - len(kept), levels)


def _kept(below: Mapping[str | None, Sequence[SweepStage]]) -> tuple[set[str], int]:
    """Return the stages to draw, level by level until MOST_NODES, and how many levels are whole."""
    kept: set[str] = set()
    levels, level = 0, list(below.get(None, ()))
    while level:
        room = MOST_NODES - len(kept)
        kept |= {one.id for one in level[:room]}
        if len(level) > room:
            break
        levels += 1
        level = [child for one in level for child in below.get(one.id, ())]
    return kept, levels


def _end(sweep: SweepOutcome, trial: TrialOutcome) -> str:
    """Return the stage that a trial's first objective is of, as far as it came: its last step, else its last of all."""
    names = {stage.id: stage.name for stage in sweep.stages}
    wanted = sweep.objectives[0].metric.split("/")[0]
    found = [one for one in trial.steps if names[one].split(".")[0] == wanted]
    return (found or trial.steps)[-1]


class _Layout:
    """Places boxes from the top down; `y` is where the next row begins."""

    def __init__(self, sweep: SweepOutcome, below: Mapping[str | None, Sequence[SweepStage]], kept: set[str]) -> None:
        self.sweep, self.below, self.kept = sweep, below, kept
        self.points = {point.id: point for point in sweep.points}
        self.numbers = {trial.id: trial.number for trial in sweep.trials}
        winners = {sweep.best} if sweep.best else {point.id for point in sweep.points if point.front} | {*sweep.tied}
        self.winning = {trial.id for trial in sweep.trials if trial.point in winners}
        self.ending: dict[str, list[TrialOutcome]] = {}
        for trial in sweep.trials:
            if trial.steps:
                self.ending.setdefault(_end(sweep, trial), []).append(trial)
        self.nodes: list[Node] = []
        self.leaves: list[Leaf] = []
        self.edges: list[Edge] = []

    def tree(self, left_out: int, levels: int) -> Tree:
        """Return the drawing of everything from the start model on."""
        root = Node("", "start model", ("", ""), "the plan's start model", 2, 4, shared=False, best=False)
        height = self._children(None, root, root.y)
        right = max([node.x + _WIDTH for node in self.nodes] + [leaf.x + _LEAF for leaf in self.leaves])
        return Tree((root, *self.nodes), tuple(self.leaves), tuple(self.edges), right + 4, height + 4, left_out, levels)

    def _children(self, start: str | None, parent: Node, y: int) -> int:
        """Place what starts from `start`, the first beside it; return where the next row begins."""
        stages = self.below.get(start, ())
        shown = [one for one in stages if one.id in self.kept]
        for one in shown:
            y = self._place(one, parent, y)
        if left := len(stages) - len(shown):
            text = f"… {left:,} more start here"
            self.leaves.append(Leaf(parent.x + _WIDTH + _GAP_X, y, (text,), text, best=False))
            y += _LINE + _GAP_Y
        return y

    def _place(self, stage: SweepStage, parent: Node, y: int) -> int:
        best = bool(self.winning & set(stage.trials))
        maker = self.numbers.get(stage.made_by)
        by = f"by trial {maker}" if maker is not None else "made before"
        lines = (f"{stage.pairs:,} pairs · {duration(stage.seconds)}", f"{many(len(stage.trials), 'trial')} · {by}")
        label = f"{stage.name} · {stage.chunk}" if stage.chunk else stage.name
        detail = f"{label}: {stage.kind}, {stage.id}, made by {stage.made_by}, in {_names(stage)}"
        x = parent.x + _WIDTH + _GAP_X
        shared = len(stage.trials) > 1
        node = Node(stage.id, cut(label, 19), lines, cut(detail, 400), x, y, shared, best)
        self.nodes.append(node)
        self.edges.append(Edge(_path(parent, node), best))
        below = self._leaf(stage, node, y)
        below = self._children(stage.id, node, below if self.ending.get(stage.id) else y)
        return max(below, y + _HEIGHT + _GAP_Y)

    def _leaf(self, stage: SweepStage, node: Node, y: int) -> int:
        """Name the trials that end with a stage, a line a point; return where the next row begins."""
        ending = self.ending.get(stage.id, [])
        if not ending:
            return y
        points = [point for point in ordered(self.sweep) if any(trial.point == point.id for trial in ending)]
        lines = []
        for point in points[:MOST_NAMED]:
            lines += self._said(point, [trial for trial in ending if trial.point == point.id])
        if len(points) > MOST_NAMED:
            lines.append(f"… and {len(points) - MOST_NAMED:,} more points")
        best = any(trial.id in self.winning for trial in ending)
        detail = cut(", ".join(f"{trial.id} ({trial.status})" for trial in ending), 400)
        self.leaves.append(Leaf(node.x + _WIDTH + 12, y, tuple(lines), detail, best))
        return y + max(_HEIGHT, _LINE * len(lines) + 4) + _GAP_Y

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
        star = (
            ("best: " if whole else "best point: ")
            if point.id == self.sweep.best
            else "front: "
            if point.front and not self.sweep.best
            else "tie: "
            if point.id in self.sweep.tied
            else ""
        )
        status = "" if results else next((one.status for one in trials if one.status != "finished"), fig.NONE)
        seeds = ", ".join(f"seed {trial.seed}" for trial in trials if trial.seed is not None)
        name = ", ".join([point.id if whole else trials[0].point, *([seeds] if seeds else []), *point.marks])
        return [cut(f"{star}{', '.join(results) or status}", 32), cut(name, 38)]


def _names(stage: SweepStage) -> str:
    return ", ".join(stage.trials[:8]) + (f" and {len(stage.trials) - 8} more" if len(stage.trials) > 8 else "")


def _path(left: Node, right: Node) -> str:
    """Return a line from the right side of one box to the left side of another, with its turn close to the latter."""
    x1, y1, x2, y2 = left.x + _WIDTH, left.y + _HEIGHT // 2, right.x, right.y + _HEIGHT // 2
    if y1 == y2:
        return f"M{x1},{y1} H{x2}"
    turn = x1 + _GAP_X // 2
    return f"M{x1},{y1} H{turn - 6} Q{turn},{y1} {turn},{y1 + 6} V{y2 - 6} Q{turn},{y2} {turn + 6},{y2} H{x2}"
