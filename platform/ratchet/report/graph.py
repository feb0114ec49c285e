"""The graph of a run's models as inline SVG: what starts from, refers to and averages what."""

from __future__ import annotations

import dataclasses

from ratchet.documents.report import Report, StepSummary
from ratchet.report.figures import cut

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 140, 46, 46, 30


@dataclasses.dataclass(frozen=True)
class Node:
    """A model at its place: `column` from the left, `row` from the top, both from 0; the box in pixels."""

    name: str
    detail: str
    column: int
    row: int
    stage: int | None

    width = _WIDTH
    height = _HEIGHT

    @property
    def x(self) -> int:
        return self.column * (_WIDTH + _GAP_X) + 2

    @property
    def y(self) -> int:
        return self.row * (_HEIGHT + _GAP_Y) + _GAP_Y

    @property
    def colour(self) -> str:
        return "var(--muted)" if self.stage is None else f"var(--stage-{self.stage % 8})"

    @property
    def label(self) -> str:
        return cut(self.name, 16)

    @property
    def caption(self) -> str:
        return cut(self.detail, 20)


@dataclasses.dataclass(frozen=True)
class Edge:
    """A line from one model to another: `kind` is start, reference or merge; `path` is SVG's."""

    kind: str
    path: str


@dataclasses.dataclass(frozen=True)
class Graph:
    """Nodes and edges with the size of their drawing."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    width: int
    height: int

    @property
    def kinds(self) -> set[str]:
        return {edge.kind for edge in self.edges}


def graph(report: Report) -> Graph | None:
    """Lay out the models of a run, or return None where it has no steps.

    A model stands one column to the right of the last model it is made from. The first step made
    from that one keeps its row, each further one gets a row of its own.
    """
    if not report.steps:
        return None
    nodes: dict[str, Node] = {}
    rows = 0
    taken: set[str] = set()

    def add(name: str, detail: str, made_from: list[str], stage: int | None) -> None:
        nonlocal rows
        known = sorted((nodes[one] for one in made_from if one in nodes), key=lambda one: -one.column)
        column = max((one.column + 1 for one in known), default=0)
        heir = known[0] if known and known[0].name not in taken else None
        row = heir.row if heir else rows
        rows = max(rows, row + 1)
        taken.update(one.name for one in known[:1])
        nodes[name] = Node(name, detail, column, row, stage)

    for step in report.steps:
        for name in (*_parents(report, step), step.reference):
            if name is not None and name not in nodes:
                add(name, "start model" if name == "base" else "reference model", [], None)
        add(step.name, _detail(step), _parents(report, step), report.stages.index(step.stage))
    edges = []
    for step in report.steps:
        parents = _parents(report, step)
        kind = "start" if step.does.trains else "average"
        edges += [Edge(kind, _path(nodes[name], nodes[step.name])) for name in parents]
        if step.reference and step.reference not in parents:
            edges.append(Edge("reference", _path(nodes[step.reference], nodes[step.name])))
    width = max(node.x for node in nodes.values()) + _WIDTH + 2
    height = max(node.y for node in nodes.values()) + _HEIGHT + 4
    return Graph(tuple(nodes.values()), tuple(edges), width, height)


def _parents(report: Report, step: StepSummary) -> list[str]:
    if not step.does.trains:
        return [report.last_step(name) for name in step.options.get("of", ())]
    return [step.start] if step.start else []


def _detail(step: StepSummary) -> str:
    data = ", ".join(step.chunk)
    return step.kind if not (step.does.trains and data) else f"{step.kind} · {data}"


def _path(left: Node, right: Node) -> str:
    """Return a curve from the right side of one box to the left side of another.

    A long one runs between the rows, above its target's, so that it crosses no box.
    """
    x1, y1, x2, y2 = left.x + _WIDTH, left.y + _HEIGHT / 2, right.x, right.y + _HEIGHT / 2
    bend = _GAP_X * 0.6
    if right.column - left.column <= 1:
        return f"M{x1},{y1:g} C{x1 + bend:g},{y1:g} {x2 - bend:g},{y2:g} {x2},{y2:g}"
    aisle = right.y - _GAP_Y / 2
    out = f"C{x1 + bend:g},{y1:g} {x1 + _GAP_X - bend:g},{aisle:g} {x1 + _GAP_X},{aisle:g}"
    back = f"C{x2 - _GAP_X + bend:g},{aisle:g} {x2 - bend:g},{y2:g} {x2},{y2:g}"
    return f"M{x1},{y1:g} {out} H{x2 - _GAP_X} {back}"
