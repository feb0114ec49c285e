"""Holm over several tests, and averages of several tasks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.documents.scores import Score
from ratchet.errors import DataError
from ratchet.evaluate.results import average_of
from ratchet.evaluate.statistics import holm


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


def score(value: float | None, error: float | None, count: int = 100, unit: str = "share") -> Score:
    return Score("accuracy", "acc", value, error, count, unit)


def test_an_average_has_the_error_of_independent_tasks() -> None:
    # SOLAR-10.7B-Instruct, as recorded by evalverse: H6 is 74.62.
    found = average_of(
        {
            "arc": score(0.7133, 0.0132), "hellaswag": score(0.8819, 0.0032), "mmlu": score(0.6552, 0.0038),
            "truthfulqa": score(0.7172, 0.0150), "winogrande": score(0.8319, 0.0105), "gsm8k": score(0.6778, 0.0129),
        },
        "H6",
    )  # fmt: skip
    assert (found.name, found.unit, found.count, found.note) == ("H6", "share", 600, "")
    assert found.value == pytest.approx(0.7462, abs=5e-5)
    draws = np.random.default_rng(11).normal(0, [0.0132, 0.0032, 0.0038, 0.0150, 0.0105, 0.0129], (40_000, 6))
    assert found.standard_error == pytest.approx(draws.mean(axis=1).std(), rel=0.02)


def test_an_average_of_tasks_without_a_score_is_none() -> None:
    missing = average_of({"arc": score(0.5, 0.1), "gsm8k": score(None, None, 3)}, "H4")
    assert (missing.value, missing.standard_error, missing.note) == (None, None, "no score of gsm8k")
    unsure = average_of({"arc": score(0.5, 0.1), "gsm8k": score(0.7, None)}, "H4")
    assert (unsure.value, unsure.standard_error) == (pytest.approx(0.6), None)
    assert unsure.note == "no error of gsm8k"
    sure = average_of({"arc": score(0.5, 0.0), "gsm8k": score(0.7, 0.2)}, "H4")
    assert (sure.standard_error, sure.note) == (pytest.approx(0.1), "no error of arc")
    mixed = average_of({"arc": score(0.5, 0.1), "mt": score(7.0, 0.3, unit="points")}, "H4")
    assert (mixed.value, mixed.note) == (None, "these cannot be averaged: arc in share, mt in points")
    with pytest.raises(DataError, match="average H4 is of no task"):
        average_of({}, "H4")
