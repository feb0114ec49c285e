"""The report as Markdown: the same tables, no pictures."""

from __future__ import annotations

import json
import re

from ratchet.documents.report import Report
from ratchet.report.parts import Cell, PageTable
from ratchet.report.sections import facts, sections, sentence
from ratchet.report.tables.training import headline
from ratchet.report.templates import Records


def markdown(report: Report) -> str:
    """Return the report as GitHub-flavoured Markdown; the last column of a table numbers its records."""
    records = Records()
    parts = [f"# {escape(report.title or report.plan)}", escape(sentence(report))]
    parts += [f"- **{escape(f'{one.of}: {one.name}')}** {escape(f'{one.says}. {one.do}.')}" for one in report.diagnoses]
    parts += [f"- **Warning:** {escape(text)}" for text in report.warnings]
    if (head := headline(report)) is not None:
        parts.append(render(head, records))
    for section in sections(report):
        if not section.tables and not section.cautions:
            continue
        parts.append(f"## {section.title}")
        parts += [escape(section.text)] if section.text else []
        parts += [f"- **Warning:** {escape(text)}" for text in section.cautions]
        parts += [render(one, records) for one in section.tables]
    parts += ["## Made with", "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in facts(report))]
    if report.plan_text:
        parts += ["## Plan", fenced(report.plan_text, "yaml")]
    if report.resolved:
        parts += ["## Plan, resolved", fenced(json.dumps(report.resolved, indent=2, ensure_ascii=False), "json")]
    if records.paths:
        lines = [f"- r{number}: {escape(path)}" for path, number in records.paths.items()]
        parts += ["## Records", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def render(table: PageTable, records: Records) -> str:
    """Return a table, its records in the last column, with its note below."""
    columns = table.columns
    heads = [escape(one.name) + (f" ({escape(one.unit)})" if one.unit else "") for one in columns]
    rules = [":--" if one.text else "--:" for one in columns]
    lines = [[*heads, "record"], [*rules, ":--"]]
    for row in table.rows:
        notes = " ".join(f"r{records.number(path)}" for path in row.records)
        lines.append([*map(_cell, row.cells), notes])
    title = f"### {escape(table.title)}" if table.title else ""
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(part for part in (title, text, escape(table.note)) if part)


def _cell(cell: Cell) -> str:
    mark = f" ({escape(cell.mark)})" if cell.mark and cell.mark != cell.text else ""
    return escape(cell.text) + mark + (f" ({escape(cell.aside)})" if cell.aside else "")


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, on one line: no table, HTML, link or emphasis comes of it."""
    text = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", text)


def fenced(text: str, language: str) -> str:
    """Return text in a fence longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
