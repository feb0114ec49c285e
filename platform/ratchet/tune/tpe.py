"""The next point by Optuna's tree-structured Parzen estimator (Bergstra et al. 2011): a door to optuna.

Nothing is kept between two calls: a proposal follows from the seed, its number, and what is known
of the points before. So a driver that was killed goes on as if it had not been.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from ratchet.plan.distributions import Distribution, size_of, value_at
from ratchet.plan.space import Space
from ratchet.tune.points import unseen_of

_TRIES = 32


@dataclasses.dataclass(frozen=True)
class Known:
    """A point that was chosen before: under way, or what it came to.

    `values` are the objectives in the order of the space, each a mean over seeds; None where the
    point failed or was stopped.
    """

    point: Mapping[str, Any]
    state: Literal["running", "done"]
    values: tuple[float, ...] | None = None


def propose(space: Space, known: Sequence[Known]) -> dict[str, Any] | None:
    """Return the next point, one that is not `known`; None where the space has no other.

    Where the estimator keeps to points that are known, it is the first that is not, in the space's own order. A point
    that failed counts as worse than all others where there is one objective, and for nothing where there are several.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    told = distributions(space)
    taken = {json.dumps(one.point, sort_keys=True) for one in known}
    for attempt in range(_TRIES):
        # By the number of points that are known: a driver that was killed proposes the same point again.
        seed = int(np.random.SeedSequence([space.search.seed, len(known), attempt]).generate_state(1)[0])
        # constant_liar takes points under way for bad ones, so that trials at once are not all alike.
        study = optuna.create_study(
            directions=["maximize" if mode == "max" else "minimize" for mode in space.objectives.values()],
            sampler=TPESampler(seed=seed, constant_liar=True, multivariate=len(told) > 1),
        )
        study.add_trials([_trial(one, space, told) for one in known])
        asked = study.ask(told).params
        point = {key: asked[key] if one.row.range else value_at(one, asked[key]) for key, one in space.keys.items()}
        if json.dumps(point, sort_keys=True) not in taken:
            return point
    return next((one for one in unseen_of(space, len(taken)) if json.dumps(one, sort_keys=True) not in taken), None)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the distribution of each key for optuna."""
    found: dict[str, BaseDistribution] = {}
    for key, one in space.keys.items():
        numbers = one.row.range
        if numbers is None:
            # By the numbers of its values, as no list is a category.
            found[key] = CategoricalDistribution(list(range(len(_values(one)))))
        elif numbers.whole:
            found[key] = IntDistribution(*one.given)
        else:
            found[key] = FloatDistribution(*one.given, log=numbers.log)
    return found


def _trial(known: Known, space: Space, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    params = {}
    for key, value in known.point.items():
        one = space.keys[key]
        params[key] = value if one.row.range else _values(one).index(value)
    if known.state == "running":
        return create_trial(state=TrialState.RUNNING, params=params, distributions=dict(distributions))
    if known.values is not None:
        return create_trial(values=list(known.values), params=params, distributions=dict(distributions))
    # Optuna ranks a pruned trial below all others; with several objectives it has no pruning, and leaves it out.
    state = TrialState.PRUNED if len(space.objectives) == 1 else TrialState.FAIL
    return create_trial(state=state, params=params, distributions=dict(distributions))


def _values(one: Distribution) -> list[Any]:
    return [value_at(one, index) for index in range(size_of(one) or 0)]
