"""Answers side by side: what the page shows of two models, and the data with which it shows any other two."""

from __future__ import annotations

import dataclasses
from typing import Any

from ratchet.documents.report import Report
from ratchet.documents.scores import ShownAnswer, ShownQuestion, SuiteScores
from ratchet.report import figures as fig
from ratchet.report.tables.scores import identity, told

CUT, START = 160, 600
"""Characters of an answer in Markdown, and of a long one on the page before it is opened."""

NOT_ASKED = "not asked"


@dataclasses.dataclass(frozen=True)
class Said:
    """One model's answer as shown: `start` of it, `whole` where that is longer, and its scores."""

    model: str
    start: str
    whole: str
    scores: str


@dataclasses.dataclass(frozen=True)
class Asked:
    """One item: `number` finds its answers in `SideBySide.data`."""

    number: int
    item: str
    group: str
    question: str
    reference: str
    sides: tuple[Said, ...]


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """The items by task, with the `left` and the `right` model's answers.

    `data` is what the page's script reads: the models, and for every item what each of them said and
    how it was scored. It is plain values; the template writes them so that no text of a model can
    end the block that they stand in.
    """

    models: tuple[str, ...]
    left: str
    right: str
    tasks: tuple[tuple[str, tuple[Asked, ...]], ...]
    data: dict[str, Any]


def side_by_side(report: Report) -> SideBySide | None:
    """Lay out a report's answers, those of the first and the last model in sight; None without any."""
    scores = report.scores
    if scores is None or not scores.answers:
        return None
    models = list(dict.fromkeys([*scores.names, *(name for one in scores.answers for name in one.by)]))
    left, right = models[0], models[-1]
    tasks: dict[str, list[Asked]] = {}
    for number, one in enumerate(scores.answers):
        tasks.setdefault(_title(scores, one), []).append(_asked(number, one, left, right))
    data = {"start": START, "said": [_all_said(one, models) for one in scores.answers]}
    return SideBySide(tuple(models), left, right, tuple((name, tuple(of)) for name, of in tasks.items()), data)


def _title(scores: SuiteScores, one: ShownQuestion) -> str:
    says = dict.fromkeys(identity(found.settings) for found in scores.of(one.suite, one.task).values())
    return told(scores.label(one.suite, one.task), *says)


def _asked(number: int, one: ShownQuestion, *models: str) -> Asked:
    sides = tuple(_said(name, one.by.get(name)) for name in models)
    return Asked(number, one.item, one.group, one.question, one.reference, sides)


def _said(model: str, answer: ShownAnswer | None) -> Said:
    if answer is None:
        return Said(model, "", "", NOT_ASKED)
    text = answer.answer
    return Said(model, cut(text, START), text if len(text) > START else "", values_text(answer))


def _all_said(one: ShownQuestion, models: list[str]) -> list[list[str]]:
    """Return (answer, scores) of each model, in order."""
    found = (one.by.get(name) for name in models)
    return [[it.answer, values_text(it)] if it else ["", NOT_ASKED] for it in found]


def values_text(answer: ShownAnswer) -> str:
    """Return an answer's values and its trouble in one line."""
    known = {name: value for name, value in answer.values.items() if value is not None}
    values = [f"{name} {fig.number(value, 0 if value == round(value) else 2)}" for name, value in known.items()]
    return ", ".join([*values, *([answer.problem] if answer.problem else [])])


def cut(text: str, most: int) -> str:
    """Return at most `most` characters of a text, the last an ellipsis where it is cut."""
    return text if len(text) <= most else text[: most - 1] + "…"
