"""The table of effects: what each step gained, as it was trained and as it was published."""

from __future__ import annotations

from ratchet.documents.report import Report
from ratchet.report import figures as fig
from ratchet.report.tables import Cell, Column, Table, model_cell, row, table


def effects(report: Report) -> Table | None:
    """One row for each step that was trained; None where no record tells of an effect."""
    rows = []
    for step in report.steps:
        found = step.effect
        if found is None:
            continue
        cells: list[Cell | str] = [
            model_cell(report, step.name),
            found["of"],
            fig.count(found["pairs"]),
            *(fig.number(found[key], 4) for key in ("margin_trained", "margin_published")),
            *(fig.number(found[key], 2) for key in ("chosen_trained", "chosen_published")),
            fig.percent(found["kept"]),
        ]
        rows.append(row(cells, step.record))
    columns = [
        Column("step", text=True),
        Column("over", text=True),
        Column("pairs"),
        Column("margin as trained", "nats"),
        Column("margin as published", "nats"),
        Column("chosen as trained", "nats"),
        Column("chosen as published", "nats"),
        Column("effect kept"),
    ]
    note = (
        "Margin: how much more the chosen answers gained on their reference than the rejected ones. Where adapters are "
        "merged below float32, the sum is rounded; a dash: too little was gained to tell what was kept."
    )
    return table(columns, rows, note) if rows else None
