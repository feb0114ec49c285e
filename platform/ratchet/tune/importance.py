"""How much of an objective's variation each key of a sweep explains, by optuna's fANOVA."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import optuna
from optuna.distributions import FloatDistribution

from ratchet.documents.sweep import Key, Point
from ratchet.plan.distributions import DISTRIBUTIONS

FEWEST = 4
"""Points below which nothing is said."""
_TREES, _DEPTH, _SEED = 32, 6, 0
"""The forest: shallow trees, as the time that fANOVA takes rises steeply with their depth."""


def importance(keys: Sequence[Key], points: Sequence[Point], metric: str) -> dict[str, float]:
    """Return each key's share in the variation of `metric` over the points that have it; shares sum to 1.

    Functional ANOVA of a random forest that is fitted to the points (Hutter et al. 2014): what keys explain each by
    itself, divided by the sum of these. Values of ranges are numbers (of loguniform their logarithms), numbers of grid
    and choice keys stand in their order, all with the same weight. Other values, such as orders, are categories, and
    stand in the order of their mean results. A tree's best cut of categories is one of that order (Fisher 1958).

    Nothing, where there is only one key (it would have it all), fewer than 4 points have a value, or all values
    are equal.
    """
    found = [(point.values, one.value) for point in points for one in point.results if one.metric == metric]
    names = {key.key for key in keys}  # a space that grew has points from before
    known = [(values, value) for values, value in found if value is not None and names <= values.keys()]
    if len(keys) < 2 or len(known) < FEWEST or len({value for _, value in known}) < 2:
        return {}
    results = [value for _, value in known]
    scales = {key.key: _scale(key, [values[key.key] for values, _ in known], results) for key in keys}
    distributions = {key: scale.distribution for key, scale in scales.items()}
    with _quiet():
        study = optuna.create_study()
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={key: scale.name(values[key]) for key, scale in scales.items()},
                    distributions=distributions,
                    value=value,
                )
                for values, value in known
            ]
        )
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, max_depth=_DEPTH, seed=_SEED)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key.key: float(shares.get(key.key, 0.0)) for key in keys}


@dataclasses.dataclass(frozen=True)
class _Scale:
    """How optuna takes a key: its distribution, and what it calls each value that a trial took."""

    distribution: FloatDistribution
    name: Callable[[Any], float]


def _scale(key: Key, taken: Sequence[Any], results: Sequence[float]) -> _Scale:
    """Lay a key out so that optuna's measure, even from end to end, is that of its distribution."""
    numbers = DISTRIBUTIONS[key.kind].range
    if numbers is not None:
        low, high = min(*key.values, *taken), max(*key.values, *taken)
        if numbers.log:  # its evaluator forgets `log=True`
            return _Scale(FloatDistribution(math.log(low), math.log(high)), math.log)
        edge = 0.5 if numbers.whole else 0.0  # each whole number has the same weight, those at the ends too
        return _Scale(FloatDistribution(low - edge, high + edge), float)
    gains: dict[str, list[float]] = {}
    for value, came_to in zip(taken, results, strict=True):
        gains.setdefault(_category(value), []).append(came_to)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in taken):
        steps = [_category(value) for value in sorted(set(taken))]
    else:
        steps = sorted(gains, key=lambda category: statistics.fmean(gains[category]))
    return _Scale(FloatDistribution(-0.5, len(steps) - 0.5), lambda value: float(steps.index(_category(value))))


def _category(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return json.dumps(float(value) if number else value, sort_keys=True)  # 1 and 1.0 are one value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep optuna's account of each study to itself."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
