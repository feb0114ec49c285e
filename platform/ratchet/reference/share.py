"""Shares of things that were counted, and between which ends they lie."""

from __future__ import annotations

LEVEL = 0.95


def exact_interval(hits: int, count: int) -> tuple[float, float]:
    """Return the ends of the exact 95 % interval of a share of which `hits` of `count` draws were seen.

    Clopper and Pearson (1934): each end is the share under which what was seen, or more of it, has a probability of
    2.5 %. It holds for any number of draws, few and unanimous ones too; of no draws it is 0 to 1. Raises ValueError
    where `hits` is not from 0 to `count`.
    """
    if not 0 <= hits <= count:
        raise ValueError(f"{hits} of {count} is no share")
    from scipy import special  # here, as the processes that train and score come through this module and need none

    tail = (1 - LEVEL) / 2
    # At these two ends a parameter of the beta distribution would be 0, where scipy gives NaN.
    low = float(special.betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


def interval_of(share: float | None, count: int) -> tuple[float, float] | None:
    """Return the exact interval of a share of `count` things; None where it is not one."""
    # Documents hold the share, and the formula wants how many it was of.
    return None if share is None or not count else exact_interval(round(share * count), count)


def error_of(share: float, count: int) -> float | None:
    """Return the standard error of a share of `count` draws, √(p(1−p)/(n−1)), as that of a mean of zeros and ones.

    None where all draws agree, or there are fewer than two: the formula would give 0, and nothing is known that well.
    """
    if count < 2 or share in {0.0, 1.0}:
        return None
    return float((share * (1 - share) / (count - 1)) ** 0.5)
