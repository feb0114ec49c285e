"""A figure of lm-eval with its error, from the values that it was made of.

lm-eval aggregates one value of each document: a number, a pair (a likelihood and its length), a list (a verdict on
each instruction), texts. Its errors of means are estimates here, of ratios the linearised ones; where a figure has no
formula, documents are drawn with replacement (Efron 1979) from one seed.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api import metrics

from ratchet.evaluate.results import join_notes, unanimous
from ratchet.evaluate.statistics import estimate, ratio
from ratchet.reference.store import Floats

How = Callable[[Sequence[Any]], float]
"""An aggregation of lm-eval: the values of all documents in, a figure out."""
TOO_LARGE = "no score: too large for a number"

_SEED = 0
# Fewer where a draw takes longer: texts are compared again for each.
_DRAWS_OF_NUMBERS, _DRAWS_OF_TEXTS, _DRAWS_OF_OTHERS = 1000, 100, 25
_SHOWN = 120
_OF_TEXTS = (metrics.bleu, metrics.chrf, metrics.chrfpp, metrics.ter)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure over `count` values, with its standard error; each is None where it is none, and `note` says why."""

    value: float | None
    standard_error: float | None
    count: int
    note: str = ""


def is_finite(value: Any) -> bool:
    """Return whether all numbers in a document's value are finite; a text has none, and None is no value."""
    if isinstance(value, list | tuple | np.ndarray):
        return all(is_finite(part) for part in value)
    if isinstance(value, float | int | np.number):
        return math.isfinite(value)
    return value is not None


def may_lack(how: How | None) -> bool:
    """Return whether a document without a value is one that the figure `how` is not of."""
    return how is metrics.nanmean


def value_of(how: How | None, value: Any) -> Any:
    """Return a document's value as a number, where the figure `how` is a mean of what it makes of single documents:
    Brier's score.
    """
    # lm-eval computes Brier's score of all documents at once, which must then have as many choices each.
    if how is not metrics.brier_score:
        return value
    return _computed(how, [value])[0] if _is_known(value) else math.nan


def total_of(how: How) -> How:
    """Return an aggregation that gives what `how` does, infinity where that is too large, and NaN where it is none."""

    def total(values: Sequence[Any]) -> float:
        own = [value_of(how, value) for value in values]
        if not may_lack(how) and not all(map(_is_known, own)):
            return math.nan
        return _computed(_after(how), own)[0]

    return total


def _after(how: How) -> How:
    """Return what makes a figure of the values that `value_of` gives."""
    return metrics.mean if how is metrics.brier_score else how


def _computed(how: How, values: Sequence[Any]) -> tuple[float, str]:
    """Return what `how` makes of values, and NaN with the reason where it fails."""
    try:
        with np.errstate(all="ignore"):
            return float(how(values)), ""
    except OverflowError:
        return math.inf, ""
    except Exception as error:  # an aggregation is a task's own code, and may raise whatever it likes
        return math.nan, f"{type(error).__name__}: {error}"[:_SHOWN]


def figure_of(value: float, how: How | None, values: Sequence[Any], names: Sequence[str]) -> Figure:
    """Return the figure `value` that `how` makes of N documents' values, with its error; `names` (N,) are theirs.

    Where a task names no aggregation lm-eval takes the mean.
    """
    values = [value_of(how, one) for one in values]
    how = _after(how or metrics.mean)
    kept = [one for one in values if is_finite(one)] if may_lack(how) else list(values)
    parts = _parts(value, kept)
    count = len(kept) if parts is None else sum(map(len, parts))
    if not math.isfinite(value):
        return Figure(None, None, count, _why_none(how, value, values, names))
    if len(kept) == 1:
        return Figure(value, None, count, "one item: no error")
    error, note = _error(value, how, kept)
    bound = "" if parts is None else unanimous(np.array([one for part in parts for one in part]), len(parts))
    left_out = f"{len(values) - len(kept)} of {len(values)} items have no value" if len(kept) < len(values) else ""
    return Figure(value, error, count, join_notes(bound, left_out, note))


def error_of_leaves(errors: Sequence[float], sizes: Sequence[int] | None) -> float:
    """Return lm-eval's error of a mean of leaves, each with its error: weighted by `sizes` in documents, or plain."""
    if sizes is None:
        return float(metrics.unweighted_mean_stderr(list(errors)))
    return float(metrics.pooled_sample_stderr(list(errors), list(sizes)))


def bootstrap(how: How, values: Sequence[Any], draws: int) -> tuple[float | None, int]:
    """Return the standard error of `how` over N values by `draws` samples of N, and how many had no figure.

    The error is None where half of the samples or more have no figure.
    """
    count = len(values)
    random = np.random.default_rng(_SEED)
    found = []
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of samples that lack a class, which is no news
        for _ in range(draws):
            sample = [values[place] for place in random.integers(0, count, count)]
            found.append(_computed(how, sample)[0])
    finite = [one for one in found if math.isfinite(one)]
    # The spread of the few that are left would be that of lucky samples.
    if 2 * len(finite) <= draws:
        return None, draws - len(finite)
    # The spread of the samples is that of a population of N, and is brought to one of N − 1.
    return float(np.std(finite, ddof=1) * math.sqrt(count / (count - 1))), draws - len(finite)


def _error(value: float, how: How, values: Sequence[Any]) -> tuple[float | None, str]:
    """Return the error of a figure of two values or more, and what must be known of it."""
    if how in {metrics.mean, metrics.nanmean}:
        return estimate(_array(values)).standard_error, ""
    if how is metrics.perplexity:
        error = estimate(_array(values)).standard_error
        return None if error is None else value * error, ""
    if how in {metrics.weighted_perplexity, metrics.bits_per_byte}:
        error = ratio(_array(values)[:, 0], _array(values)[:, 1]).standard_error
        slope = value if how is metrics.weighted_perplexity else 1 / math.log(2)
        return None if error is None else slope * error, ""
    if (parts := _parts(value, values)) is not None:
        sums, sizes = ([take(part) for part in parts] for take in (sum, len))
        return ratio(_array(sums), _array(sizes)).standard_error, ""
    draws = _draws(how, values)
    error, lost = bootstrap(how, values, draws)
    return error, f"no error: {lost} of {draws} samples have no figure" if error is None else ""


def _draws(how: How, values: Sequence[Any]) -> int:
    if not any(isinstance(part, str) for one in values for part in _flat(one)):
        return _DRAWS_OF_NUMBERS
    return _DRAWS_OF_TEXTS if how in _OF_TEXTS else _DRAWS_OF_OTHERS


def _parts(value: float, values: Sequence[Any]) -> list[list[float]] | None:
    """Return the documents' lists of numbers where `value` is the mean over all that they hold, else None."""
    if not all(isinstance(one, list) and one and all(map(_is_number, one)) for one in values):
        return None
    parts = [[float(part) for part in one] for one in values]
    mean = sum(map(sum, parts)) / max(1, sum(map(len, parts)))
    return parts if math.isclose(mean, value, abs_tol=1e-12) else None


def _why_none(how: How, value: float, values: Sequence[Any], names: Sequence[str]) -> str:
    lost = [name for name, one in zip(names, values, strict=True) if not is_finite(one)]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        return f"no score: {len(lost)} of {len(values)} items have no value: {', '.join(lost[:3])}{more}"
    if value == math.inf:
        return TOO_LARGE
    failed = _computed(how, values)[1]
    return f"no score: lm-eval's aggregation {f'fails: {failed}' if failed else 'gives no number'}"


def _flat(value: Any) -> Sequence[Any]:
    return [part for one in value for part in _flat(one)] if isinstance(value, list | tuple) else [value]


def _is_known(value: Any) -> bool:
    """Whether no number of a document's value is NaN; an infinite one still makes a figure."""
    return all(one is not None and not (_is_number(one) and math.isnan(one)) for one in _flat(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | float | int | np.number | np.bool_)


def _array(values: Sequence[Any]) -> Floats:
    return np.asarray(values, dtype=np.float64)


Process = Callable[[Any, Any], Mapping[str, Any]]
"""lm-eval's `process_results`: a document and its answers in, a value for each metric out."""

NO_LIKELIHOOD = "the model gives it no likelihood: not a number"
NO_VALUE = "lm-eval's arithmetic gives it no value"

# Nats from which on exponentials, and those much smaller, keep their digits.
_LEAST = -690.0
_TRIES, _MOVES, _SPREAD = 16, (40.0, 400.0), 30.0
_SEED = 0


def values_of(process: Process, doc: Any, answers: Any) -> Mapping[str, Any]:
    """Return a document's value for each metric: what `process` gives, but for two cases.

    Where a likelihood is NaN, or all are of probability 0, no value is a number. Where all likelihoods are below −690
    nats, metrics of their differences alone are computed from likelihoods that are moved up to 0.
    """
    with np.errstate(all="ignore"):
        likely = _likelihoods(answers)
        # lm-eval would count the first choice as the model's.
        if likely is not None and _has_none(likely):
            return dict.fromkeys(process(doc, _moved(answers, [0.0] * len(likely))), math.nan)
        if likely is None or max(likely) >= _LEAST:
            return process(doc, answers)
        # In float64 exponentials lose digits below −708 nats, and are 0 below −745.
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
    """Return the metrics that stay the same when all likelihoods move by as many nats, in each of several tries."""
    random = np.random.default_rng(_SEED)
    tries = [np.array(_likelihoods(answers)), *random.uniform(-_SPREAD, 0.0, (_TRIES, len(answers)))]
    names: set[str] = set(process(doc, _moved(answers, tries[-1].tolist())))
    # Down from 0, where a mean over length (acc_norm) shows that it is no difference.
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
