"""Tables of models that do not differ: how often one of them is called different all the same."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from ratchet.evaluate.compare import ModelResults, compare_models
from tests.evaluate.test_compare import items_of, result


def equal_models(count: int, seed: int, items: int, tasks: int, before: bool) -> list[ModelResults]:
    """Models that are right as often as the base: each answer is the common one, or a toss-up of its own."""
    random = np.random.default_rng(seed)
    common = (random.random((tasks, items)) < 0.6).astype(float)
    made = []
    for place in range(count):
        own = np.where(random.random((tasks, items)) < 0.5, common, random.random((tasks, items)) < 0.6)
        results = {f"a:{n}": result(items_of(own[n].astype(float))) for n in range(tasks)}
        made.append(ModelResults(f"m{place}", f"m{place - 1}" if before and place else None, results))
    return made


def shown_by_chance(experiments: int, count: int, items: int, tasks: int, before: bool) -> int:
    """How many tables of models that do not differ call one of them better or worse."""
    averages = {"a:all": [f"a:{n}" for n in range(tasks)]} if tasks > 1 else {}
    tables = (
        compare_models(equal_models(count, seed, items, tasks, before), averages, seed=seed)
        for seed in range(experiments)
    )
    return sum(any(row.verdict != "not shown" for row in rows) for rows in tables)


@pytest.mark.heavy
def test_a_chain_of_equal_models_is_called_different_one_in_twenty_times_at_most() -> None:
    shown = shown_by_chance(40, 5, 40, 1, True)
    assert scipy.stats.binomtest(shown, 40, 0.05, "greater").pvalue > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("items", "tasks", "before"), [(120, 1, False), (120, 1, True), (60, 3, True)])
def test_a_table_of_12_equal_models_shows_a_difference_one_in_twenty_times_at_most(
    items: int, tasks: int, before: bool
) -> None:
    shown = shown_by_chance(200, 13, items, tasks, before)
    assert scipy.stats.binomtest(shown, 200, 0.05, "greater").pvalue > 0.01


@pytest.mark.heavy
def test_a_large_table_has_p_values_small_enough_for_it() -> None:
    """Of 10,000 flips the least p-value times 600 comparisons would be above 0.05."""
    up, same = result(items_of(np.ones(60))), result(items_of(np.zeros(60)))
    tasks = [f"a:{n}" for n in range(600)]
    sides = dict.fromkeys(tasks, same)
    rows = compare_models([ModelResults("base", None, sides), ModelResults("dpo", "base", {**sides, "a:0": up})])
    assert (rows[0].verdict, rows[0].p_holm) == ("better", pytest.approx(600 * rows[0].p))
