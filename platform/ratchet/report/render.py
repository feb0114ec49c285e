"""A page as self-contained HTML, and as GitHub-flavoured Markdown: the same tables, without pictures."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
from markupsafe import Markup

from ratchet.report.parts import Cell, Chart, Page, PageTable, Row, Section


class Records:
    """Numbers the records that rows and charts name, in the order of their first mention."""

    def __init__(self) -> None:
        self.paths: dict[str, int] = {}

    def number(self, path: str) -> int:
        """Return the footnote number of a record's path."""
        return self.paths.setdefault(path, len(self.paths) + 1)

    def notes(self, row: Row) -> list[int]:
        """Return the footnote numbers of a row's records."""
        return [self.number(path) for path in row.records]


def charts_of(section: Section) -> list[Chart]:
    """Draw a section's charts."""
    return [one for one in section.charts() if one is not None]


def html(page: Page) -> str:
    """Return a page as HTML that needs nothing else; every text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a name that is missing is an error, not an empty place
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = {one.key: charts_of(one) for one in page.sections}
    records = Records()
    return environment.get_template("page.html.jinja").render(
        page=page,
        sections=[
            one for one in page.sections if one.tables or one.findings or one.drawing or one.pairs or charts[one.key]
        ],
        charts=charts,
        records=records,
        notes=records.notes,
        stages=page.stages,
        answers=page.answers,
        svg=Markup,  # charts are made of our own SVG, in which matplotlib has escaped every text
    )


def markdown(page: Page) -> str:
    """Return a page as Markdown; the last column of a table numbers its records."""
    records = Records()
    parts = [f"# {escape(page.title)}", *map(escape, page.lead)]
    parts += [f"- **{escape(one.head)}** {escape(f'{one.says}. {one.do}.')}" for one in page.callouts]
    parts += _warnings(page.warnings)
    if page.headline is not None:
        parts.append(_grid(page.headline, records))
    for section in page.sections:
        if section.tables or section.cautions or section.findings:
            parts.append(f"## {section.title}")
            parts += [escape(section.text)] if section.text else []
            parts += [*map(escape, section.findings), *_warnings(section.cautions)]
            parts += [_grid(one, records) for one in section.tables]
    parts += [f"## {page.about}", "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in page.facts)]
    for one in page.sources:
        parts += [f"## {one.title}", fenced(one.text, one.language)]
    if records.paths:
        lines = [f"- r{number}: {_linked(page, path)}" for path, number in records.paths.items()]
        parts += ["## Records", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _linked(page: Page, path: str) -> str:
    return escape(path) if page.link is None else f"[{escape(path)}]({page.link(path)})"


def _warnings(texts: tuple[str, ...]) -> list[str]:
    return [f"- **Warning:** {escape(text)}" for text in texts]


def _grid(table: PageTable, records: Records) -> str:
    """Return a table, its records in the last column, with its note below."""
    heads = [escape(one.name) + (f" ({escape(one.unit)})" if one.unit else "") for one in table.columns]
    rules = [":--" if one.text else "--:" for one in table.columns]
    lines = [[*heads, "record"], [*rules, ":--"]]
    lines += [[*map(_cell, row.cells), " ".join(f"r{n}" for n in records.notes(row))] for row in table.rows]
    title = f"### {escape(table.title)}" if table.title else ""
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(part for part in (title, text, escape(table.note)) if part)


def _cell(cell: Cell) -> str:
    mark = f" ({escape(cell.mark)})" if cell.mark and cell.mark != cell.text else ""
    return escape(cell.text) + mark + (f" ({escape(cell.aside)})" if cell.aside else "")


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, on one line: no table, HTML, link or emphasis comes of it."""
    # A line break would end the row of a table.
    text = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", text)


def fenced(text: str, language: str) -> str:
    """Return text in a fence longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
