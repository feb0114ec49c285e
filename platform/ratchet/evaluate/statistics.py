"""Means with their errors, and whether two models differ.

Every score here is a weighted mean of items, or the plain mean of such means over groups. Items of one
cluster (the turns of one conversation) are not independent; clusters are. Errors are of questions
drawn again, within each group; they do not say what another seed or another judge would change.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from ratchet.documents.heldout import Estimate
from ratchet.errors import DataError
from ratchet.reference.share import error_of
from ratchet.reference.store import Floats

# Clusters of which all 4,096 ways are gone through: fewer than the draws that would stand for them.
_EXACT = 12
FLIPS = 10_000
"""Sign flips of which a p-value is made, where there are too many to go through all."""
# Signs in memory at a time, of a byte each.
_AT_ONCE = 1 << 22
_TIE = 1e-9
NORMAL_95 = float(special.ndtri(0.975))
"""How many standard errors a 95 % interval of the normal distribution reaches to each side."""


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """A score of one model minus that of another, both of the same items.

    `low` and `high` bound the 95 % interval. They and the error are None where clusters are too few to
    tell: fewer than two, in all or in one of the groups.
    """

    difference: float
    standard_error: float | None
    low: float | None
    high: float | None
    p: float
    items: int
    clusters: int


def estimate(values: Floats) -> Estimate:
    """Return the mean of `values` (N,) with its standard error, None for N < 2; the mean of nothing is 0."""
    count = len(values)
    mean = float(np.mean(values)) if count else 0.0
    error = float(np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else None
    return Estimate(mean, error, count)


def estimate_share(hits: npt.NDArray[np.bool_]) -> Estimate:
    """Return the share of `hits` (N,) that are true; its error is None where all agree (`reference.share`)."""
    count = len(hits)
    mean = float(np.mean(hits)) if count else 0.0
    return Estimate(mean, error_of(mean, count), count)


def clustered(
    values: Floats, clusters: Sequence[str], *, weights: Floats | None = None, groups: Sequence[str] | None = None
) -> Estimate:
    """Return the mean of `values` (N,) over all items, with the error that counts each cluster as one draw.

    The sandwich: √(G/(G−1) · Σ_g (Σ_{i∈g} w_i (x_i − mean))²) / Σ w over G clusters (Liang and Zeger 1986,
    with the small-sample factor). Where each item is its own cluster it is `estimate`'s. With `weights` (N,)
    it is that of the ratio Σwx / Σw. With `groups` the mean is the plain mean of the groups' means, each
    with its own error: √(Σ_h se_h²) / H. The error is None where clusters are too few to tell:
    fewer than two, in all or in one of the groups.

    Raises DataError as `paired` does, but for no items, which are a mean of 0.
    """
    if not len(values):
        return Estimate(0.0, None, 0)
    design = _design(values, clusters, weights, groups)
    return Estimate(design.mean(values), design.error(values), len(values))


def error_of_mean(errors: Sequence[float]) -> float:
    """Return the standard error of the mean of k independent numbers with these errors: √(Σ se²)/k."""
    return float(np.sqrt(np.sum(np.square(errors))) / len(errors))


def paired(
    values_a: Floats,
    values_b: Floats,
    clusters: Sequence[str],
    seed: int,
    *,
    weights: Floats | None = None,
    groups: Sequence[str] | None = None,
    flips: int = FLIPS,
) -> PairedDifference:
    """Return by how much the score of `values_a` (N,) is above that of `values_b` (N,), item by item.

    Both scores are the mean that `clustered` takes, with the same `weights` (N,) and `groups`. So the difference is
    that mean of the items' differences, and has its error. The interval is Student's t with clusters − 1 degrees of
    freedom (clusters − groups, if there are groups).

    The p-value, two-sided, is that of flipping the sign of each cluster's part at random (Fisher 1935). If two models
    do not differ, a toss-up decides which of them gave which answers. All ways are gone through up to 12 clusters whose
    parts are not 0, else `flips` seeded ones, as (k + 1) / (flips + 1). It does not depend on the order of items, nor
    on which model is a.

    With groups, differences between the groups' means make p a little large, never small. Near its 5 % the
    interval and p can disagree; verdicts go by p.

    Where all values are 0 or 1, and each counts the same and is its own cluster, the interval is that of paired shares
    (`score_interval`). It is no point where nothing differs: 0 of 60 against 0 of 60 is 0 within 6 points. So it is of
    clusters where all of them differ by the same, 0, 1 or −1.

    Where nothing differs, p is 1. One cluster alone has p = 1 and no interval. Other values of which all clusters
    differ by the same have a point as their interval; p still counts clusters.

    Raises DataError where there are no items, numbers of items differ, a value is not finite, or a weight not above 0.
    """
    if len(values_a) != len(values_b) or not len(values_a):
        raise DataError(f"{len(values_a)} and {len(values_b)} values cannot be paired", code="data.not-comparable")
    differences = np.asarray(values_a, dtype=np.float64) - np.asarray(values_b, dtype=np.float64)
    design = _design(differences, clusters, weights, groups)
    difference, error = design.mean(differences), design.error(differences)
    freedom = max(1, design.count - len(design.clusters_of_group))
    reach = None if error is None else error * t_reach(freedom)
    ends = None if reach is None else (difference - reach, difference + reach)
    # Student's interval of such values is a point where nothing differs.
    if error is not None and set(np.unique([values_a, values_b])) <= {0.0, 1.0}:
        same_weights = weights is None or bool(np.all(np.asarray(weights) == weights[0]))
        if design.count == len(differences) and same_weights and groups is None:
            ends = score_interval(len(differences), int(np.sum(differences > 0)), int(np.sum(differences < 0)))
        elif _alike(differences):
            ends = score_interval(design.count, design.count * (difference > 0), design.count * (difference < 0))
    return PairedDifference(
        difference=difference,
        standard_error=error,
        low=None if ends is None else ends[0],
        high=None if ends is None else ends[1],
        p=_sign_flip(design.by_cluster(design.share * differences), seed, flips),
        items=len(differences),
        clusters=design.count,
    )


def t_reach(freedom: int) -> float:
    """Return how many standard errors a 95 % interval of Student's t reaches to each side."""
    return float(special.stdtrit(freedom, 0.975))


def score_interval(items: int, ups: int, downs: int) -> tuple[float, float]:
    """Return the 95 % score interval of the difference of two shares over the same `items` (Tango 1998, equation 8).

    `ups` items are right for the first alone and `downs` for the second alone. At an end Δ, (ups − downs − nΔ)² is 3.84
    times its variance n(2q + Δ(1 − Δ)). Here q is the likeliest share of `downs` under Δ.
    """
    most = NORMAL_95**2

    def beyond(delta: float) -> bool:
        a = 2 * items
        b = -ups - downs + (2 * items - ups + downs) * delta
        q = (np.sqrt(b * b + 4 * a * downs * delta * (1 - delta)) - b) / (2 * a)
        variance = items * (2 * q + delta * (1 - delta))
        return bool((ups - downs - items * delta) ** 2 > most * variance)

    def end(inside: float, outside: float) -> float:
        for _ in range(60):  # halvings: below the last bit of a share
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if beyond(middle) else (middle, outside)
        return outside

    found = (ups - downs) / items
    return end(found, -1.0), end(found, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in their order (Holm 1979): monotone, and at most 1."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors))
    result = np.empty(len(p_values))
    result[order] = adjusted
    return [float(p) for p in result]


def t_p(t: float, freedom: int) -> float:
    """Return the two-sided p-value of Student's `t`."""
    return float(2 * special.stdtr(freedom, -abs(t)))


def normal_p(z: float) -> float:
    """Return the two-sided p-value of a standard normal `z`."""
    return float(2 * special.ndtr(-abs(z)))


_Index = npt.NDArray[np.intp]


@dataclasses.dataclass(frozen=True)
class _Design:
    """How items make a score: Σ share · x, with `share` (N,) summing to 1 over all items, 1/H within a group."""

    share: Floats
    cluster: _Index
    count: int
    group: _Index
    clusters_of_group: _Index

    def mean(self, values: Floats) -> float:
        return float(values[0]) if _alike(values) else float(self.share @ values)

    def by_cluster(self, parts: Floats) -> Floats:
        return np.bincount(self.cluster, parts, self.count).astype(np.float64)

    def error(self, values: Floats) -> float | None:
        counts = self.clusters_of_group
        if counts.min() < 2:
            return None
        if _alike(values):
            return 0.0  # and not what rounding leaves of it
        # A share within its group is share · H, so this is each group's own mean.
        means = np.bincount(self.group, self.share * values) * len(counts)
        factor = np.sqrt(counts / (counts - 1))[self.group]
        return float(np.linalg.norm(self.by_cluster(self.share * factor * (values - means[self.group]))))


def _alike(values: Floats) -> bool:
    return bool(np.all(values == values[0]))


def _design(values: Floats, clusters: Sequence[str], weights: Floats | None, groups: Sequence[str] | None) -> _Design:
    items = len(values)
    weight = np.ones(items) if weights is None else np.asarray(weights, dtype=np.float64)
    given = [items, len(clusters), len(weight), items if groups is None else len(groups)]
    if len(set(given)) != 1:
        raise DataError(
            "values, clusters, weights and groups are of {}, {}, {} and {} items".format(*given),
            code="data.not-comparable",
        )
    if not np.isfinite(values).all() or not (np.isfinite(weight) & (weight > 0)).all():
        raise DataError("a value is not finite, or a weight is not above 0", code="data.not-comparable")
    names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    group = np.zeros(items, np.intp) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    totals = np.bincount(group, weight)
    # A cluster may have items in several groups, and is counted in each.
    pairs = np.unique(group * len(names) + cluster)
    return _Design(
        share=weight / (totals[group] * len(totals)),
        cluster=cluster,
        count=len(names),
        group=group,
        clusters_of_group=np.bincount(pairs // len(names)),
    )


def _sign_flip(parts: Floats, seed: int, flips: int) -> float:
    """Return how often |Σ ± part| is at least |Σ part|. Parts that are 0 change no sum and are left out."""
    parts = parts[parts != 0]
    # Sums that are equal but for the last bits are ties, and ties count.
    least = abs(parts.sum()) - _TIE * np.abs(parts).sum()
    if len(parts) <= _EXACT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(parts))))
        return float(np.mean(np.abs(signs @ parts) >= least))
    # In blocks of rows: all flips of many clusters at once would take gigabytes.
    random = np.random.default_rng(seed)
    rows = max(1, _AT_ONCE // len(parts))
    found = 0
    for first in range(0, flips, rows):
        heads = random.integers(0, 2, (min(rows, flips - first), len(parts)), dtype=np.int8)
        found += int(np.sum(np.abs(2 * (heads @ parts) - parts.sum()) >= least))
    return (found + 1) / (flips + 1)


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
