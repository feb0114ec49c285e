"""Where the models that a run ended with lie, and the line that loads each: on the page and on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from ratchet.documents.report import Report, StepSummary
from ratchet.model.usage import load_line
from ratchet.report.tables.training import Column, Table, model_cell, row, table


def models(report: Report) -> Table | None:
    """The final models with their folders, and how to load them."""
    rows = [row([model_cell(report, step.name), step.folder, _line(step)], step.record) for step in _last(report)]
    columns = [Column("model", text=True), Column("folder", text=True), Column("loaded by", text=True)]
    return table(
        columns, rows, "In Python, after `import transformers`. The folders are those of the machine of the run."
    )


def model_lines(report: Report) -> Iterator[str]:
    """Yield the folder of each final model, and the line that loads it, for a terminal."""
    for step in _last(report):
        yield f"{step.name:<20} model: {step.folder}"
        yield f"{'':<20} {_line(step)}"


def _last(report: Report) -> list[StepSummary]:
    return [step for step in report.steps if step.folder and step.name in report.final_models]


def _line(step: StepSummary) -> str:
    return load_line(step.folder, trust_remote_code=step.trust_remote_code)
