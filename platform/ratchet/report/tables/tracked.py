"""One model's scores as a tracker takes them: figures by name, and tables of plain values."""

from __future__ import annotations

from typing import Any

from ratchet.documents.scores import SuiteScores

Plain = tuple[list[str], list[list[Any]]]
"""Column names, and rows of plain values."""


def wandb_summary(scores: SuiteScores, model: str) -> dict[str, float]:
    """Return a model's headline scores and averages, with their standard errors, in the unit of scores.json.

    `eval/<suite>/<task>` and `eval/<suite>/<task>_error`; what has no value is not there, nor is an error of 0, which
    is that of items that all agree.
    """
    found: dict[str, float] = {}
    heads = [(one.suite, one.task, one.headline) for one in scores.results if one.model == model]
    means = [(one.suite, one.name, one) for one in scores.averages if one.model == model]
    for suite, name, one in (*heads, *means):
        if one is not None and one.value is not None:
            key = f"eval/{scores.suite_name(suite)}/{name}"
            found[key] = one.value
            if one.standard_error:
                found[f"{key}_error"] = one.standard_error
    return found


def wandb_tables(scores: SuiteScores, model: str) -> dict[str, Plain]:
    """Return a model's scores, differences, items without a verdict and answers: (columns, rows) by table name.

    A table without rows is not there.
    """
    made = {
        "eval/scores": _scores(scores, model),
        "eval/differences": _differences(scores, model),
        "eval/problems": _problems(scores, model),
        "eval/answers": _answers(scores, model),
    }
    return {name: table for name, table in made.items() if table[1]}


def _scores(scores: SuiteScores, model: str) -> Plain:
    columns = ["suite", "task", "score", "part", "value", "standard_error", "items", "unit", "note"]
    rows = [
        [one.suite, one.task, it.name, it.group, it.value, it.standard_error, it.count, it.unit, it.note]
        for one in scores.results
        if one.model == model
        for it in one.scores
    ]
    rows += [
        [one.suite, one.name, "average", "", one.value, one.standard_error, None, one.unit, one.note]
        for one in scores.averages
        if one.model == model
    ]
    return columns, rows


def _differences(scores: SuiteScores, model: str) -> Plain:
    numbers = ["difference", "standard_error", "low", "high", "p", "p_holm"]
    rows = [
        [
            *(one.against, one.relation, one.suite, one.task, one.metric),
            *(getattr(one, name) for name in numbers),
            *(one.verdict, one.items, one.clusters, one.note),
        ]
        for one in scores.comparisons
        if one.model == model
    ]
    texts = ["against", "relation", "suite", "task", "metric"]
    return [*texts, *numbers, "verdict", "items", "clusters", "note"], rows


def _problems(scores: SuiteScores, model: str) -> Plain:
    rows = [
        [one.suite, one.task, reason, count]
        for one in scores.results
        if one.model == model
        for reason, count in one.problems.items()
    ]
    return ["suite", "task", "reason", "items"], rows


def _answers(scores: SuiteScores, model: str) -> Plain:
    metrics = list(dict.fromkeys(name for one in scores.answers if model in one.by for name in one.by[model].values))
    rows = [
        [
            *(one.suite, one.task, one.item, one.group, one.question, one.reference),
            *(said.answer, said.problem),
            *(None if (value := said.values.get(name)) is None else float(value) for name in metrics),
        ]
        for one in scores.answers
        if (said := one.by.get(model)) is not None
    ]
    return ["suite", "task", "item", "part", "question", "reference", "answer", "problem", *metrics], rows
