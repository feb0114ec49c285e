"""Differences of paired scores: intervals and p-values against scipy, simulation and published figures."""

from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from nightly import nightly
from raised import raises
from ratchet.evaluate.statistics import (
    Estimate,
    clustered,
    estimate,
    normal_p,
    paired,
    ratio,
    score_interval,
)
from statistics_example import names

VALUES = st.lists(st.integers(-20, 20).map(lambda tenths: tenths / 10), min_size=2, max_size=40)


def test_a_pair_of_scores_differs_as_scipy_says() -> None:
    random = np.random.default_rng(5)
    a, b = random.integers(0, 5, (2, 11)).astype(float)
    found, usual = paired(a, b, names(11), 0), scipy.stats.ttest_rel(a, b)
    interval = usual.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.difference / found.standard_error == pytest.approx(usual.statistic)
    exact = scipy.stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert found.p == pytest.approx(exact.pvalue)


@pytest.mark.parametrize(
    ("differences", "p"), [([1, 1, 1], 2 / 8), ([2, 1, 1], 2 / 8), ([2, -1, -1], 1), ([3, 1, -1], 6 / 8)]
)
def test_all_ways_to_flip_are_counted_ties_too(differences: list[float], p: float) -> None:
    tenths = np.array(differences) / 10  # 0.1 + 0.2 is not 0.3, and still a tie
    assert paired(tenths, 0 * tenths, names(3), 0).p == p
    assert paired(np.append(tenths, np.zeros(30)), np.zeros(33), names(33), 0).p == p, "zeros change no sum"


def test_drawn_flips_come_near_all_flips() -> None:
    differences = np.random.default_rng(6).normal(0.5, 1, 16)
    signs = np.array(list(itertools.product((-1, 1), repeat=16)))
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)
    found = paired(differences, np.zeros(16), names(16), 7).p
    assert 0.01 < exact < 0.2
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000))
    assert (
        found == paired(differences, np.zeros(16), names(16), 7).p != paired(differences, np.zeros(16), names(16), 8).p
    )
    assert (found * 10_001) == pytest.approx(round(found * 10_001)), "(k + 1) / (10,000 + 1)"


def test_no_p_value_is_below_what_drawn_flips_can_tell() -> None:
    assert paired(np.ones(100), np.zeros(100), names(100), 0).p == 1 / 10_001


@given(VALUES, st.randoms(use_true_random=False))
def test_the_order_of_items_and_of_models_changes_nothing(values: list[float], random) -> None:
    a, clusters = np.array(values), [f"q{index // 2}" for index in range(len(values))]
    groups = ["even" if index % 4 < 2 else "odd" for index in range(len(values))]
    order = random.sample(range(len(values)), len(values))
    here = paired(a, 0 * a, clusters, 3, groups=groups)
    there = paired(a[order], 0 * a, [clusters[index] for index in order], 3, groups=[groups[index] for index in order])
    back = paired(0 * a, a, clusters, 3, groups=groups)
    assert (here.difference, here.p) == pytest.approx((there.difference, there.p))
    assert (here.difference, here.p) == (-back.difference, back.p)
    assert here.standard_error == pytest.approx(there.standard_error) == back.standard_error
    assert here.low == (None if back.high is None else pytest.approx(-back.high))


@pytest.mark.heavy
@pytest.mark.parametrize("kind", nightly(["items", "clusters", "weights", "groups"], lambda kind: kind == "groups"))
def test_models_that_do_not_differ_give_even_p_values_and_intervals_that_hold_95_percent(kind: str) -> None:
    random = np.random.default_rng(8)
    ps, held = [], []
    for seed in range(600):
        clusters, options = names(40), {}
        differences = random.standard_t(5, 40)
        if kind == "clusters":
            clusters = [f"q{index // 2}" for index in range(40)]
            differences = np.repeat(random.normal(size=20), 2) + random.normal(size=40)
        elif kind == "weights":
            options = {"weights": random.integers(50, 100, 40).astype(float)}
        elif kind == "groups":
            options = {"groups": ["a"] * 10 + ["b"] * 30}
        found = paired(differences, np.zeros(40), clusters, seed, **options)
        ps.append(found.p)
        held.append(found.low <= 0 <= found.high)
    assert scipy.stats.kstest(ps, "uniform").pvalue > 0.01
    assert scipy.stats.binomtest(sum(held), 600, 0.95).pvalue > 0.01
    assert scipy.stats.binomtest(sum(p < 0.05 for p in ps), 600, 0.05).pvalue > 0.01


@pytest.mark.heavy
def test_groups_that_differ_in_opposite_ways_do_not_make_a_difference() -> None:
    random = np.random.default_rng(9)
    groups, shift = ["a"] * 15 + ["b"] * 30, np.array([0.5] * 15 + [-0.5] * 30)
    found = [paired(shift + random.normal(size=45), np.zeros(45), names(45), 0, groups=groups) for _ in range(400)]
    assert scipy.stats.binomtest(sum(one.low <= 0 <= one.high for one in found), 400, 0.95).pvalue > 0.01
    assert scipy.stats.binomtest(sum(one.p < 0.05 for one in found), 400, 0.05, "greater").pvalue > 0.01


def test_fourteen_thousand_questions_take_little_memory() -> None:
    random = np.random.default_rng(10)
    a, b = random.integers(0, 2, (2, 14_042)).astype(float)
    groups = [f"subject {index % 57}" for index in range(14_042)]
    tracemalloc.start()
    found = paired(a, b, names(14_042), 0, groups=groups)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 2**20
    assert found.p == pytest.approx(normal_p(found.difference / found.standard_error), abs=0.02)


def test_what_too_few_items_say() -> None:
    one = paired(np.array([0.5, 0.7]), np.zeros(2), ["q", "q"], 0)
    assert (one.difference, one.standard_error, one.low, one.high, one.p) == (0.6, None, None, None, 1)
    alone = paired(np.array([1.0, 0, 1]), np.zeros(3), names(3), 0, groups=["a", "a", "b"])
    assert (alone.difference, alone.standard_error) == (0.75, None), "one item says nothing of its group's spread"
    assert clustered(np.array([]), []) == estimate(np.array([])) == Estimate(0.0, None, 0)
    assert clustered(np.array([2.0]), ["q"]) == estimate(np.array([2.0])) == Estimate(2.0, None, 1)
    assert clustered(np.array([1.0, 0.0]), ["q", "q"]) == Estimate(0.5, None, 2)
    assert clustered(np.array([1.0, 0, 1]), names(3), groups=["a", "a", "b"]) == Estimate(0.75, None, 3)
    assert ratio(np.array([3.0]), np.array([2.0])) == Estimate(1.5, None, 1)


def test_equal_answers_are_no_difference_and_equal_differences_still_have_a_p_value() -> None:
    same = paired(np.full(20, 0.3), np.full(20, 0.3), names(20), 0)
    assert (same.difference, same.standard_error, same.low, same.high, same.p) == (0, 0, 0, 0, 1)
    up = paired(np.full(5, 3.0), np.full(5, 2.0), names(5), 0)
    assert (up.difference, up.low, up.high) == pytest.approx((1, 1, 1))
    assert up.p == 2 / 32


def score_test(n: int, ups: int, downs: int, delta: float) -> float:
    """Tango's chi-square of a difference, its nuisance share found by the likelihood itself."""

    def unlikely(q: float) -> float:
        shares = ((ups, q + delta), (downs, q), (n - ups - downs, 1 - 2 * q - delta))
        return -sum(count * math.log(max(share, 1e-300)) for count, share in shares if count)

    ends = max(0.0, -delta), (1 - delta) / 2
    q = scipy.optimize.minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    return (ups - downs - n * delta) ** 2 / max(n * (2 * q + delta * (1 - delta)), 1e-300)


@pytest.mark.parametrize(
    ("n", "ups", "downs"), [(60, 0, 0), (50, 12, 2), (44, 1, 0), (8, 8, 0), (11, 3, 1), (200, 40, 41), (12, 0, 5)]
)
def test_a_difference_of_paired_shares_has_the_score_interval(n: int, ups: int, downs: int) -> None:
    low, high = score_interval(n, ups, downs)
    assert low < (ups - downs) / n < high or (ups, downs, high) == (n, 0, 1.0)
    for end in (low, high):
        if abs(end) < 1:
            assert score_test(n, ups, downs, end) == pytest.approx(3.841459, rel=2e-3)
    swapped = score_interval(n, downs, ups)
    assert swapped == pytest.approx((-high, -low))
    a = np.array([1.0] * ups + [0.0] * downs + [1.0] * (n - ups - downs))
    b = np.array([0.0] * ups + [1.0] * downs + [1.0] * (n - ups - downs))
    found = paired(a, b, names(n), 0)
    assert (found.low, found.high) == (low, high)


def test_published_score_intervals_come_out() -> None:
    # Newcombe 1998, Statistics in Medicine 17:2635, table III: 36, 12, 2, 0 by Tango's method.
    assert score_interval(50, 12, 2) == pytest.approx((0.0611, 0.3447), abs=1e-4)


def test_none_of_60_against_none_of_60_may_still_differ_by_6_points() -> None:
    none = paired(np.zeros(60), np.zeros(60), names(60), 0)
    assert (none.difference, none.p) == (0, 1)
    assert (none.low, none.high) == pytest.approx((-0.0602, 0.0602), abs=1e-4)
    turns = [str(index // 2) for index in range(60)]  # of 30 conversations
    assert paired(np.zeros(60), np.zeros(60), turns, 0).high == pytest.approx(score_interval(30, 0, 0)[1])


@pytest.mark.parametrize("count", [3, 7, 11, 60, 79])
def test_values_that_are_all_the_same_leave_no_rounding_behind(count: int) -> None:
    """In sums of 1/60 an error of 0 is 1e-16, and ±1 is not 1."""
    own, turns = names(count), [str(n // 2) for n in range(count)]
    for clusters in (own, turns):
        assert clustered(np.full(count, 7.1), clusters) == Estimate(7.1, 0.0, count)
        for weights in (None, np.ones(count), np.full(count, 3.0)):
            found = paired(np.ones(count), np.zeros(count), clusters, 0, weights=weights)
            low, high = score_interval(len(set(clusters)), len(set(clusters)), 0)
            assert (found.difference, found.standard_error, found.high) == (1.0, 0.0, 1.0) and high == 1.0
            assert found.low == pytest.approx(low) and low < 0.96


def test_equal_weights_change_no_interval_of_shares() -> None:
    random = np.random.default_rng(8)
    a, b = (random.random((2, 40)) < [[0.8], [0.5]]).astype(float)
    ends = score_interval(40, int(np.sum(a > b)), int(np.sum(a < b)))
    for weights in (None, np.ones(40)):
        found = paired(a, b, names(40), 0, weights=weights)
        assert (found.low, found.high) == pytest.approx(ends)
    other = paired(a, b, names(40), 0, weights=np.linspace(1, 2, 40))
    assert other.low != pytest.approx(ends[0], abs=1e-3)


def test_the_score_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    held = 0
    for ups, downs, _ in random.multinomial(25, (0.04, 0.02, 0.94), size=1500):
        low, high = score_interval(25, int(ups), int(downs))
        held += low <= 0.02 <= high
    assert held / 1500 > 0.93


@pytest.mark.parametrize(
    ("a", "b", "options"),
    [
        ([], [], {}),
        ([1.0], [1.0, 2.0], {}),
        ([1.0, math.nan], [1.0, 2.0], {}),
        ([1.0, math.inf], [1.0, 2.0], {}),
        ([1.0, 1.0], [1.0, 2.0], {"weights": np.array([1.0, 0.0])}),
        ([1.0, 1.0], [1.0, 2.0], {"groups": ["a"]}),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], {}),
    ],
)
def test_values_that_cannot_be_paired_are_refused(a: list[float], b: list[float], options: dict) -> None:
    with raises("data.not-comparable"):
        paired(np.array(a), np.array(b), names(2), 0, **options)
