"""Boxes in layers, joined by lines, as inline SVG: the models of a run here, the stages of a sweep in `stage_tree`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

from ratchet.documents.report import Report, StepSummary
from ratchet.report.figures import cut

WIDTH, HEIGHT = 150, 56
"""Pixels of a box."""

_GAP_X, _GAP_Y, _NOTE_X = 34, 20, 12
_NOTE_WIDTH, _LINE = 232, 17


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a drawing places to the right of its `parents`: a box, or a note of bare lines.

    `lines` stand below the `label`, which a note does not have. `detail` is shown where the pointer rests; `look` names
    classes of the page's style, and `colour` is that of a box's edge.
    """

    id: str
    parents: tuple[str, ...] = ()
    label: str = ""
    lines: tuple[str, ...] = ()
    detail: str = ""
    look: str = ""
    colour: str = ""

    @property
    def note(self) -> bool:
        return not self.label

    @property
    def width(self) -> int:
        return _NOTE_WIDTH if self.note else WIDTH

    @property
    def height(self) -> int:
        return _LINE * len(self.lines) + 4 if self.note else HEIGHT


@dataclasses.dataclass(frozen=True)
class Placed:
    """A shape with its upper left corner, in pixels."""

    shape: Shape
    column: int
    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Edge:
    """A line from one box to another; `path` is SVG's."""

    look: str
    path: str


@dataclasses.dataclass(frozen=True)
class Drawing:
    """All of it with its size; `label` is what a screen reader says, `swatches` tell what looks of boxes mean."""

    label: str
    text: str
    boxes: tuple[Placed, ...]
    notes: tuple[Placed, ...]
    edges: tuple[Edge, ...]
    width: int
    height: int
    swatches: tuple[tuple[str, str], ...] = ()


def layered(
    label: str,
    text: str,
    shapes: Sequence[Shape],
    edges: Iterable[tuple[str, str, str]],
    swatches: tuple[tuple[str, str], ...] = (),
) -> Drawing:
    """Place shapes, each after its parents, and draw `edges` (from, to, look) between boxes.

    A shape stands one column to the right of its last parent. The first child of that one keeps its row, each further
    one opens a new row.
    """
    # No layout library: a run has a few dozen models, and graphviz is a program that must be installed.
    columns: dict[str, int] = {}
    rows: dict[str, int] = {}
    heights: list[int] = []
    with_heir: set[str] = set()
    for shape in shapes:
        # A document that somebody edited may name a parent further below, or none that is there.
        parent = max((one for one in shape.parents if one in columns), key=columns.__getitem__, default=None)
        columns[shape.id] = 0 if parent is None else columns[parent] + 1
        # A further child opens a row below all others, so that of a tree given branch by branch no two lines cross.
        if parent is None or parent in with_heir:
            rows[shape.id] = len(heights)
            heights.append(0)
        else:
            rows[shape.id] = rows[parent]
            with_heir.add(parent)
        heights[rows[shape.id]] = max(heights[rows[shape.id]], shape.height)
    tops = list(itertools.accumulate((height + _GAP_Y for height in heights), initial=_GAP_Y))
    placed = {
        shape.id: Placed(
            shape,
            columns[shape.id],
            2 + columns[shape.id] * (WIDTH + _GAP_X) - (_GAP_X - _NOTE_X if shape.note else 0),
            tops[rows[shape.id]],
        )
        for shape in shapes
    }
    width = max(one.x + one.shape.width for one in placed.values()) + 4
    return Drawing(
        label,
        text,
        tuple(one for one in placed.values() if not one.shape.note),
        tuple(one for one in placed.values() if one.shape.note),
        tuple(Edge(look, _path(placed[left], placed[right])) for left, right, look in edges),
        width,
        tops[-1],
        swatches,
    )


def _path(left: Placed, right: Placed) -> str:
    """Return a curve from the right side of one box to the left side of another."""
    x1, y1, x2, y2 = left.x + WIDTH, left.y + HEIGHT / 2, right.x, right.y + HEIGHT / 2
    bend = _GAP_X * 0.6
    if right.column - left.column <= 1:
        return f"M{x1},{y1:g} C{x1 + bend:g},{y1:g} {x2 - bend:g},{y2:g} {x2},{y2:g}"
    # Between the rows, above its target's, so that it crosses no box.
    aisle = right.y - _GAP_Y / 2
    out = f"C{x1 + bend:g},{y1:g} {x1 + _GAP_X - bend:g},{aisle:g} {x1 + _GAP_X},{aisle:g}"
    back = f"C{x2 - _GAP_X + bend:g},{aisle:g} {x2 - bend:g},{y2:g} {x2},{y2:g}"
    return f"M{x1},{y1:g} {out} H{x2 - _GAP_X} {back}"


def model_graph(report: Report) -> Drawing | None:
    """Draw which model of a run starts from, refers to and averages which; None where it has no steps."""
    if not report.steps:
        return None
    shapes: dict[str, Shape] = {}
    edges = []
    for step in report.steps:
        parents = _parents(report, step)
        for name in (*parents, step.reference):
            if name is not None and name not in shapes:
                what = "start model" if name == "base" else "reference model"
                shapes[name] = _box(name, (), what, "var(--muted)")
        colour = f"var(--stage-{report.stages.index(step.stage) % 8})"
        shapes[step.name] = _box(step.name, parents, _detail(step), colour)
        edges += [(name, step.name, "start" if step.does.trains else "average") for name in parents]
        if step.reference and step.reference not in parents:
            edges.append((step.reference, step.name, "reference"))
    looks = {look for *_, look in edges}
    text = "Line: starts from."
    text += " Dashed: refers to, where that is another model." if "reference" in looks else ""
    text += " Thick: averages the weights of." if "average" in looks else ""
    return layered("Graph of models", text, list(shapes.values()), edges)


def _box(name: str, parents: tuple[str, ...], detail: str, colour: str) -> Shape:
    return Shape(name, parents, cut(name, 19), (cut(detail, 23),), f"{name}: {detail}", colour=colour)


def _parents(report: Report, step: StepSummary) -> tuple[str, ...]:
    if not step.does.trains:
        return tuple(report.last_step(name) for name in step.options.get("of", ()))
    return (step.start,) if step.start else ()


def _detail(step: StepSummary) -> str:
    data = ", ".join(step.chunk)
    return step.kind if not (step.does.trains and data) else f"{step.kind} · {data}"
