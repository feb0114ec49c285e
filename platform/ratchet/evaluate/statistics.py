"""Means with their errors, and whether two models differ."""

from __future__ import annotations

import dataclasses

import numpy as np

from ratchet.reference.store import Floats


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over `count` items with its standard error (sample standard deviation / √count)."""

    mean: float
    standard_error: float
    count: int


def estimate(values: Floats) -> Estimate:
    """Return the mean of `values` (N,) with its standard error; both are 0 where N is too small to tell."""
    count = len(values)
    mean = float(np.mean(values)) if count else 0.0
    error = float(np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    return Estimate(mean, error, count)
