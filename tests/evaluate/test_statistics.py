"""Estimates and their errors against formulas by hand, scipy and simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ratchet.evaluate.results import unanimous
from ratchet.evaluate.statistics import (
    Estimate,
    clustered,
    estimate,
    holm,
    ratio,
)
from statistics_example import names


def mean_of_groups(values: np.ndarray, groups: Sequence[str]) -> Estimate:
    """The plain mean of the groups' means, each item its own cluster."""
    return clustered(values, [str(index) for index in range(len(values))], groups=groups)


def test_items_that_are_their_own_clusters_have_the_usual_error() -> None:
    values = np.random.default_rng(1).normal(size=50)
    usual, found = estimate(values), clustered(values, names(50))
    assert found.mean == pytest.approx(usual.mean)
    assert found.standard_error == pytest.approx(usual.standard_error) == pytest.approx(scipy.stats.sem(values))
    assert found.count == 50


def test_the_sandwich_is_the_one_of_the_books() -> None:
    values, clusters = np.array([1.0, 4, 2, 8, 5, 7]), ["a", "a", "b", "c", "c", "c"]
    # Mean 4.5; sums of residuals: a −3.5 − 0.5, b −2.5, c 3.5 + 0.5 + 2.5; 3/2 for three clusters; 6 items.
    expected = math.sqrt(3 / 2 * ((-4) ** 2 + (-2.5) ** 2 + 6.5**2)) / 6
    assert clustered(values, clusters) == Estimate(4.5, pytest.approx(expected), 6)


def test_clusters_of_equal_size_are_as_good_as_their_means() -> None:
    table = np.random.default_rng(2).normal(size=(30, 2)) + np.random.default_rng(3).normal(size=(30, 1))
    by_cluster = estimate(table.mean(axis=1))
    found = clustered(table.ravel(), [f"q{question}" for question in range(30) for _ in range(2)])
    assert (found.mean, found.standard_error) == pytest.approx((by_cluster.mean, by_cluster.standard_error))


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["clusters", "weights", "groups"])
def test_errors_are_the_spread_of_scores_over_new_draws_of_questions(kind: str) -> None:
    random = np.random.default_rng(4)
    found = []
    for _ in range(1500):
        sizes = random.integers(1, 5, 60)
        clusters = np.repeat(np.arange(60), sizes).astype(str).tolist()
        values = np.repeat(random.normal(size=60), sizes) + random.normal(size=sizes.sum())
        if kind == "clusters":
            found.append(clustered(values, clusters))
        elif kind == "weights":
            tokens = random.integers(1, 100, 60).astype(float)
            rate = random.normal(3, 0.5, 60) + 10 / tokens  # short texts are harder: a plain mean would be another
            found.append(clustered(rate, names(60), weights=tokens))
        else:
            groups = np.repeat(["small", "middle", "large"], [5, 15, 40])
            shift = np.repeat([5.0, 0.0, -5.0], [5, 15, 40])  # between groups, and no part of the error
            found.append(mean_of_groups(random.normal(size=60) + shift, groups.tolist()))
    spread = np.std([one.mean for one in found], ddof=1)
    assert np.sqrt(np.mean([one.standard_error**2 for one in found])) == pytest.approx(spread, rel=0.06)


def test_a_mean_of_groups_is_the_plain_mean_of_their_means() -> None:
    values, groups = np.array([0.0, 1, 1, 1, 0, 0, 1]), ["a", "b", "b", "a", "b", "b", "a"]
    parts = [estimate(values[np.array(groups) == group]) for group in "ab"]
    found = mean_of_groups(values, groups)
    assert found.mean == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.standard_error == pytest.approx(math.hypot(*(part.standard_error for part in parts)) / 2)


def test_weights_by_tokens_are_the_nats_of_all_tokens() -> None:
    nats, tokens = np.array([30.0, 2.0, 50.0]), np.array([10.0, 1.0, 40.0])
    rate = 82 / 51
    by_hand = math.sqrt(3 / 2 * sum((nats - rate * tokens) ** 2)) / 51  # of a ratio, by the delta method
    assert clustered(nats / tokens, names(3), weights=tokens) == Estimate(
        pytest.approx(rate), pytest.approx(by_hand), 3
    )


def test_values_that_do_not_differ_have_an_error_of_0() -> None:
    same = np.array([2.0, 2.0, 2.0, 2.0])
    assert estimate(same) == clustered(same, names(4)) == ratio(same, np.ones(4)) == Estimate(2.0, 0.0, 4)
    assert clustered(np.array([1.0, 1, 5, 5]), names(4), groups=[*"aabb"]) == Estimate(3.0, 0.0, 4)


@pytest.mark.parametrize("n", [2, 12, 60, 1319])
def test_a_share_on_which_all_agree_is_bounded_as_scipy_bounds_it(n: int) -> None:
    none = scipy.stats.binomtest(0, n, alternative="less").proportion_ci(0.95, "exact").high
    every = scipy.stats.binomtest(n, n, alternative="greater").proportion_ci(0.95, "exact").low
    below, above = unanimous(np.zeros(n)), unanimous(np.ones(n))
    assert below.startswith(f"0 of {n}: below ") and above.startswith(f"all of {n}: above ")
    shown = float(below.split()[-2])
    assert 100 * none <= shown <= 100 * none * 1.1, "two digits, and never more sure than it is"
    assert float(above.split()[-2]) == pytest.approx(100 - shown) and 100 - shown <= 100 * every + 1e-9


def test_the_bound_of_a_share_is_said_of_unanimous_items_alone() -> None:
    assert unanimous(np.zeros(1319)) == "0 of 1319: below 0.23 %"
    assert unanimous(np.ones(12)) == "all of 12: above 77.9 %"
    assert unanimous(np.ones(1)) == "all of 1: above 5.0 %"
    assert unanimous(np.ones(30), 12) == "all of 30: above 77.9 %"
    assert unanimous(np.array([0.0, 1.0])) == unanimous(np.full(3, 0.5)) == unanimous(np.array([])) == ""


def test_the_error_of_a_ratio_is_that_of_the_paper() -> None:
    """Cochran (1977), section 6.4, worked by hand; with sizes of 1 the error of a mean."""
    even = ratio(np.array([1.0, 4.0, 3.0, 6.0]), np.ones(4))
    assert even.mean == 3.5 and even.standard_error == pytest.approx(np.std([1, 4, 3, 6], ddof=1) / 2, rel=1e-12)
    uneven = ratio(np.array([1.0, 4.0, 3.0]), np.array([1.0, 2.0, 3.0]))  # residuals of 4/3: −1/3, 4/3, −1
    assert uneven.mean == pytest.approx(4 / 3) and uneven.standard_error == pytest.approx(
        math.sqrt(1.5 * 26 / 9) / 6, rel=1e-12
    )


def test_holm_multiplies_by_the_tests_that_are_left() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.3, 0.6, 0.9]) == pytest.approx([0.9, 1, 1])
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_rejects_as_its_steps_down_do(ps: list[float]) -> None:
    adjusted = holm(ps)
    rejected: set[int] = set()
    for step, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        if ps[index] * (len(ps) - step) >= 0.05:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(adjusted) if p < 0.05} == rejected
    assert all(p <= q <= 1 for p, q in zip(ps, adjusted, strict=True))
    assert sorted(adjusted) == [adjusted[index] for index in sorted(range(len(ps)), key=ps.__getitem__)]
