"""The report's tables of what lies beside scores: models, settings, time, items without a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchet.documents.report import Report
from ratchet.documents.scores import SuiteScores, TaskScores
from ratchet.report import figures as fig
from ratchet.report.parts import Cell, PageTable, amount, colour_key, model_cell, row, table, text
from ratchet.track.progress import duration
from ratchet.track.wandb import flatten


def evaluated(report: Report, scores: SuiteScores) -> PageTable | None:
    """The models that were evaluated, by their weights."""
    rows = [
        row(
            [
                text("model", model_cell(report, one.name)),
                text("made from", one.before or fig.NONE),
                text("weights", one.weights),
                text("computed in", one.dtype),
            ],
            *(found.record for found in scores.results if found.model == one.name),
        )
        for one in scores.models
    ]
    return table(rows, "Weights: digest of the weights themselves.")


def times(report: Report, scores: SuiteScores) -> PageTable | None:
    """How long each model took on each task."""
    rows = []
    for suite, task in scores.tasks:
        found = scores.of(suite, task)
        entries = [text("task", scores.label(suite, task))]
        for name in scores.names:
            one = found.get(name)
            cell = Cell(duration(one.seconds), aside=_aside(one)) if one else fig.NONE
            entries.append(amount(name, cell, stage=colour_key(report, name)))
        rows.append(row(entries, *(one.record for one in found.values())))
    notes = []
    if any(one.start_seconds for one in scores.results):
        notes.append("Starting: until a process was ready that computes answers.")
    if any(one.tokens for one in scores.results):
        notes.append(
            "Tokens: those computed, of those that all texts and choices have, each with its context by itself."
        )
    if any(one.reused for one in scores.results):
        notes.append("Reused: these weights had answered it before; the time is what it took then.")
    return table(rows, " ".join(notes), "Time of each task", folded=True)


def _aside(one: TaskScores) -> str:
    starting = f"{duration(one.start_seconds)} of it starting" if one.start_seconds else ""
    count = one.tokens.get("computed")
    tokens = f"{count:,} of {one.tokens['asked']:,} tokens" if count is not None else ""
    return ", ".join(filter(None, [starting, tokens, "reused" if one.reused else ""]))


def settings(scores: SuiteScores) -> list[PageTable]:
    """What decided the numbers of each task; a column for each model where they were not the same for all."""
    made = []
    for suite, task in scores.tasks:
        found = scores.of(suite, task)
        shown = {name: _flat(one.settings) for name, one in found.items()}
        if len({tuple(sorted(one.items())) for one in shown.values()}) == 1:
            shown = {"value, for all models": next(iter(shown.values()))}
        records = [one.record for one in found.values()]
        rows = [
            row([text("setting", key), *(text(head, one.get(key, fig.NONE)) for head, one in shown.items())], *records)
            for key in dict.fromkeys(key for one in shown.values() for key in one)
        ]
        made.append(table(rows, title=f"Settings of {scores.label(suite, task)}", folded=True))
    return [one for one in made if one is not None]


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as text with dotted keys; what is the same for all parts of a task is said once."""
    merged = {}
    for key, value in settings.items():
        parts = list(value.values()) if isinstance(value, Mapping) else []
        alike = len(parts) > 1 and all(one == parts[0] for one in parts)
        merged[key] = f"{parts[0]} (all {len(parts)})" if alike else value
    return {key: str(value) for key, value in flatten(merged).items()}


def problems(report: Report, scores: SuiteScores) -> PageTable | None:
    """Items without a verdict: model, task, reason, how many."""
    rows = [
        row(
            [
                text("model", model_cell(report, name)),
                text("task", scores.label(suite, task)),
                text("reason", reason),
                amount("items", fig.count(count)),
            ],
            result.record,
        )
        for suite, task in scores.tasks
        for name, result in scores.of(suite, task).items()
        for reason, count in result.problems.items()
        if count
    ]
    return table(rows)


def warnings(scores: SuiteScores) -> list[str]:
    """What the tasks warn of, each once, with the models that it is said of where that is not all."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for one in scores.results:
        for warning in one.warnings:
            said.setdefault((one.suite, one.task, warning), []).append(one.model)
    lines = []
    for (suite, task, warning), names in said.items():
        whom = "" if len(names) == len(scores.of(suite, task)) else f" ({', '.join(dict.fromkeys(names))})"
        lines.append(f"{scores.label(suite, task)}{whom}: {warning}")
    return lines
