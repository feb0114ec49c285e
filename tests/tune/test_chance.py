"""Points of a sweep that do not differ: how often one is told from the first all the same."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from ratchet.documents.sweep import Objective, ObjectiveResult, Point, PointComparison
from ratchet.evaluate.statistics import t_p
from ratchet.store.layout import Layout
from ratchet.tune.compare import compare
from tests.tune.test_conclusions import ACCURACY, PLAN

EXPERIMENTS, POINTS = 400, 12


def ranked(values: np.ndarray, error: float) -> tuple[Point, ...]:
    """Points with these values, each with one error of its items, the largest first."""
    order = {int(place): rank for rank, place in enumerate(np.argsort(-values), 1)}
    return tuple(
        Point(f"p{n}", {}, (ObjectiveResult(ACCURACY, float(value), error, 1, False),), order[n], False)
        for n, value in enumerate(values)
    )


def compared(values: np.ndarray, tmp_path: Path) -> tuple[PointComparison, ...]:
    return compare(Layout(tmp_path), PLAN, ranked(values, 0.02), (), Objective(ACCURACY, "max"))


def test_of_12_points_that_do_not_differ_one_is_told_from_the_first_one_in_twenty_times_at_most(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    tables = [compared(random.normal(0.7, 0.02, POINTS), tmp_path) for _ in range(EXPERIMENTS)]
    shown = sum(any(one.shown for one in found) for found in tables)
    alone = sum(any(one.p is not None and one.p < 0.05 for one in found) for found in tables)
    assert scipy.stats.binomtest(shown, EXPERIMENTS, 0.05, "greater").pvalue > 0.01
    assert alone > 0.4 * EXPERIMENTS, "each for itself, the first of 12 looks better than some other every other time"


def test_p_is_adjusted_for_all_pairs_of_points(tmp_path: Path) -> None:
    found = compared(np.array([0.9, 0.8, 0.5]), tmp_path)
    assert [one.other for one in found] == ["p1", "p2"]
    expected = [2 * scipy.stats.norm.sf(gap / np.hypot(0.02, 0.02)) for gap in (0.1, 0.4)]
    assert [one.p for one in found] == pytest.approx(expected)
    assert [one.p_all for one in found] == pytest.approx([3 * p for p in expected])


def test_students_p_is_scipys() -> None:
    for t, freedom in itertools.product((0.0, -1.3, 4.2), (1, 5, 60)):
        assert t_p(t, freedom) == pytest.approx(2 * scipy.stats.t.sf(abs(t), freedom))
