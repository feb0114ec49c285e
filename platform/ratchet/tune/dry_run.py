"""What `ratchet sweep --dry-run` says: the work of all trials, of others in their place, or of one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from ratchet.tune.choose import Chosen
from ratchet.tune.definition import Sweep
from ratchet.tune.points import Categorical, Trial, dimensions, trial_count, trials
from ratchet.tune.work import Forecast, forecast
from ratchet.tune.work_text import describe, describe_drawn, describe_open

_MOST = 100_000
"""Trials that are counted; a sweep that has more, or no end but hours, is told by one trial."""
_MOST_DRAWN = 1_000
"""Trials that are drawn in place of those that tpe will choose."""


def dry_run(sweep: Sweep) -> str:
    """Return what a sweep takes, as lines for people. Reads sources that are there; makes nothing.

    Where tpe will choose a number of trials, as many different ones are drawn: what trials share depends on which keys
    vary far more than on where they lie. Raises DataError where a source is absent.
    """
    space, count = sweep.space, trial_count(sweep.space)
    if space.search.by == "tpe" and space.budget.trials is not None:
        search = space.search.model_copy(update={"by": "random"})
        drawn = itertools.islice(trials(space.model_copy(update={"search": search})), _MOST_DRAWN)
        return describe_drawn(_forecast(sweep, drawn), count or space.budget.trials)
    if space.search.by == "tpe" or count is None or count > _MOST:
        first = {
            key: one.values[0] if isinstance(one, Categorical) else one.low for key, one in dimensions(space).items()
        }
        one = _forecast(sweep, [Trial(first, space.seeds[0] if space.seeds else None)])
        return describe_open(one, count, space.budget.hours)
    return describe(_forecast(sweep, trials(space)))


def _forecast(sweep: Sweep, found: Iterable[Trial]) -> Forecast:
    tasks = (sweep.task(Chosen(one, n, sweep.space.search.by)) for n, one in enumerate(found, 1))
    return forecast([(task.name, task.plan) for task in tasks])
