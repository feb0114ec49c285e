"""The report's tables of what lies beside scores: models, settings, time, items without a verdict, a few answers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from ratchet.documents.report import Report
from ratchet.documents.scores import SuiteScores
from ratchet.report import figures as fig
from ratchet.report.answers import CUT, cut, values_text
from ratchet.report.tables.training import Cell, Column, Table, colour_key, model_cell, row, table
from ratchet.track.progress import duration
from ratchet.track.wandb import flatten

ANSWERS_IN_MARKDOWN = 3
"""Answers of each task that the Markdown shows; the page has all."""


def models(report: Report, scores: SuiteScores) -> Table | None:
    """What was evaluated, by its weights."""
    rows = [
        row(
            [model_cell(report, one.name), one.before or fig.NONE, one.weights, one.dtype],
            *(found.record for found in scores.results if found.model == one.name),
        )
        for one in scores.models
    ]
    names = ("model", "made from", "weights", "computed in")
    return table([Column(name, text=True) for name in names], rows, "Weights: digest of the weights themselves.")


def times(report: Report, scores: SuiteScores) -> Table | None:
    """How long each model took on each task."""
    rows = []
    for suite, task in scores.tasks:
        found = scores.of(suite, task)
        cells = [
            Cell(duration(one.seconds), aside="reused" if one.reused else "") if (one := found.get(name)) else fig.NONE
            for name in scores.names
        ]
        rows.append(row([scores.label(suite, task), *cells], *(one.record for one in found.values())))
    columns = [Column("task", text=True), *(Column(name, stage=colour_key(report, name)) for name in scores.names)]
    note = "Reused: these weights had answered it before; the time is what it took then."
    said = note if any(one.reused for one in scores.results) else ""
    return table(columns, rows, said, "Time of each task", folded=True)


def settings(scores: SuiteScores) -> list[Table]:
    """What decided the numbers of each task; a column for each model where they were not the same for all."""
    made = []
    for suite, task in scores.tasks:
        found = scores.of(suite, task)
        flat = {name: _flat(one.settings) for name, one in found.items()}
        alike = len({tuple(sorted(one.items())) for one in flat.values()}) == 1
        shown = dict(itertools.islice(flat.items(), 1)) if alike else flat
        records = [one.record for one in found.values()]
        keys = dict.fromkeys(key for one in shown.values() for key in one)
        rows = [row([key, *(one.get(key, fig.NONE) for one in shown.values())], *records) for key in keys]
        heads = ["value, for all models"] if alike else list(shown)
        columns = [Column("setting", text=True), *(Column(name, text=True) for name in heads)]
        made.append(table(columns, rows, title=f"Settings of {scores.label(suite, task)}", folded=True))
    return [one for one in made if one is not None]


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as text with dotted keys; what is the same for all parts of a task is said once."""
    merged = {}
    for key, value in settings.items():
        parts = list(value.values()) if isinstance(value, Mapping) else []
        alike = len(parts) > 1 and all(one == parts[0] for one in parts)
        merged[key] = f"{parts[0]} (all {len(parts)})" if alike else value
    return {key: str(value) for key, value in flatten(merged).items()}


def problems(report: Report, scores: SuiteScores) -> Table | None:
    """Items without a verdict: model, task, reason, how many."""
    rows = [
        row([model_cell(report, name), scores.label(suite, task), reason, fig.count(count)], result.record)
        for suite, task in scores.tasks
        for name, result in scores.of(suite, task).items()
        for reason, count in result.problems.items()
        if count
    ]
    texts = [Column(name, text=True) for name in ("model", "task", "reason")]
    return table([*texts, Column("items")], rows)


def warnings(scores: SuiteScores) -> list[str]:
    """What the tasks warn of, each once, with the models that it is said of where that is not all."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for one in scores.results:
        for text in one.warnings:
            said.setdefault((one.suite, one.task, text), []).append(one.model)
    lines = []
    for (suite, task, text), names in said.items():
        whom = "" if len(names) == len(scores.of(suite, task)) else f" ({', '.join(dict.fromkeys(names))})"
        lines.append(f"{scores.label(suite, task)}{whom}: {text}")
    return lines


def answers(scores: SuiteScores) -> Table | None:
    """The first few answers of the first and the last model, cut short."""
    if not scores.answers or not scores.names:
        return None
    ends = list(dict.fromkeys([scores.names[0], scores.names[-1]]))
    rows = []
    for suite, task in dict.fromkeys((one.suite, one.task) for one in scores.answers):
        mine = [one for one in scores.answers if (one.suite, one.task) == (suite, task)]
        results = scores.of(suite, task)
        for one in mine[:ANSWERS_IN_MARKDOWN]:
            said = (one.by.get(name) for name in ends)
            cells = [Cell(cut(it.answer, CUT), aside=values_text(it)) if it else fig.NONE for it in said]
            texts = [scores.label(suite, task), one.item, cut(one.question, CUT), cut(one.reference, CUT)]
            rows.append(row([*texts, *cells], *(results[name].record for name in ends if name in results)))
    names = ("task", "item", "question", "reference", *ends)
    note = f"The first {ANSWERS_IN_MARKDOWN} of each task, cut short; the page has more, of any two models."
    return table([Column(name, text=True) for name in names], rows, note)
