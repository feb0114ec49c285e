"""The tables of a sweep's page: points by rank, trials, what ended badly, work, importance, stages."""

from __future__ import annotations

from collections.abc import Sequence

from ratchet.documents.sweep import Key, Objective, Point, SweepOutcome, TrialOutcome
from ratchet.report import figures as fig
from ratchet.report.figures import cut
from ratchet.report.parts import Cell, PageTable, Row, amount, row, table, text
from ratchet.report.sweep.values import (
    LONGEST,
    decimals,
    document,
    ordered,
    result_of,
    short_names,
    shown,
    trials_of,
)
from ratchet.report.sweep.words import compared, finished, plan_point, result_text
from ratchet.track.progress import duration

MOST = 60
"""Rows of a table of points or trials before it is thinned."""

REASON = 300
"""Characters of a reason."""


def ranked(sweep: SweepOutcome) -> PageTable | None:
    """All points, best first; of many the best, the last and the marked ones."""
    own, mine, all_points = plan_point(sweep), trials_of(sweep), ordered(sweep)
    points = thinned(all_points, [one for one in all_points if one.marks or one is own or one.id == sweep.best])
    heads = _key_heads(sweep)
    several = len(sweep.objectives) > 1
    over = [_over(sweep, place) for place in range(len(sweep.objectives))]
    against = {one.other: compared(one, decimals(sweep, 0)) for one in sweep.comparisons}
    ahead_of = {sweep.best, *sweep.tied} | {point.id for point in points if several and point.front}
    rows = []
    for point in points:
        marks = [cut(mark, 40) for mark in point.marks] + (["plan's own"] if point is own else [])
        front = text("front", "front" if point.front else fig.NONE)
        entries = [
            front if several else amount("rank", _rank(sweep, point)),
            text("point", Cell(cut(point.id, LONGEST), stage="best" if point.id in ahead_of else "")),
            *(
                (text if is_text else amount)(name, shown(point.values.get(key.key), key.kind), unit=unit)
                for key, name, unit, is_text in heads
            ),
            *(
                amount(cut(one.metric, LONGEST), _result(sweep, point, place, over[place]), _unit(one, over[place]))
                for place, one in enumerate(sweep.objectives)
            ),
            text("first minus this", against.get(point.id, fig.NONE)),
            amount("seeds finished", finished(sweep, max((one.seeds for one in point.results), default=0))),
            text("marks", ", ".join(marks) or fig.NONE),
            text("trials", _statuses(mine[point.id])),
        ]
        rows.append(row(entries, *([trial.run for trial in mine[point.id]] or [document(sweep)])))
    return table(rows, _left_out(len(rows), len(all_points), "points", "the best, the last and the marked"))


def _key_heads(sweep: SweepOutcome) -> list[tuple[Key, str, str, bool]]:
    """Return each key with its short name, its whole one where that says more, and whether its values are text."""
    names = short_names([key.key for key in sweep.keys])
    return [
        (key, name, cut(key.key, LONGEST) if name != key.key else "", not _numeric(sweep, key.key))
        for key in sweep.keys
        for name in [names[key.key]]
    ]


def _rank(sweep: SweepOutcome, point: Point) -> str:
    return f"1 of {len(sweep.tied)} equal" if point.id in sweep.tied else fig.count(point.rank)


def _unit(objective: Objective, over: str) -> str:
    """Say what stands beside an objective's values."""
    if objective.share and over != "over seeds":
        return "(exact 95 % interval)"
    return over and f"± standard error {over}"


def thinned(points: Sequence[Point], keep: Sequence[Point]) -> list[Point]:
    """Return the points to show, in their order: of more than MOST the first, the last few, and those to keep."""
    if len(points) <= MOST:
        return list(points)
    chosen = {one.id for one in (*points[: MOST - 10], *points[-10:], *keep[:MOST])}
    return [one for one in points if one.id in chosen]


def _left_out(shown_rows: int, there: int, what: str, which: str) -> str:
    if shown_rows == there:
        return ""
    return f"{there - shown_rows:,} of {there:,} {what} are left out here ({which} are shown); sweep.json has all."


def _numeric(sweep: SweepOutcome, key: str) -> bool:
    found = [point.values.get(key) for point in sweep.points]
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in found if one is not None)


def _over(sweep: SweepOutcome, place: int) -> str:
    """Say what most errors of an objective are over; those that differ say so in their cells."""
    found = [one for point in sweep.points if (one := result_of(point, place)) and one.standard_error is not None]
    if not found:
        return ""
    return "over seeds" if 2 * sum(one.of_seeds for one in found) >= len(found) else "over items"


def _result(sweep: SweepOutcome, point: Point, place: int, usual: str) -> Cell | str:
    found = result_of(point, place)
    if found is None:
        return fig.NONE
    mine = "over seeds" if found.of_seeds else "over items"
    aside = mine if found.standard_error is not None and found.low is None and mine != usual else ""
    return Cell(result_text(found, decimals(sweep, place)), aside=aside)


def _statuses(trials: Sequence[TrialOutcome]) -> str:
    counts = {status: sum(one.status == status for one in trials) for status in dict.fromkeys(t.status for t in trials)}
    if list(counts.values()) == [len(trials)]:
        return next(iter(counts))
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or fig.NONE


def ended(sweep: SweepOutcome) -> PageTable | None:
    """Trials that failed, were stopped or are not finished, each with its reason."""
    bad = [one for status in ("failed", "stopped", "unfinished") for one in sweep.trials if one.status == status]
    points = {point.id: point for point in sweep.points}
    keys = cut(", ".join(short_names([key.key for key in sweep.keys]).values()), LONGEST)
    rows = []
    for trial in bad[:MOST]:
        said = ", ".join(shown(points[trial.point].values.get(key.key), key.kind) for key in sweep.keys)
        entries = [
            text("trial", cut(trial.id, LONGEST)),
            text("status", Cell(trial.status, mark=trial.status if trial.status == "failed" else "")),
            text(keys, cut(said, 2 * LONGEST)),
            amount("seed", fig.NONE if trial.seed is None else str(trial.seed)),
            text("reason", cut(" ".join(trial.reason.split()), REASON) or fig.NONE),
            amount("time", duration(trial.seconds)),
        ]
        rows.append(row(entries, trial.run))
    return table(rows, _left_out(len(rows), len(bad), "such trials", "failed ones first"), "Trials that did not finish")


def trials(sweep: SweepOutcome) -> PageTable | None:
    """Every trial, in the order in which they were chosen."""
    rows = []
    for trial in sorted(sweep.trials, key=lambda one: one.number)[: 5 * MOST]:
        entries = [
            amount("number", fig.count(trial.number)),
            text("trial", cut(trial.id, LONGEST)),
            text("point", cut(trial.point, LONGEST)),
            amount("seed", fig.NONE if trial.seed is None else str(trial.seed)),
            text("status", trial.status),
            *(
                amount(cut(one.metric, LONGEST), result_text(found, decimals(sweep, place)) if found else fig.NONE)
                for place, one in enumerate(sweep.objectives)
                for found in [trial.metrics.get(one.metric)]
            ),
            amount("stages", fig.count(len(trial.steps))),
            amount("time", duration(trial.seconds)),
            text("wandb", cut(trial.wandb, LONGEST) if trial.wandb else fig.NONE),
        ]
        rows.append(row(entries, trial.run))
    note = (
        "± is the standard error over the items of the one trial; in brackets stands a share's exact interval. "
        + _left_out(len(rows), len(sweep.trials), "trials", "the first")
    )
    return table(rows, note.strip(), "Every trial", folded=True)


def work_shared(sweep: SweepOutcome) -> PageTable | None:
    """What was computed, what would have been without sharing, and the share saved."""
    done = sweep.work

    def line(name: str, shared: str, unshared: str = fig.NONE, saved: float | None = None) -> Row:
        entries = [text("work", name), amount("with sharing", shared), amount("without", unshared)]
        return row([*entries, amount("saved", fig.percent(saved), "%")], document(sweep))

    def counts(name: str, shared: int, unshared: int) -> Row:
        return line(name, fig.count(shared), fig.count(unshared), 1 - shared / unshared if unshared else None)

    spared = 1 - done.seconds / done.seconds_unshared if done.seconds_unshared else None
    rows = [
        counts("stages trained", done.stages, done.stages_unshared),
        *([line("stages found from before", fig.count(done.stages_found))] if done.stages_found else []),
        counts("pairs trained", done.pairs, done.pairs_unshared),
        counts("reference passes", done.reference_passes, done.reference_passes_unshared),
        counts("reference pairs scored", done.reference_pairs, done.reference_pairs_unshared),
        line("time of that work", duration(done.seconds), duration(done.seconds_unshared), spared),
    ]
    note = (
        "With sharing: what this sweep made itself. Without: every trial trained each of its own stages and scored its "
        "own reference pairs. Its time is the sum of what the shared work took, once for each trial that has it; "
        "none of it was run."
    )
    return table(rows, note)


def importances(sweep: SweepOutcome) -> PageTable | None:
    """The share of each objective's variation that each key explains."""
    names = short_names([key.key for key in sweep.keys])
    rows = [
        row(
            [
                text("objective", cut(one.metric, LONGEST)),
                text("key", names.get(one.key, one.key)),
                amount("share", fig.percent(one.share), "%"),
            ],
            document(sweep),
        )
        for objective in sweep.objectives
        for one in sorted(sweep.importance, key=lambda one: -one.share)
        if one.metric == objective.metric
    ]
    return table(rows)


def stages(sweep: SweepOutcome) -> PageTable | None:
    """Every trained stage, the most shared first."""
    runs = {trial.id: trial for trial in sweep.trials}
    found = sorted(sweep.stages, key=lambda one: -len(one.trials))
    rows = []
    for one in found[: 5 * MOST]:
        maker = runs.get(one.made_by)
        entries = [
            text("stage", cut(one.name, LONGEST)),
            text("kind", one.kind),
            text("data", cut(one.chunk, LONGEST) or fig.NONE),
            text("id", cut(one.id, 16)),
            text("starts from", cut(one.start, 16) if one.start else "start model"),
            amount("trials that have it", fig.count(len(one.trials))),
            text("made by", cut(one.made_by, LONGEST) or fig.NONE),
            amount("pairs trained", fig.count(one.pairs)),
            amount("time", duration(one.seconds)),
            amount("reference pairs scored", fig.count(one.reference_pairs)),
            amount("reference pass", duration(one.reference_seconds) if one.reference_pairs else fig.NONE),
        ]
        rows.append(row(entries, maker.run if maker else document(sweep)))
    return table(rows, _left_out(len(rows), len(found), "stages", "the most shared"), "Every stage", folded=True)
