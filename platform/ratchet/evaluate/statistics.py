"""Means with their errors, and whether two models differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

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


def clustered(values: Floats, clusters: Sequence[str]) -> Estimate:
    """Return the mean of `values` (N,) over all items, with the error that counts each cluster as one draw.

    √(G/(G−1) · Σ_g (Σ_{i∈g} (x_i − mean))²) / N over G clusters (Liang and Zeger 1986, with the small-sample
    factor); 0 where there are fewer than two.
    """
    if not len(values):
        return Estimate(0.0, 0.0, 0)
    mean = float(np.mean(values))
    _, places = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(places, weights=values - mean)
    count = len(sums)
    error = float(np.sqrt(count / (count - 1) * np.sum(sums**2)) / len(values)) if count > 1 else 0.0
    return Estimate(mean, error, len(values))
