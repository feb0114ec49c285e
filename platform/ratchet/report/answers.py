"""What models wrote: answers to a few prompts before and after, and answers of two models side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ratchet.documents.heldout import SampledPrompt, WrittenAnswer
from ratchet.documents.report import Report
from ratchet.documents.scores import ShownAnswer, ShownQuestion, SuiteScores
from ratchet.report import figures as fig
from ratchet.report.diagnoses import degenerate
from ratchet.report.figures import cut, on_one_line
from ratchet.report.parts import Cell, PageTable, model_cell, row, table, text
from ratchet.report.tables.scores import comma, identity

FIRST, ON_TERMINAL = 3, 2
"""Prompts at the head of the page, and on the terminal."""

SHORT, LONG, LINE = 220, 2000, 110
"""Characters of what a model wrote: at the head of the page, in its section, and on the terminal."""

START, IN_MARKDOWN = 600, 160
"""Characters of an answer to a suite: on the page before it is opened, and in Markdown."""

ANSWERS_IN_MARKDOWN = 3
"""Answers of each task that the Markdown shows; the page has all."""

NOT_ASKED = "not asked"


def first_samples(report: Report) -> PageTable | None:
    """A few prompts with the start of what each model wrote, for the head of the page."""
    return _samples(report, report.samples[:FIRST], SHORT, "The section below has all of them, at length.")


def samples(report: Report) -> PageTable | None:
    """All prompts with what each model wrote, and the chosen answer."""
    if not report.samples:
        return None
    limit = max(one.limit for one in report.samples)
    known = {"heldout": "held-out prompts", "train": "prompts that were trained on, as nothing is held out"}
    note = f"Greedy answers of at most {limit} tokens to {known[report.samples[0].split]}, the same for all models."
    return _samples(report, report.samples, LONG, note, chosen=True)


def sample_lines(report: Report) -> Iterator[str]:
    """Yield a few prompts with what the first and the last model wrote, each on one line, for a terminal."""
    for sample in report.samples[:ON_TERMINAL]:
        yield f"{'asked':<20} {on_one_line(sample.prompt, LINE)}"
        ends = sample.answers if len(sample.answers) < 2 else (sample.answers[0], sample.answers[-1])
        for one in ends:
            yield f"  {one.model:<18} {on_one_line(one.text, LINE) or '(nothing)'}"


def _samples(
    report: Report, some: tuple[SampledPrompt, ...], most: int, note: str, *, chosen: bool = False
) -> PageTable | None:
    names = list(dict.fromkeys(one.model for sample in some for one in sample.answers))
    rows = []
    for sample in some:
        by = {one.model: one for one in sample.answers}
        entries = [text("prompt", cut(sample.prompt, most))]
        for name in names:
            cell = _written(sample, by.get(name), most)
            entries.append(text(name, cell, stage=model_cell(report, name).stage))
        entries += [text("chosen answer", cut(sample.chosen, most))] if chosen else []
        rows.append(row(entries, *(one.record for one in by.values())))
    return table(rows, note)


def _written(sample: SampledPrompt, one: WrittenAnswer | None, most: int) -> Cell:
    if one is None:
        return Cell("")
    return Cell(cut(one.text, most) or "(nothing)", mark=degenerate(sample, one))


def first_answers(scores: SuiteScores) -> PageTable | None:
    """The first few answers of the first and the last model, cut short."""
    if not scores.answers or not scores.names:
        return None
    ends = list(dict.fromkeys([scores.names[0], scores.names[-1]]))
    rows = []
    for suite, task in dict.fromkeys((one.suite, one.task) for one in scores.answers):
        mine = [one for one in scores.answers if (one.suite, one.task) == (suite, task)]
        results = scores.of(suite, task)
        for one in mine[:ANSWERS_IN_MARKDOWN]:
            entries = [
                text("task", scores.label(suite, task)),
                text("item", one.item),
                text("question", cut(one.question, IN_MARKDOWN)),
                text("reference", cut(one.reference, IN_MARKDOWN)),
            ]
            for name in ends:
                it = one.by.get(name)
                entries.append(text(name, Cell(cut(it.answer, IN_MARKDOWN), aside=values_text(it)) if it else fig.NONE))
            rows.append(row(entries, *(results[name].record for name in ends if name in results)))
    return table(
        rows, f"The first {ANSWERS_IN_MARKDOWN} of each task, cut short; the page has more, of any two models."
    )


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
    left, right = models[0], models[-1]  # the base and the last model made: the pair that a reader asks about
    tasks: dict[str, list[Asked]] = {}
    for number, one in enumerate(scores.answers):
        tasks.setdefault(_title(scores, one), []).append(_asked(number, one, left, right))
    data = {"start": START, "said": [_all_said(one, models) for one in scores.answers]}
    return SideBySide(tuple(models), left, right, tuple((name, tuple(of)) for name, of in tasks.items()), data)


def _title(scores: SuiteScores, one: ShownQuestion) -> str:
    says = dict.fromkeys(identity(found.settings) for found in scores.of(one.suite, one.task).values())
    return comma(scores.label(one.suite, one.task), *says)


def _asked(number: int, one: ShownQuestion, *models: str) -> Asked:
    sides = tuple(_said(name, one.by.get(name)) for name in models)
    return Asked(number, one.item, one.group, one.question, one.reference, sides)


def _said(model: str, answer: ShownAnswer | None) -> Said:
    if answer is None:
        return Said(model, "", "", NOT_ASKED)
    whole = answer.answer if len(answer.answer) > START else ""
    return Said(model, cut(answer.answer, START), whole, values_text(answer))


def _all_said(one: ShownQuestion, models: list[str]) -> list[list[str]]:
    """Return (answer, scores) of each model, in order."""
    found = (one.by.get(name) for name in models)
    return [[it.answer, values_text(it)] if it else ["", NOT_ASKED] for it in found]


def values_text(answer: ShownAnswer) -> str:
    """Return an answer's values and its trouble in one line."""
    known = {name: value for name, value in answer.values.items() if value is not None}
    values = [f"{name} {fig.number(value, 0 if value == round(value) else 2)}" for name, value in known.items()]
    return ", ".join([*values, *([answer.problem] if answer.problem else [])])
