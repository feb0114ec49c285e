"""The tables of a sweep's page: points by rank, trials, what ended badly, work, importance, stages."""

from __future__ import annotations

from collections.abc import Sequence

from ratchet.documents.sweep import Objective, Point, SweepOutcome, TrialOutcome
from ratchet.report import figures as fig
from ratchet.report.answers import cut
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
from ratchet.report.sweep.words import compared, finished, plan_point, told
from ratchet.report.tables.training import Cell, Column, Row, Table, row, table
from ratchet.track.progress import duration

MOST = 60
"""Rows of a table of points or trials before it is thinned."""

REASON = 300
"""Characters of a reason."""


def ranked(sweep: SweepOutcome) -> Table | None:
    """All points, best first; of many the best, the last and the marked ones."""
    own, mine, all_points = plan_point(sweep), trials_of(sweep), ordered(sweep)
    points = thinned(all_points, [one for one in all_points if one.marks or one is own or one.id == sweep.best])
    names = short_names([key.key for key in sweep.keys])
    several = len(sweep.objectives) > 1
    over = [_over(sweep, place) for place in range(len(sweep.objectives))]
    against = {one.other: compared(one, decimals(sweep, 0)) for one in sweep.comparisons}
    ahead_of = {sweep.best, *sweep.tied} | {point.id for point in points if several and point.front}
    rows = []
    for point in points:
        ahead = ("front" if point.front else fig.NONE) if several else _rank(sweep, point)
        marks = [cut(mark, 40) for mark in point.marks] + (["plan's own"] if point is own else [])
        cells: list[Cell | str] = [
            ahead,
            Cell(cut(point.id, LONGEST), stage="best" if point.id in ahead_of else ""),
            *(shown(point.values.get(key.key), key.kind) for key in sweep.keys),
            *(_result(sweep, point, place, over[place]) for place in range(len(sweep.objectives))),
            against.get(point.id, fig.NONE),
            finished(sweep, max((one.seeds for one in point.results), default=0)),
            ", ".join(marks) or fig.NONE,
            _statuses(mine[point.id]),
        ]
        rows.append(row(cells, *([trial.run for trial in mine[point.id]] or [document(sweep)])))
    columns = [
        Column("front" if several else "rank", text=several),
        Column("point", text=True),
        *(
            Column(
                names[key.key],
                cut(key.key, LONGEST) if names[key.key] != key.key else "",
                text=not _numeric(sweep, key.key),
            )
            for key in sweep.keys
        ),
        *(Column(cut(one.metric, LONGEST), _unit(one, over[place])) for place, one in enumerate(sweep.objectives)),
        Column("first minus this", text=True),
        Column("seeds finished"),
        Column("marks", text=True),
        Column("trials", text=True),
    ]
    return table(columns, rows, _left_out(len(rows), len(all_points), "points", "the best, the last and the marked"))


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
    return Cell(told(found, decimals(sweep, place)), aside=aside)


def _statuses(trials: Sequence[TrialOutcome]) -> str:
    counts = {status: sum(one.status == status for one in trials) for status in dict.fromkeys(t.status for t in trials)}
    if list(counts.values()) == [len(trials)]:
        return next(iter(counts))
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or fig.NONE


def ended(sweep: SweepOutcome) -> Table | None:
    """Trials that failed, were stopped or are not finished, each with its reason."""
    bad = [one for status in ("failed", "stopped", "unfinished") for one in sweep.trials if one.status == status]
    points = {point.id: point for point in sweep.points}
    rows = []
    for trial in bad[:MOST]:
        values = points[trial.point].values
        said = ", ".join(shown(values.get(key.key), key.kind) for key in sweep.keys)
        cells: list[Cell | str] = [
            cut(trial.id, LONGEST),
            Cell(trial.status, mark=trial.status if trial.status == "failed" else ""),
            cut(said, 2 * LONGEST),
            fig.NONE if trial.seed is None else str(trial.seed),
            cut(" ".join(trial.reason.split()), REASON) or fig.NONE,
            duration(trial.seconds),
        ]
        rows.append(row(cells, trial.run))
    texts = ("trial", "status", ", ".join(short_names([key.key for key in sweep.keys]).values()))
    columns = [*(Column(cut(name, LONGEST), text=True) for name in texts), Column("seed")]
    columns += [Column("reason", text=True), Column("time")]
    note = _left_out(len(rows), len(bad), "such trials", "failed ones first")
    return table(columns, rows, note, "Trials that did not finish")


def trials(sweep: SweepOutcome) -> Table | None:
    """Every trial, in the order in which they were chosen."""
    rows = []
    for trial in sorted(sweep.trials, key=lambda one: one.number)[: 5 * MOST]:
        found = [trial.metrics.get(one.metric) for one in sweep.objectives]
        cells: list[Cell | str] = [
            fig.count(trial.number),
            cut(trial.id, LONGEST),
            cut(trial.point, LONGEST),
            fig.NONE if trial.seed is None else str(trial.seed),
            trial.status,
            *(fig.NONE if one is None else told(one, decimals(sweep, place)) for place, one in enumerate(found)),
            fig.count(len(trial.steps)),
            duration(trial.seconds),
            cut(trial.wandb, LONGEST) if trial.wandb else fig.NONE,
        ]
        rows.append(row(cells, trial.run))
    columns = [Column("number"), Column("trial", text=True), Column("point", text=True), Column("seed")]
    columns += [Column("status", text=True), *(Column(cut(one.metric, LONGEST)) for one in sweep.objectives)]
    columns += [Column("stages"), Column("time"), Column("wandb", text=True)]
    note = (
        "± is the standard error over the items of the one trial; in brackets stands a share's exact interval. "
        + _left_out(len(rows), len(sweep.trials), "trials", "the first")
    )
    return table(columns, rows, note.strip(), "Every trial", folded=True)


def work(sweep: SweepOutcome) -> Table | None:
    """What was computed, what would have been without sharing, and the share saved."""
    done = sweep.work

    def line(name: str, shared: float, unshared: float, *, seconds: bool = False) -> Row:
        texts = [duration(one) if seconds else fig.count(int(one)) for one in (shared, unshared)]
        return row([name, *texts, fig.percent(1 - shared / unshared) if unshared else fig.NONE], document(sweep))

    found = ["stages found from before", fig.count(done.stages_found), fig.NONE, fig.NONE]
    rows = [
        line("stages trained", done.stages, done.stages_unshared),
        *([row(found, document(sweep))] if done.stages_found else []),
        line("pairs trained", done.pairs, done.pairs_unshared),
        line("reference passes", done.reference_passes, done.reference_passes_unshared),
        line("reference pairs scored", done.reference_pairs, done.reference_pairs_unshared),
        line("time of that work", done.seconds, done.seconds_unshared, seconds=True),
    ]
    columns = [Column("work", text=True), Column("with sharing"), Column("without"), Column("saved", "%")]
    note = (
        "With sharing: what this sweep made itself. Without: every trial trained each of its own stages and scored its "
        "own reference pairs. Its time is the sum of what the shared work took, once for each trial that has it; "
        "none of it was run."
    )
    return table(columns, rows, note)


def importance(sweep: SweepOutcome) -> Table | None:
    """The share of each objective's variation that each key explains."""
    names = short_names([key.key for key in sweep.keys])
    rows = []
    for objective in sweep.objectives:
        found = sorted((one for one in sweep.importance if one.metric == objective.metric), key=lambda one: -one.share)
        for one in found:
            cells = [cut(one.metric, LONGEST), names.get(one.key, one.key), fig.percent(one.share)]
            rows.append(row(cells, document(sweep)))
    columns = [Column("objective", text=True), Column("key", text=True), Column("share", "%")]
    return table(columns, rows)


def stages(sweep: SweepOutcome) -> Table | None:
    """Every trained stage, the most shared first."""
    runs = {trial.id: trial for trial in sweep.trials}
    found = sorted(sweep.stages, key=lambda one: -len(one.trials))
    rows = []
    for one in found[: 5 * MOST]:
        maker = runs.get(one.made_by)
        cells: list[Cell | str] = [
            cut(one.name, LONGEST),
            one.kind,
            cut(one.chunk, LONGEST) or fig.NONE,
            cut(one.id, 16),
            cut(one.start, 16) if one.start else "start model",
            fig.count(len(one.trials)),
            cut(one.made_by, LONGEST) or fig.NONE,
            fig.count(one.pairs),
            duration(one.seconds),
            fig.count(one.reference_pairs),
            duration(one.reference_seconds) if one.reference_pairs else fig.NONE,
        ]
        rows.append(row(cells, maker.run if maker else document(sweep)))
    texts = [Column(name, text=True) for name in ("stage", "kind", "data", "id", "starts from")]
    columns = [*texts, Column("trials that have it"), Column("made by", text=True), Column("pairs trained")]
    columns += [Column("time"), Column("reference pairs scored"), Column("reference pass")]
    note = _left_out(len(rows), len(found), "stages", "the most shared")
    return table(columns, rows, note, "Every stage", folded=True)
