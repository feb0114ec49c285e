"""Tracking: what reaches the disk."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightly import examples
from ratchet.track.jsonl import JsonLines, open_tracker, read_metrics
from track_example import METRICS


def test_each_line_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path, None, 0)
    for step in (1, 2, 3):
        tracker.log(step, {**METRICS, "loss": step / 3})
        assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, step + 1))
    tracker.close()
    first = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(first) == {"step": 1, **METRICS, "loss": 1 / 3}
    assert first.startswith('{"step": 1, ')


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_becomes_null(tmp_path: Path, value: float) -> None:
    tracker = open_tracker(tmp_path, None, 0)
    tracker.log(1, {"loss": value, "grad_norm": 1.0})
    tracker.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": null, "grad_norm": 1.0}\n'


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    total=st.integers(0, 12), resume=st.integers(0, 14), torn=st.sampled_from([b"", b'{"step": 13, "lo', b"\0\0\n{}\n"])
)
def test_a_resume_continues_as_if_nothing_had_happened(tmp_path: Path, total: int, resume: int, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.unlink(missing_ok=True)
    _log_steps(JsonLines(path, 0), range(1, total + 1))
    path.write_bytes(path.read_bytes() + torn)
    resume = min(resume, total)
    _log_steps(JsonLines(path, resume), range(resume + 1, 15))
    assert [line["step"] for line in read_metrics(path)] == list(range(1, 15))
    assert list(tmp_path.iterdir()) == [path]


def test_lost_lines_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    _log_steps(JsonLines(path, 0), range(1, 4))
    JsonLines(path, 5).close()
    assert "steps 4 to 5 were lost" in caplog.text


def _log_steps(tracker: JsonLines, steps: range) -> None:
    for step in steps:
        tracker.log(step, METRICS)
    tracker.close()
