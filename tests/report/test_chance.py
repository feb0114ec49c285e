"""Verdicts of a chain's steps: how often one is called a rise or a fall by chance."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from ratchet.report.tables.training import verdict_of


@pytest.mark.parametrize("steps", [1, 4, 12])
def test_of_a_chain_whose_steps_change_nothing_one_is_said_to_one_in_twenty_times_at_most(steps: int) -> None:
    means = np.random.default_rng(steps).normal(0.0, 0.3, (2000, steps))
    told = sum(any(verdict_of(float(one), 0.3, steps) != "level" for one in row) for row in means)
    assert scipy.stats.binomtest(told, 2000, 0.05, "greater").pvalue > 0.01
    assert scipy.stats.binomtest(told, 2000, 0.04, "less").pvalue > 0.001, "nor much more seldom"


def test_a_step_alone_needs_less_than_one_of_many() -> None:
    assert [verdict_of(2.2, 1.0, steps) for steps in (1, 2)] == ["rose", "level"]
    assert [verdict_of(-9.0, 1.0, 12), verdict_of(None, 1.0, 1), verdict_of(1.0, None, 1)] == ["fell", "–", "–"]
