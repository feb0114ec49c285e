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
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from ratchet.plan.space import Space
from ratchet.tune.points import Categorical, Float, Int, dimensions, unseen_of

_TRIES = 32
Scale = Categorical | Float | Int


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
    scales = dimensions(space)
    distributions = {key: _distribution(scale) for key, scale in scales.items()}
    taken = {json.dumps(one.point, sort_keys=True) for one in known}
    for attempt in range(_TRIES):
        seed = int(np.random.SeedSequence([space.search.seed, len(known), attempt]).generate_state(1)[0])
        study = optuna.create_study(
            directions=["maximize" if mode == "max" else "minimize" for mode in space.objectives.values()],
            sampler=TPESampler(seed=seed, constant_liar=True, multivariate=len(distributions) > 1),
        )
        study.add_trials([_trial(one, scales, distributions, len(space.objectives)) for one in known])
        asked = study.ask(distributions)
        point = {key: _value(scales[key], asked.params[key]) for key in distributions}
        if json.dumps(point, sort_keys=True) not in taken:
            return point
    return next((one for one in unseen_of(space, len(taken)) if json.dumps(one, sort_keys=True) not in taken), None)


def _distribution(scale: Scale) -> Any:
    match scale:
        case Categorical(values):
            return CategoricalDistribution(list(range(len(values))))
        case Int(low, high):
            return IntDistribution(low, high)
        case Float(low, high, log):
            return FloatDistribution(low, high, log=log)


def _trial(known: Known, scales: Mapping[str, Scale], distributions: Mapping[str, Any], objectives: int) -> Any:
    params = {key: _internal(scales[key], value) for key, value in known.point.items()}
    if known.state == "running":
        return create_trial(state=TrialState.RUNNING, params=params, distributions=dict(distributions))
    if known.values is not None:
        return create_trial(values=list(known.values), params=params, distributions=dict(distributions))
    state = TrialState.PRUNED if objectives == 1 else TrialState.FAIL
    return create_trial(state=state, params=params, distributions=dict(distributions))


def _value(scale: Scale, internal: Any) -> Any:
    """A category is known to Optuna by its place: lists are no categories of its own."""
    return scale.values[internal] if isinstance(scale, Categorical) else internal


def _internal(scale: Scale, value: Any) -> Any:
    return list(scale.values).index(value) if isinstance(scale, Categorical) else value
