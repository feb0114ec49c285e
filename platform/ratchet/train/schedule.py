"""The learning rate as a function of the step alone, so that no scheduler state is ever saved."""

from __future__ import annotations

import math


def learning_rate(kind: str, peak: float, step: int, total: int, warmup: float) -> float:
    """Return the learning rate of step `step`, which counts from 1.

    Rises from 0 over the first `warmup` share of the steps, then falls to 0 along a half cosine or a
    line, or stays. The same curve as the schedules of the transformers library, whose counter is
    `step` − 1. Raises ValueError on an unknown kind.
    """
    rise, done = math.ceil(warmup * total), step - 1
    if done < rise:
        return peak * done / rise
    share = (done - rise) / max(1, total - rise)
    if kind == "constant":
        return peak
    if kind == "linear":
        return peak * max(0.0, 1.0 - share)
    if kind == "cosine":
        return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * share)))
    raise ValueError(f"no schedule is called {kind!r}")
