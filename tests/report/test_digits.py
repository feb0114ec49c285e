"""Thinned and smoothed series, and values shown to the digit of their error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.documents.report import read_report
from ratchet.report import figures
from ratchet.report.charts.training import draw_chosen_overlay
from ratchet.report.plots import smooth, thin
from report_example import example


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000), st.integers(1, 400))
def test_thinning_keeps_the_mean_and_the_limit(values: list[float], most: int) -> None:
    series = [(float(step), value) for step, value in enumerate(values, 1)]
    points = thin(series, most)
    assert len(points) <= most
    whole = (len(values) // -(-len(values) // most)) * -(-len(values) // most)
    size = -(-len(values) // most)
    assert points[: whole // size] == [
        (
            pytest.approx(np.mean(range(start + 1, start + size + 1))),
            pytest.approx(np.mean(values[start : start + size])),
        )
        for start in range(0, whole, size)
    ]


@pytest.mark.heavy
def test_a_long_history_is_thinned_and_said_so() -> None:
    data = example()
    before = draw_chosen_overlay(read_report(data))
    line = data["steps"][1]["history"][-1]
    data["steps"][1]["history"] = [{**line, "step": step} for step in range(1, 20_001)]
    after = draw_chosen_overlay(read_report(data))
    assert before is not None
    assert after is not None
    assert "means of up to 50 steps" in after.caption
    assert len(after.svg) < 1.2 * len(before.svg)


def test_smoothing_starts_at_the_first_value_and_keeps_a_line_straight() -> None:
    series = [(float(x), 3.0 * x) for x in range(50)]
    np.testing.assert_allclose(smooth(series[:40], 11)[:35], series[:35])
    assert smooth([(1.0, math.log(2)), (2.0, 9.0), (3.0, 9.0)], 3)[0] == (1.0, math.log(2))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (71.34, 1.234, "71.3 ± 1.2"),
        (-3.4149, 0.0234, "−3.415 ± 0.023"),
        (1234.5, 96.0, "1,234 ± 96"),
        (0.5, 0.0, "0.50 ± 0.00"),
        (0.5, None, "0.50 (no error)"),
        (0.5, math.nan, "0.50 (no error)"),
        (-0.0001, None, "0.00 (no error)"),
        (None, 1.0, "–"),
        (math.nan, 1.0, "–"),
    ],
)
def test_a_value_is_shown_to_the_digit_of_its_error(value: float | None, error: float | None, text: str) -> None:
    assert figures.with_error(value, error) == text


def test_a_share_is_shown_with_its_error_or_that_it_has_none() -> None:
    assert figures.percent_with_error(0.713, 0.012) == "71.3 ± 1.2"
    assert figures.percent_with_error(1.0, 0.0) == "100.0 ± 0.0"
    assert figures.percent_with_error(1.0, None) == "100.0 (no error)"
    assert figures.percent_with_error(None, None) == figures.percent(None) == "–"
    assert figures.percent(0.713) == "71.3", "a share that was counted has no error"
    assert figures.difference(0.5, None) == "+0.50 (no error)"
    assert figures.interval(-1.0, 2.0, None) == "−1.00 to +2.00"
