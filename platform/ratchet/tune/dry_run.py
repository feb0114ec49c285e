"""What `ratchet sweep --dry-run` says: the work of all trials, of others in their place, or of one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from ratchet.errors import PlanError
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
        one, left_out = _forecast(sweep, drawn)
        return describe_drawn(one, count or space.budget.trials) + left_out
    if space.search.by == "tpe" or count is None or count > _MOST:
        first = {
            key: one.values[0] if isinstance(one, Categorical) else one.low for key, one in dimensions(space).items()
        }
        one, left_out = _forecast(sweep, [Trial(first, space.seeds[0] if space.seeds else None)])
        return describe_open(one, count, space.budget.hours) + left_out
    one, left_out = _forecast(sweep, trials(space))
    return describe(one) + left_out


def _forecast(sweep: Sweep, found: Iterable[Trial]) -> tuple[Forecast, str]:
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
