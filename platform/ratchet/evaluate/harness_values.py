"""What lm-eval makes of one document's answers, where its arithmetic or the model gives out.

The exponential of a likelihood below −745 nats is 0 in float64, and one below −708 has lost digits: a share of such
exponentials (TruthfulQA's mc2) is 0/0, or a number that is not true. Shares depend on differences alone, so all
likelihoods of a document can be moved by the same number of nats before lm-eval takes exponentials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Process = Callable[[Any, Any], Mapping[str, Any]]
"""lm-eval's `process_results`: a document and its answers in, a value for each metric out."""

NO_LIKELIHOOD = "the model gives it no likelihood: not a number"
NO_VALUE = "lm-eval's arithmetic gives it no value"

_LEAST = -690.0
"""Nats from which on exponentials, and those much smaller, keep their digits."""
_TRIES, _MOVES, _SPREAD = 16, (40.0, 400.0), 30.0
_SEED = 0


def values_of(process: Process, doc: Any, answers: Any) -> Mapping[str, Any]:
    """Return a document's value for each metric: what `process` gives, but for two cases.

    Where a likelihood is NaN, or all are of probability 0, no value is a number: lm-eval would count the first
    choice as the model's. Where all likelihoods are below −690 nats, metrics of their differences alone are
    computed from likelihoods that are moved up to 0.
    """
    with np.errstate(all="ignore"):
        likely = _likelihoods(answers)
        if likely is not None and _has_none(likely):
            return dict.fromkeys(process(doc, _moved(answers, [0.0] * len(likely))), math.nan)
        if likely is None or max(likely) >= _LEAST:
            return process(doc, answers)
        raised = process(doc, _moved(answers, [one - max(likely) for one in likely]))
        sure = _of_differences(process, doc, answers)
        try:
            plain = process(doc, answers)
        except (ArithmeticError, ValueError):  # the logarithm of a probability that became 0, for one
            plain = dict.fromkeys(raised, math.nan)
        return {name: raised[name] if name in sure else value for name, value in plain.items()}


def why_lost(answers: Any) -> str:
    """Return why a document whose answers these are has a value that is not a number."""
    likely = _likelihoods(answers)
    return NO_LIKELIHOOD if likely is not None and _has_none(likely) else NO_VALUE


def _has_none(likely: Sequence[float]) -> bool:
    return any(map(math.isnan, likely)) or max(likely) == -math.inf


def _likelihoods(answers: Any) -> list[float] | None:
    """Return the likelihoods of a document's choices in nats; None where it was asked for something else."""
    pairs = [one for one in answers if isinstance(one, tuple) and len(one) == 2 and isinstance(one[1], bool)]
    return [float(nats) for nats, _ in pairs] if pairs and len(pairs) == len(answers) else None


def _moved(answers: Any, likely: Sequence[float]) -> list[tuple[float, bool]]:
    return [(nats, greedy) for nats, (_, greedy) in zip(likely, answers, strict=True)]


def _of_differences(process: Process, doc: Any, answers: Any) -> set[str]:
    """Return the metrics that stay the same when all likelihoods move by as many nats, in every one of several tries.

    They move down from 0, where the largest is: there a mean over length (acc_norm) shows that it is no difference.
    """
    random = np.random.default_rng(_SEED)
    tries = [np.array(_likelihoods(answers)), *random.uniform(-_SPREAD, 0.0, (_TRIES, len(answers)))]
    names: set[str] = set(process(doc, _moved(answers, tries[-1].tolist())))
    for likely in (one - one.max() for one in tries):
        here = process(doc, _moved(answers, likely.tolist()))
        for move in _MOVES:
            there = process(doc, _moved(answers, (likely - move).tolist()))
            names &= {name for name in here if _same(here[name], there[name])}
    return names


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(np.allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-6, atol=1e-9))
    except (TypeError, ValueError):  # no numbers
        return False
