"""The mean over parts of groups, with an error that takes whole groups as independent."""

from __future__ import annotations

import numpy as np

from ratchet.evaluate.statistics import Estimate
from ratchet.reference.store import Floats


def ratio(totals: Floats, sizes: Floats) -> Estimate:
    """Return Σ totals / Σ sizes over K groups, both (K,), with its standard error; `count` is K.

    The error is the linearised one of a ratio estimator (Cochran, Sampling Techniques, 1977, section 6.4):
    √(K / (K − 1) · Σ (totalₖ − mean · sizeₖ)²) / Σ sizes, and None where K is 1, which tells nothing. Where all
    groups have one part, it is the sample standard deviation / √K.
    """
    count, size = len(totals), float(np.sum(sizes))
    mean = float(np.sum(totals)) / size
    if count < 2:
        return Estimate(mean, None, count)
    spread = float(np.sum((totals - mean * sizes) ** 2))
    return Estimate(mean, float(np.sqrt(count / (count - 1) * spread)) / size, count)
