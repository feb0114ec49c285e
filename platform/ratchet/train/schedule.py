"""The learning rate as a function of the step alone, so that no scheduler state is ever saved."""

from __future__ import annotations

import logging
import math

_LOG = logging.getLogger(__name__)


def warmup_steps(total: int, warmup: float) -> int:
    """Return how many of `total` steps the warm-up takes: the share `warmup` of them, rounded up."""
    return math.ceil(warmup * total)


def learning_rate(kind: str, peak: float, step: int, total: int, warmup: float) -> float:
    """Return the learning rate of step `step`, which counts from 1.

    With w warm-up steps, step s ≤ w has the rate peak·s / w. Afterwards, with p = (s − 1 − w) / (total − w), it is
    peak·(1 + cos πp) / 2, peak·(1 − p), or peak. Schedules of the transformers library have peak·(s − 1) / w in the
    warm-up, whose first step then trains nothing; afterwards they are the same. Raises ValueError on an unknown kind.
    """
    rise = warmup_steps(total, warmup)
    if step <= rise:
        return peak * step / rise
    share = (step - 1 - rise) / max(1, total - rise)
    if kind == "constant":
        return peak
    if kind == "linear":
        return peak * max(0.0, 1.0 - share)
    if kind == "cosine":
        return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * share)))
    raise ValueError(f"no schedule is called {kind!r}")


def warn_of_warmup(name: str, total: int, warmup: float) -> None:
    """Say so where a stage's learning rate only rises, because its warm-up takes all of its steps."""
    if warmup and warmup_steps(total, warmup) >= total:
        _LOG.warning(
            "%s has %d step%s, and its warm-up (warmup: %g) takes all of them: the learning rate never falls; "
            "lower warmup or batch, or give it more pairs",
            name,
            total,
            "s" * (total > 1),
            warmup,
        )
