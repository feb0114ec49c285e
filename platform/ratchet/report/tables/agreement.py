"""Tables that hold two sides against each other: as trained and as published, another engine and the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchet.documents.report import Report
from ratchet.report import figures as fig
from ratchet.report.tables.training import Cell, Column, Table, model_cell, row, table


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
