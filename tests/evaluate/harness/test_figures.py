"""Errors of figures that are no plain mean: against formulas, against scipy's bootstrap, and where there is none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from lm_eval.api import metrics
from scipy import stats

from ratchet.evaluate.harness.figures import TOO_LARGE, bootstrap, figure_of, is_finite, total_of

RANDOM = np.random.default_rng(11)


def figure(how: Any, values: list[Any]) -> Any:
    names = [f"t:{n}:x" for n in range(len(values))]
    return figure_of(total_of(how)(values), how, values, names)


def flat_mean(items: list[list[bool]]) -> float:
    return sum(sum(one) for one in items) / sum(map(len, items))


def test_a_mean_has_the_standard_error_of_its_items() -> None:
    found = figure(metrics.mean, [0.0, 1.0, 0.0, 0.0])
    assert (found.value, found.standard_error, found.count) == (0.25, pytest.approx(0.25), 4)
    assert figure(metrics.mean, [True, False]).standard_error == pytest.approx(0.5)
    one = figure(metrics.mean, [1.0])
    assert (one.value, one.standard_error, one.note) == (1.0, None, "one item: no error")


def test_verdicts_on_each_instruction_are_counted_and_their_error_is_of_documents() -> None:
    lists = [[True], [True, False], [False], [True, True, False], [True]]
    found = figure(flat_mean, lists)
    assert (found.value, found.count) == (pytest.approx(5 / 8), 8)
    # Documents as clusters: the linearised ratio, by hand.
    residuals = [sum(one) - 5 / 8 * len(one) for one in lists]
    assert found.standard_error == pytest.approx(math.sqrt(5 / 4 * np.sum(np.square(residuals))) / 8)
    drawn, _ = bootstrap(flat_mean, lists * 20, 2000)
    assert figure(flat_mean, lists * 20).standard_error == pytest.approx(drawn, rel=0.06)
    assert figure(flat_mean, [[True, True], [True]]).note == "all of 3: above 22.3 %"


@pytest.mark.parametrize("how", [metrics.perplexity, metrics.weighted_perplexity, metrics.bits_per_byte])
def test_errors_of_perplexities_are_those_of_their_nats(how: Any) -> None:
    nats = RANDOM.normal(-3.0, 0.4, 300)
    sizes = RANDOM.integers(5, 50, 300)
    values = list(nats) if how is metrics.perplexity else list(zip(nats * sizes, map(int, sizes), strict=True))
    found = figure(how, values)
    drawn, lost = bootstrap(how, values, 2000)
    assert lost == 0 and found.standard_error == pytest.approx(drawn, rel=0.06)


def f1(items: list[tuple[int, int]]) -> float:
    hits = sum(a and b for a, b in items)
    return 2 * hits / sum(a + b for a, b in items)


@pytest.mark.parametrize("how", [f1, metrics.median, metrics.brier_score])
def test_a_figure_without_a_formula_is_drawn(how: Any) -> None:
    gold = RANDOM.integers(0, 2, 200)
    guess = np.where(RANDOM.random(200) < 0.8, gold, 1 - gold)
    values: list[Any] = [(int(a), int(b)) for a, b in zip(gold, guess, strict=True)]
    if how is metrics.median:
        values = [float(one) for one in RANDOM.normal(size=201)]
    if how is metrics.brier_score:
        values = [(a, np.array([b, 1 - b])) for (a, _), b in zip(values, RANDOM.random(200), strict=True)]
    found = figure(how, values)
    rows = np.arange(len(values))
    theirs = stats.bootstrap(
        (rows,), lambda places: how([values[n] for n in places]), vectorized=False, n_resamples=300,
        method="percentile", rng=np.random.default_rng(3),
    )  # fmt: skip
    assert found.standard_error == pytest.approx(theirs.standard_error, rel=0.2)


def test_a_bootstrap_of_a_mean_is_its_standard_error() -> None:
    values = list(RANDOM.normal(size=12))
    drawn, lost = bootstrap(np.mean, values, 20_000)
    assert (drawn, lost) == bootstrap(np.mean, values, 20_000), "it has one seed"
    assert (drawn, lost) == (pytest.approx(stats.sem(values), rel=0.02), 0)


def test_texts_have_an_error_too() -> None:
    words = ["a b c d e", "the cat sat on the mat", "one two three four", "red green blue black"]
    pairs = [[text, text if n % 2 else text[::-1]] for n, text in enumerate(words * 3)]
    for how in (metrics.bleu, metrics.chrf, metrics.ter, lambda items: np.mean([a == b for a, b in items])):
        found = figure(how, pairs)
        assert found.standard_error is not None and found.standard_error > 0 and found.count == 12


def test_a_sample_without_a_figure_is_left_out_and_too_many_are_told() -> None:
    def fails(items: list[int]) -> float:
        if len(set(items)) < len(items) - 1:
            raise KeyError("too few")
        return float(np.mean(items))

    found = figure(fails, list(range(9)))
    assert found.standard_error is None
    assert found.note.startswith("no error: ") and found.note.endswith(" of 1000 samples have no figure")


@pytest.mark.parametrize("lost", [math.nan, None, (0, [math.nan, 0.5]), [math.nan]])
def test_a_value_that_is_no_number_takes_the_figure_and_names_its_item(lost: Any) -> None:
    found = figure(metrics.median, [1.0, 2.0, lost, 3.0])
    assert (found.value, found.standard_error) == (None, None)
    assert found.note == "no score: 1 of 4 items have no value: t:2:x"


def test_what_is_too_large_or_nothing_says_so() -> None:
    assert (figure(metrics.perplexity, [-800.0, -900.0]).value) is None
    assert figure(metrics.perplexity, [-800.0, -900.0]).note == TOO_LARGE
    assert figure(metrics.weighted_perplexity, [(-9000.0, 2), (-10.0, 1)]).note == TOO_LARGE
    none = "no score: lm-eval's aggregation fails: ZeroDivisionError: "
    assert figure(metrics.bits_per_byte, [(-9.0, 0)]).note.startswith(none)
    assert figure(lambda _: math.nan, [1.0, 2.0]).note == "no score: lm-eval's aggregation gives no number"
    many = figure(metrics.mean, [math.nan] * 5)
    assert many.note == "no score: 5 of 5 items have no value: t:0:x, t:1:x, t:2:x and 2 more"
    assert figure(metrics.mean, [1.0, math.inf]).note.startswith("no score: 1 of 2")


def test_briers_score_is_of_documents_with_any_number_of_choices() -> None:
    values = [(0, np.array([0.5, 0.5])), (2, np.array([0.2, 0.3, 0.5])), (1, np.array([0.1, 0.9]))]
    each = [0.5, 0.2**2 + 0.3**2 + 0.5**2, 0.02]
    found = figure(metrics.brier_score, values)
    assert (found.value, found.standard_error) == (pytest.approx(np.mean(each)), pytest.approx(stats.sem(each)))
    alike = [values[0], values[2]]
    assert figure(metrics.brier_score, alike).value == pytest.approx(metrics.brier_score(alike))
    lost = figure(metrics.brier_score, [*values, (-100, np.array([0.5, 0.5]))])
    assert lost.note == "no score: 1 of 4 items have no value: t:3:x", "its right answer is none of its choices"


def test_items_that_a_figure_is_not_of_may_lack_a_value() -> None:
    found = figure(metrics.nanmean, [1.0, math.nan, 0.0, 1.0])
    assert (found.value, found.count) == (pytest.approx(2 / 3), 3)
    assert found.standard_error == pytest.approx(stats.sem([1.0, 0.0, 1.0]))
    assert found.note == "1 of 4 items have no value"


def test_finite_is_what_has_no_other_number_in_it() -> None:
    assert all(map(is_finite, [1, True, "nan", np.float32(2), [1, (2.0, "x")], np.array([1.0])]))
    assert not any(map(is_finite, [math.nan, -math.inf, None, [1, math.inf], (0, np.array([np.nan]))]))
