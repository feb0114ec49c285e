"""Build the report: one HTML page and one Markdown file from one document."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from ratchet.documents.read import load_report, read_report
from ratchet.documents.report import NAME, Report
from ratchet.report import answers
from ratchet.report.answers import first_samples
from ratchet.report.diagnoses import diagnose
from ratchet.report.graph import graph
from ratchet.report.markdown import markdown
from ratchet.report.parts import coloured
from ratchet.report.sections import drawings, facts, sections, sentence
from ratchet.report.tables import training as tables
from ratchet.report.templates import fill
from ratchet.store.codec import to_values
from ratchet.store.files import write_json, write_text


def write_report(run_folder: Path, report: Report) -> tuple[Path, Report]:
    """Write report.json, report.html and report.md into a run folder; return the page's path, and the report.

    Numbers that are not finite become null. Each file appears whole or not at all, the JSON first,
    so that `ratchet report` can make the others again. What the figures say (`report.diagnoses`) is found here.
    Raises DataError where a value is not of its field's type, and StorageError.
    """
    # The page is made of what the file will hold, so that it is the same when it is made again from the file.
    made = diagnosed(read_report(to_values(report)))
    write_json(run_folder / NAME, to_values(made))
    return _write(run_folder, made)[0], made


def rewrite_report(run_folder: Path) -> tuple[Path, Path]:
    """Write report.html and report.md again from report.json. Raises DataError, StorageError."""
    return _write(run_folder, diagnosed(load_report(run_folder / NAME)))


def diagnosed(report: Report) -> Report:
    """Return a report with what its figures say of it."""
    return dataclasses.replace(report, diagnoses=diagnose(report))


def _write(run_folder: Path, report: Report) -> tuple[Path, Path]:
    html, text = run_folder / "report.html", run_folder / "report.md"
    write_text(html, page(report))
    write_text(text, markdown(report))
    return html, text


def page(report: Report) -> str:
    """Return the report as one self-contained HTML page."""
    drawn = drawings(report)
    return fill(
        "template.html.jinja",
        report=report,
        sentence=sentence(report),
        headline=tables.headline(report),
        first_samples=first_samples(report),
        sections=[one for one in sections(report) if one.tables or one.key in drawn],
        drawn=drawn,
        graph=graph(report),
        resolved=json.dumps(report.resolved, indent=2, ensure_ascii=False),
        facts=facts(report),
        made_with="Plan and versions" if report.plan_text or report.resolved else "Versions",
        stages={name: index % 8 for index, name in enumerate(coloured(report))},
        answers=answers.side_by_side(report),
    )
