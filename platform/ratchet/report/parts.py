"""What a page is made of, as plain data: tables and charts, the sections that hold them, and what stands around."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ratchet.documents.data_report import ShownPair
from ratchet.documents.report import Report
from ratchet.report import figures as fig
from ratchet.report.drawing import Drawing


@dataclasses.dataclass(frozen=True)
class Column:
    """A column's head: its unit stands below its name, text columns are set to the left; `stage` as in a cell."""

    name: str
    unit: str = ""
    text: bool = False
    stage: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a cell shows.

    `stage` gives it its colour mark, `mark` a word of caution beside it; `aside` stands small below it.
    """

    text: str
    stage: str = ""
    mark: str = ""
    aside: str = ""


Entry = tuple[Column, Cell]
"""A cell under its column's head."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row, and the paths of the records that its numbers stand in."""

    columns: tuple[Column, ...]
    cells: tuple[Cell, ...]
    records: tuple[str, ...] = ()
    muted: bool = False


@dataclasses.dataclass(frozen=True)
class PageTable:
    """A table with a title above and a note below it; the page shows a `folded` one on a click."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str = ""
    title: str = ""
    folded: bool = False


def text(name: str, cell: Cell | str, *, unit: str = "", stage: str = "") -> Entry:
    """Put text under the head `name`."""
    return Column(name, unit, text=True, stage=stage), cell if isinstance(cell, Cell) else Cell(cell)


def amount(name: str, cell: Cell | str, unit: str = "", *, stage: str = "") -> Entry:
    """Put a number, in `unit`, under the head `name`."""
    return Column(name, unit, stage=stage), cell if isinstance(cell, Cell) else Cell(cell)


def row(entries: Iterable[Entry], *records: str, muted: bool = False) -> Row:
    """Make a row; all rows of a table have the same heads."""
    columns, cells = zip(*entries, strict=True)
    return Row(columns, cells, tuple(dict.fromkeys(record for record in records if record)), muted)


def table(rows: Iterable[Row], note: str = "", title: str = "", *, folded: bool = False) -> PageTable | None:
    """Make a table, or None without rows; columns that hold nothing but dashes are left out."""
    rows = tuple(rows)
    columns = rows[0].columns if rows else ()
    # Most runs use few of the features that have a column: one of dashes would only push the others off a phone.
    kept = [i for i in range(len(columns)) if any(one.cells[i].text not in {fig.NONE, ""} for one in rows)]
    if not kept:
        return None
    heads = tuple(columns[i] for i in kept)
    cut = tuple(dataclasses.replace(one, columns=heads, cells=tuple(one.cells[i] for i in kept)) for one in rows)
    return PageTable(heads, cut, note, title, folded)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A finished chart: SVG text, the caption above it, the records it was drawn from.

    A `wide` one has a line of the page to itself. `narrow` is the same chart for a phone, where it would be too small.
    """

    svg: str
    caption: str
    records: tuple[str, ...]
    narrow: str = ""
    wide: bool = False


Charts = Callable[[], Sequence[Chart | None]]
"""Draws a section's charts, without those that it has no numbers for."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names with what is said of each: sentences, which would be too wide for a table on a phone."""

    title: str
    said: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page: what it is about, then its cautions, charts, tables, and at most one drawing.

    `findings` are paragraphs that say what came out; `text` only explains. Charts are drawn when the page is, since
    Markdown has none; `legend` says how to read them. `facts`, and `pairs` token by token, are on the page alone.
    """

    key: str
    title: str
    text: str = ""
    tables: tuple[PageTable, ...] = ()
    cautions: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    charts: Charts = tuple
    legend: str = ""
    drawing: Drawing | None = None
    facts: tuple[Facts, ...] = ()
    pairs: tuple[ShownPair, ...] = ()


def section(
    key: str,
    title: str,
    text: str = "",
    *tables: PageTable | None,
    cautions: Sequence[str] = (),
    charts: Charts = tuple,
    legend: str = "",
) -> Section:
    """Make a section of the tables that there are."""
    known = tuple(one for one in tables if one is not None)
    return Section(key, title, text, known, tuple(cautions), charts=charts, legend=legend)


@dataclasses.dataclass(frozen=True)
class Callout:
    """A diagnosis at the head of a page, and what to do next; a `grave` one stands out."""

    head: str
    says: str
    do: str
    grave: bool


@dataclasses.dataclass(frozen=True)
class WrittenText:
    """A text that the page was made from, such as the plan, shown on a click, or at once where it is `opened`."""

    title: str
    summary: str
    text: str
    language: str
    opened: bool = False


@dataclasses.dataclass(frozen=True)
class Page:
    """A page and its Markdown: the same sections, facts and records for a run, an evaluation and a sweep.

    `lead` are paragraphs, the first of them the largest. `about` is the title of the part with `facts` and `sources`.
    `stages` gives what has a colour of its own its number, and `link` makes a link of a record's path. One that is not
    `recorded` has no list of records.
    """

    title: str
    lead: tuple[str, ...]
    made: str
    callouts: tuple[Callout, ...]
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    about: str
    facts: tuple[tuple[str, str], ...]
    sources: tuple[WrittenText, ...]
    stages: Mapping[str, int]
    headline: PageTable | None = None
    first_samples: PageTable | None = None
    answers: Any = None
    recorded: bool = True
    link: Callable[[str], str] | None = None


def coloured(report: Report) -> list[str]:
    """What has a colour of its own: the stages of a run; without any, the models that were evaluated."""
    return report.stages or (report.scores.names if report.scores else [])


def colour_key(report: Report, model: str) -> str:
    """Return the name in `coloured` that gives a model its colour; empty for one that has none."""
    if not report.steps or model in report.stages:
        return model
    return next((step.stage for step in report.steps if step.name == model), "")


def model_cell(report: Report, name: str) -> Cell:
    """A model's name with its colour mark."""
    return Cell(name, stage=colour_key(report, name))
