"""What `ratchet sweep --dry-run` says: the work of all trials, of others in their place, or of one; and its saving."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from ratchet.errors import PlanError
from ratchet.pipeline.sizes import Known
from ratchet.tune.choose import Chosen
from ratchet.tune.definition import Sweep
from ratchet.tune.forecast import Count, Forecast, forecast
from ratchet.tune.points import SeededPoint, trial_count, trials_in_turn

_MOST = 100_000
"""Trials that are counted; a sweep that has more, or ends only by hours, is described by one trial."""
_MOST_DRAWN = 1_000
"""Trials that are drawn in place of those that tpe will choose."""

_NOTES: dict[Known, str] = {
    "before length": "{}: pairs that are too long for a stage are counted too, as these sources are not tokenised yet",
    "estimated": "{}: pairs are estimates, as these sources are not read yet",
    "unknown": "{}: pairs are not counted, as these sources are on the hub and not read yet",
}


def dry_run(sweep: Sweep) -> str:
    """Return what a sweep takes, as lines for people. Reads sources that are there; makes nothing.

    Where tpe will choose a number of trials, as many different ones are drawn. What trials share depends on which keys
    vary, and hardly on their values. Raises DataError where a source is absent.
    """
    space, count = sweep.space, trial_count(sweep.space)
    if space.search.by == "tpe" and space.budget.trials is not None:
        search = space.search.model_copy(update={"by": "random"})
        drawn = itertools.islice(trials_in_turn(space.model_copy(update={"search": search})), _MOST_DRAWN)
        one, left_out = _forecast(sweep, drawn)
        return describe_drawn(one, count or space.budget.trials) + left_out
    if space.search.by == "tpe" or count is None or count > _MOST:
        # Any one trial is as much work as another; the first value that is tried is there for every kind.
        first = {key: one.row.tried(one.given)[0] for key, one in space.keys.items()}
        one, left_out = _forecast(sweep, [SeededPoint(first, space.seeds[0] if space.seeds else None)])
        return describe_open(one, count, space.budget.hours) + left_out
    one, left_out = _forecast(sweep, trials_in_turn(space))
    return describe_forecast(one) + left_out


def _forecast(sweep: Sweep, found: Iterable[SeededPoint]) -> tuple[Forecast, str]:
    """Return the work of the trials that the plan allows, and a line about those that it does not."""
    plans, refused = [], 0
    for number, one in enumerate(found, 1):
        try:
            task = sweep.task(Chosen(one, number, sweep.space.search.by))
        except PlanError:
            refused += 1
        else:
            plans.append((task.name, task.plan))
    return forecast(
        plans
    ), f"{refused} more trials will fail: the plan does not allow their values\n" if refused else ""


def describe_forecast(forecast: Forecast) -> str:
    """Return the work of trials that are known beforehand as a short table, in lines that end with a newline."""
    return _shared(forecast, "≤ " if forecast.undecided else "") + _notes(forecast)


def describe_drawn(drawn: Forecast, trials: int) -> str:
    """Return the work of a sweep of `trials` whose points are chosen as it goes, by that of points that were drawn.

    Those that will be chosen may share a little more or less, unless all keys are ranges.
    """
    of = f", for {drawn.trials:,} of {trials:,} trials; more share more" if drawn.trials < trials else ""
    said = f"points are chosen as the sweep goes: these were drawn in their place{of}\n"
    return _shared(drawn, "≤ " if drawn.undecided else "≈ ") + said + _notes(drawn)


def describe_open(one: Forecast, trials: int | None, hours: float | None) -> str:
    """Return the work of a sweep whose points are chosen as it goes, from the forecast of one trial and the budget."""
    known = [text for text in (f"{trials:,} trials" if trials else "", f"{hours:g} hours" if hours else "") if text]
    head, rows = ["each trial"], [(name, [f"{count.unshared:,}"]) for name, count in _counts(one)]
    if trials:
        head.append(f"{trials:,} trials, at most")
        rows = [
            (name, [*cells, f"{count.unshared * trials:,}"])
            for (name, cells), (_, count) in zip(rows, _counts(one), strict=True)
        ]
    until = f", for {' or '.join(known)}" if known else ""
    said = f"points are chosen as the sweep goes{until}: what they share is known then\n"
    return _table([("", *head), *((name, *cells) for name, cells in rows)]) + said + _notes(one)


def _counts(forecast: Forecast) -> Sequence[tuple[str, Count]]:
    return (
        ("stages", forecast.stages),
        ("pairs trained", forecast.pairs),
        ("reference passes", forecast.passes),
        ("reference pairs scored", forecast.reference_pairs),
    )


def _shared(forecast: Forecast, sign: str) -> str:
    rows = [
        (name, f"{count.unshared:,}", f"{sign}{count.shared:,}", f"{count.saved:.0%}")
        for name, count in _counts(forecast)
    ]
    head = f"{forecast.trials:,} trial{'s' * (forecast.trials != 1)}"
    return _table([(head, "unshared", "shared", "saved"), *rows])


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *cells in rows:
        right = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("   ".join([f"{first:<{widths[0]}}", *right]))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _notes(forecast: Forecast) -> str:
    found = []
    if forecast.undecided:
        stages = ", ".join(forecast.undecided)
        found.append(f"at most: models decide the order of chunks of {stages}, and equal orders are shared as well")
    for known, note in _NOTES.items():
        names = [source for source, how in forecast.sources.items() if how == known]
        found += [note.format(", ".join(names))] if names else []
    return "".join(f"{line}\n" for line in found)
