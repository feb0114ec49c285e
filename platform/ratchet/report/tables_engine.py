"""The table of reference engines: who scored a step's reference, and how that compares with the trainer's scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchet.documents.report import Report
from ratchet.report import figures as fig
from ratchet.report.tables import Cell, Column, Table, model_cell, row, table


def engines(report: Report) -> Table | None:
    """One row for each step whose reference another engine was asked for; None where there is none."""
    rows = []
    for step in report.steps:
        found = step.reference_agreement
        if found is None:
            continue
        cells: list[Cell | str] = [
            model_cell(report, step.name),
            step.reference_engine or fig.NONE,
            fig.count(found["pairs"]),
            *(_side(found[side]) for side in ("chosen", "rejected")),
            *(fig.small(found[side]["worst"]) for side in ("chosen", "rejected")),
            fig.small(found["shift"]),
            fig.small(found["bound"]),
            fig.loss(found["first_loss"]),
        ]
        rows.append(row(cells, step.record))
    columns = [
        Column("step", text=True),
        Column("scored by", text=True),
        Column("pairs compared"),
        Column("chosen off by", "nats"),
        Column("rejected off by", "nats"),
        Column("worst chosen", "nats"),
        Column("worst rejected", "nats"),
        Column("shift"),
        Column("borne"),
        Column("first loss by it"),
    ]
    note = (
        "Mean and standard deviation of another engine's score minus the trainer's, on a fixed sample. Shift: how far "
        "that moves the argument of the loss, root mean square; above what is borne, the trainer scored the reference. "
        "First loss: what ln 2 = 0.693147 would become."
    )
    return table(columns, rows, note) if rows else None


def _side(difference: Mapping[str, Any]) -> str:
    return fig.with_error(difference["bias"], difference["deviation"])
