"""The report's tables about what a model is made of: its parts, and what adapters reach."""

from __future__ import annotations

from ratchet.documents.passport import FATES, amount_of
from ratchet.documents.report import Report
from ratchet.report import figures as fig
from ratchet.report.parts import PageTable, amount, model_cell, row, table, text


def parts(report: Report) -> PageTable | None:
    """The parts of the start model, and what becomes of each."""
    base = report.base
    if base is None:
        return None
    rows = [
        row(
            [
                text("part", part.name),
                amount("tensors", fig.count(part.tensors)),
                amount("parameters", amount_of(part.parameters)),
                amount("stored", fig.number(part.bytes / 1e6, 1), "MB"),
                text("as", ", ".join(part.stored)),
                text("what becomes of it", FATES[part.fate]),
            ]
        )
        for part in base.parts
    ]
    stored = f" Stored in {base.storage}; held, trained and published in the precision of model.dtype."
    return table(rows, f"{base.architecture} ({base.kind}).{stored if base.storage else ''}")


def reaches(report: Report) -> PageTable | None:
    """What the adapters of each step are on."""
    rows = [
        row(
            [
                text("step", model_cell(report, step.name)),
                amount("of the weights", fig.percent(found.share), "%"),
                text("modules", ", ".join(f"{name} × {count}" for name, count in found.modules.items())),
                amount("experts left out", fig.percent(found.experts / found.of if found.of else None), "%"),
                text("bypassed", ", ".join(found.bypassed) or fig.NONE),
            ],
            step.record,
        )
        for step in report.steps
        for found in [step.reach]
        if found is not None
    ]
    note = "Bypassed: modules without an adapter, as the model reads their weights without calling them."
    return table(rows, note)
