"""What `ratchet sweep --dry-run` says: the work of all trials, or of one where points are chosen as it goes."""

from __future__ import annotations

from ratchet.tune.choose import Chosen
from ratchet.tune.definition import Sweep
from ratchet.tune.points import Categorical, Trial, dimensions, trial_count, trials
from ratchet.tune.work import forecast
from ratchet.tune.work_text import describe, describe_open

_MOST = 100_000
"""Trials that are counted; a sweep that has more, or no end but hours, is told by one trial."""


def dry_run(sweep: Sweep) -> str:
    """Return what a sweep takes, as lines for people. Reads sources that are there; makes nothing.

    Raises DataError where a source is absent.
    """
    space, count = sweep.space, trial_count(sweep.space)
    if space.search.by == "tpe" or count is None or count > _MOST:
        first = {
            key: one.values[0] if isinstance(one, Categorical) else one.low for key, one in dimensions(space).items()
        }
        task = sweep.task(Chosen(Trial(first, space.seeds[0] if space.seeds else None), 1, space.search.by))
        return describe_open(forecast([(task.name, task.plan)]), count, space.budget.hours)
    chosen = (sweep.task(Chosen(one, n, space.search.by)) for n, one in enumerate(trials(space), 1))
    return describe(forecast([(task.name, task.plan) for task in chosen]))
