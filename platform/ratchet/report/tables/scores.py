"""The report's tables of suites: scores, what they are made of, and which differences are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ratchet.documents.report import Report
from ratchet.documents.scores import Average, Comparison, Score, SuiteScores, TaskScores
from ratchet.report import figures as fig
from ratchet.report.parts import Cell, Entry, PageTable, Row, amount, colour_key, model_cell, row, table, text

GROUPS_IN_SIGHT = 12
"""A task with more parts than this (MMLU has 57) shows them on a click."""

NO_SCORE = "no score"
_IDENTITY = {
    "profile": "{}",
    "question_set": "{}",
    "judge": "judge {}",
    "judge_how": "",
    "references": "references {}",
    "reference_set": "references {}",
}
VERDICTS = {"better": "▲ better", "worse": "▼ worse", "not shown": "· not shown"}


def headlines(report: Report, scores: SuiteScores) -> list[PageTable]:
    """Every model on every task and average, one table a suite."""
    made = (_headline(report, scores, suite) for suite in scores.suites)
    return [one for one in made if one is not None]


def _headline(report: Report, scores: SuiteScores, suite: str) -> PageTable | None:
    entries = {name: [text("model", model_cell(report, name))] for name in scores.names}
    records: dict[str, list[str]] = {name: [] for name in scores.names}
    for task in (task for of, task in scores.tasks if of == suite):
        results = scores.of(suite, task)
        says = identity(next(iter(results.values())).settings)
        for head in _whole(results.values()):
            note = _common(like.note for one in results.values() if (like := one.score(head.name, head.group)))
            unit = comma(head.name, unit_name(head.unit), direction(head), says, note)
            for name in scores.names:
                found = results.get(name)
                entries[name].append(amount(task, _score_cell(found, head, says, note), unit))
                records[name] += [found.record] if found else []
    notes = ["± is one standard error."]
    for average in dict.fromkeys(one.name for one in scores.averages if one.suite == suite):
        known = [one for name in scores.names if (one := scores.average(name, suite, average))]
        note = _common(one.note for one in known)
        unit = comma(unit_name(known[0].unit), _identities(scores, known[0]), note)
        notes.append(f"{average} is the mean of {', '.join(known[0].of)}.")
        for name in scores.names:
            entries[name].append(amount(average, _average_cell(scores.average(name, suite, average), note), unit))
    rows = [row(entries[name], *records[name]) for name in scores.names if records[name]]
    return table(rows, " ".join(notes), scores.suite_name(suite))


def _whole(results: Iterable[TaskScores]) -> list[Score]:
    """Return a task's headline, and what else is of the whole task by the same metric: MMLU has two means."""
    found: dict[str, Score] = {}
    for result in results:
        head = result.headline
        for one in result.scores:
            if head and not one.group and (one.metric, one.unit) == (head.metric, head.unit):
                found.setdefault(one.name, one)
    return list(found.values())


def _common(notes: Iterable[str]) -> str:
    """Return a note that all models share, which then stands in the head alone."""
    found = set(notes)
    return found.pop() if len(found) == 1 else ""


def comma(*parts: str) -> str:
    """Join what is known of a number with commas."""
    return ", ".join(filter(None, parts))


def _score_cell(result: TaskScores | None, like: Score, measured_by: str, note: str = "") -> Cell:
    """Show a model's score of the name and part that `like` has, and what the head does not say of it."""
    score = result.score(like.name, like.group) if result else None
    if result is None or score is None:
        return Cell(fig.NONE)
    other = identity(result.settings)
    shown = NO_SCORE if score.value is None else figure(score.unit, score.value, score.standard_error)
    said = score.note.removeprefix(f"{NO_SCORE}: ")
    aside = comma(said if score.note != note else "", other if other != measured_by else "")
    return Cell(shown, mark="measured otherwise" if other != measured_by else "", aside=aside)


def _average_cell(average: Average | None, note: str) -> Cell:
    if average is None:
        return Cell(fig.NONE)
    missing = average.value is None
    shown = NO_SCORE if missing else figure(average.unit, average.value, average.standard_error)
    return Cell(shown, aside=average.note if average.note != note else "")


def figure(unit: str, value: float | None, error: float | None) -> str:
    """Return a score with its error: shares in per cent, all else as it is.

    A score of items that all agree has none; of a share its note says what that leaves open.
    """
    if error == 0:
        return fig.percent(value) if unit == "share" else fig.with_error(value, None)
    return fig.percent_with_error(value, error) if unit == "share" else fig.with_error(value, error)


def unit_name(unit: str) -> str:
    """Return the unit that `figure` shows a score in."""
    return {"share": "%", "percent": "%"}.get(unit, unit)


def direction(score: Score) -> str:
    """Say which way is better where that is not up."""
    return "lower is better" if score.lower_is_better else ""


def identity(settings: Mapping[str, Any]) -> str:
    """Return what must stand beside a task's numbers: profile, questions, judge and how it was asked, references."""
    found = {key: _named(value) for key, value in settings.items() if key in _IDENTITY and value}
    how = found.pop("judge_how", "").partition(",")[0]  # what follows is a digest, which the settings show
    if "judge" in found and how:
        found["judge"] += f" ({how})"
    return ", ".join(_IDENTITY[key].format(found[key]) for key in _IDENTITY if key in found)


def _named(value: Any) -> str:
    """Return the name of a judge or reference set that is given by several keys."""
    if not isinstance(value, Mapping):
        return str(value)
    named = next((value[key] for key in ("name", "model", "judge") if value.get(key)), None)
    return _named(named) if named else ", ".join(f"{key} {_named(one)}" for key, one in value.items())


def _identities(scores: SuiteScores, average: Average) -> str:
    results = (scores.of(average.suite, task).get(average.model) for task in average.of)
    return "; ".join(dict.fromkeys(identity(one.settings) for one in results if one and identity(one.settings)))


# --- differences ---------------------------------------------------------------------------------


def differences(report: Report, scores: SuiteScores) -> PageTable | None:
    """Each model on each task against the base, and against the model before it."""
    found: dict[tuple[str, str, str, str], dict[str, Comparison]] = {}
    for one in scores.comparisons:
        found.setdefault((one.model, one.suite, one.task, one.metric), {})[one.relation] = one
    order = {name: place for place, name in enumerate(scores.names)}
    rows = [
        _difference(report, scores, sides)
        # `sorted` keeps the order of equals: the tasks of one model stand as in their suite.
        for _, sides in sorted(found.items(), key=lambda pair: order.get(pair[0][0], len(order)))
    ]
    note = (
        "± is one standard error of the difference; below it stands its 95 % interval. Differences are of the items' "
        "own values, those of shares in percentage points. A model made from the base is held against it once: both "
        "sides show that."
    )
    return table(rows, note)


def _difference(report: Report, scores: SuiteScores, sides: Mapping[str, Comparison]) -> Row:
    one = next(iter(sides.values()))
    base = sides.get("base")
    made_from = next((model.before for model in scores.models if model.name == one.model), None)
    before = sides.get("before") or (base if base and base.against == made_from else None)
    unit, says, _ = _about(scores, one)
    records = [path for side in sides.values() for path in _about(scores, side)[2]]
    clusters = f"{fig.count(one.clusters)}\u00a0clusters" if one.clusters != one.items else ""
    entries = [
        text("model", model_cell(report, one.model)),
        text("task", Cell(scores.label(one.suite, one.task), aside=comma(one.metric, unit_name(unit), says))),
        *_side(base, unit, f"against {scores.names[0] if scores.names else 'the base'}"),
        text("the previous model", model_cell(report, before.against) if before else fig.NONE),
        *_side(before, unit, "against it"),
        amount("items", Cell(fig.count(one.items), aside=clusters)),
    ]
    return row(entries, *records)


def _side(one: Comparison | None, unit: str, against: str) -> list[Entry]:
    change, p, verdict = Cell(fig.NONE), Cell(fig.NONE), Cell(fig.NONE)
    if one is not None:
        factor = 100.0 if unit == "share" else 1.0
        off, error, low, high = (
            None if value is None else factor * value
            for value in (one.difference, one.standard_error, one.low, one.high)
        )
        said = VERDICTS[one.verdict]
        change = Cell(_change(off, error, low, high), aside=fig.interval(low, high, error))
        p = Cell(fig.probability(one.p_holm))
        verdict = Cell(said, mark=said if one.verdict == "worse" else "", aside=one.note)
    return [amount("difference", change, against), amount("p", p, "Holm"), amount("verdict", verdict, against)]


def _change(change: float | None, error: float | None, low: float | None, high: float | None) -> str:
    """Return a difference, without its error where the formula's is 0 and its interval, below it, is no point."""
    return fig.number(change) if error == 0 and low != high else fig.difference(change, error)


def _about(scores: SuiteScores, one: Comparison) -> tuple[str, str, list[str]]:
    """Return a comparison's unit, what its numbers were measured by, and their records."""
    average = scores.average(one.model, one.suite, one.task) if one.average else None
    tasks = average.of if average else (one.task,)
    found = [scores.of(one.suite, task) for task in tasks]
    mine = [results[one.model] for results in found if one.model in results]
    records = [results[name].record for results in found for name in (one.model, one.against) if name in results]
    if average:
        return average.unit, _identities(scores, average), records
    units = [score.unit for result in mine for score in result.scores if score.metric == one.metric]
    unit = "nats" if "perplexity" in units else next(iter(units), "")  # its items are compared by their nats
    return unit, identity(mine[0].settings) if mine else "", records


# --- all scores ----------------------------------------------------------------------------------


def details(report: Report, scores: SuiteScores) -> list[PageTable]:
    """All scores of all models: a table of whole tasks for each suite, and one for each task that has parts."""
    made: list[PageTable | None] = []
    for suite in scores.suites:
        tasks = [(suite, task) for of, task in scores.tasks if of == suite]
        made.append(_whole_tasks(report, scores, tasks, scores.suite_name(suite)))
        made += [_parts(report, scores.of(*task), scores.label(*task)) for task in tasks]
    return [one for one in made if one is not None]


def _whole_tasks(report: Report, scores: SuiteScores, tasks: list[tuple[str, str]], title: str) -> PageTable | None:
    rows = []
    for task in tasks:
        results = scores.of(*task)
        says = identity(next(iter(results.values())).settings)
        for place in _places(results):
            if not place[1]:
                head = [text("task", Cell(scores.label(*task), aside=says)), text("score", place[0])]
                rows.append(_score_row(report, scores.names, results, place, head))
    return table(rows, title=f"{title}, every score of whole tasks")


def _parts(report: Report, results: Mapping[str, TaskScores], label: str) -> PageTable | None:
    places = [place for place in _places(results) if place[1]]
    names = {name if name != part else "" for name, part in places}
    several = len(names) > 1
    rows = [
        _score_row(
            report, list(results), results, (name, part), [text("part", part), text("score", name if several else "")]
        )
        for name, part in places
    ]
    says = identity(next(iter(results.values())).settings)
    what = "" if several else "".join(names)
    title = comma(label, what, says, f"{len({part for _, part in places})} parts")
    return table(rows, title=title, folded=len(places) > GROUPS_IN_SIGHT)


def _places(results: Mapping[str, TaskScores]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one.name, one.group) for result in results.values() for one in result.scores))


def _score_row(
    report: Report,
    names: list[str],
    results: Mapping[str, TaskScores],
    place: tuple[str, str],
    head: list[Entry],
) -> Row:
    """Show one score of every model; items are a range where models differ in them."""
    known = [found for one in results.values() if (found := one.score(*place))]
    counts = sorted({one.count for one in known})
    says = identity(next(iter(results.values())).settings)
    items = " to ".join(map(fig.count, dict.fromkeys((counts[0], counts[-1]))))
    entries = [
        *head,
        text("unit", comma(unit_name(known[0].unit), direction(known[0]))),
        *(
            amount(name, _score_cell(results.get(name), known[0], says), stage=colour_key(report, name))
            for name in names
        ),
        amount("items", items),
    ]
    return row(entries, *(one.record for one in results.values()))
