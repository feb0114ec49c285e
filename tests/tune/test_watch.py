"""What follows a trial's steps: every line once, whichever process writes it, and a stop that gets through."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightly import examples
from ratchet.track.jsonl import JsonLines, Tail
from ratchet.tune.watch import TrialStop, Watch

TORN = '{"step": 99, "lo'


class Kept:
    """Keeps what it is handed, and the threads that hand it on."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.more = threading.Event()

    def __call__(self, step: str, line: Mapping[str, Any]) -> None:
        self.lines.append((step, dict(line)))
        self.more.set()

    def steps(self) -> list[int]:
        return [line["step"] for _, line in self.lines]

    def wait(self, count: int) -> None:
        """Wait until so many lines came, while the block still runs."""
        while len(self.lines) < count:
            self.more.clear()
            assert len(self.lines) >= count or self.more.wait(600), self.lines


def grow(path: Path, first: int, last: int) -> None:
    file = JsonLines(path, first - 1)
    for step in range(first, last + 1):
        file.log(step, {"loss": 1 / step})
    file.close()


def test_tail_gives_every_new_line_and_all_of_them_after_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.new() == []
    grow(path, 1, 3)
    assert [line["step"] for line in tail.new()] == [1, 2, 3]
    with path.open("a") as file:
        file.write('{"step": 4}\n' + TORN)
    assert tail.new() == [{"step": 4}]
    grow(path, 3, 3)
    assert [line["step"] for line in tail.new()] == [1, 2, 3]


def test_lines_come_while_the_step_is_trained_and_the_last_ones_at_its_end(tmp_path: Path) -> None:
    kept = Kept()
    watch = Watch([kept])
    with watch("align.1", tmp_path):
        grow(tmp_path / "metrics.jsonl", 1, 3)
        kept.wait(3)
        grow(tmp_path / "metrics.jsonl", 4, 6)
    assert kept.lines == [("align.1", {"step": step, "loss": 1 / step}) for step in range(1, 7)]
    with watch("align.2", tmp_path):  # found, not made
        pass
    assert kept.steps() == [*range(1, 7), *range(1, 7)]
    assert not [thread for thread in threading.enumerate() if thread.name == "ratchet-watch"]
    watch.close()


def test_a_step_of_another_trial_is_followed_through_a_link_that_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratchet.tune.watch._POLL_SECONDS", 0.02)
    kept, shared, own = Kept(), tmp_path / "store" / "0f", tmp_path / "steps" / "align.1"
    with Watch([kept])("align.1", own):
        grow(shared / "metrics.jsonl", 1, 2)
        time.sleep(0.1)
        own.parent.mkdir()
        own.symlink_to(shared, target_is_directory=True)
        kept.wait(2)
        grow(shared / "metrics.jsonl", 3, 4)
        kept.wait(4)
    assert kept.steps() == [1, 2, 3, 4]


def test_a_step_without_metrics_has_no_lines(tmp_path: Path) -> None:
    kept = Kept()
    with Watch([kept])("blend", tmp_path / "never"):
        pass
    assert kept.lines == []


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.floats(0, 0.02)), min_size=1, max_size=4))
def test_every_line_comes_once_whatever_is_cut_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lives: list[tuple[int, int, float]]
) -> None:
    monkeypatch.setattr("ratchet.tune.watch._POLL_SECONDS", 0.004)
    path, kept, last, highest = tmp_path / "metrics.jsonl", Kept(), 0, 0
    path.unlink(missing_ok=True)
    with Watch([kept])("align.1", tmp_path):
        for back, more, pause in lives:  # each life resumes at a checkpoint and writes on, with a torn line at its end
            start = max(0, last - back)
            grow(path, start + 1, start + more)
            last = start + more
            highest = max(highest, last)
            time.sleep(pause)
            with path.open("a") as file:
                file.write(TORN)
        final = last
    steps = kept.steps()
    assert steps == sorted(set(steps)) and set(range(1, final + 1)) <= set(steps) and max(steps) <= highest
    assert all(line == {"step": line["step"], "loss": 1 / line["step"]} for _, line in kept.lines)


def stop_at(step: int) -> Any:
    def listener(_: str, line: Mapping[str, Any]) -> None:
        if line["step"] == step:
            raise TrialStop(f"behind at step {step}")

    return listener


def test_a_stop_is_raised_at_the_end_of_the_block_whatever_came_of_it(tmp_path: Path) -> None:
    kept = Kept()
    watch = Watch([stop_at(2), kept])
    with pytest.raises(TrialStop, match="behind at step 2") as stop, watch("align.1", tmp_path):
        grow(tmp_path / "metrics.jsonl", 1, 3)
        kept.wait(3)
        raise RuntimeError("the workers were ended")
    assert isinstance(stop.value.__cause__, RuntimeError)
    assert kept.steps() == [1, 2, 3]
    with pytest.raises(TrialStop):
        watch.check()
    watch.close()


def test_a_stop_is_raised_where_the_step_came_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(TrialStop), Watch([stop_at(3)])("align.1", tmp_path):
        grow(tmp_path / "metrics.jsonl", 1, 3)


def test_a_listener_that_fails_ends_neither_training_nor_the_others_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    def broken(_: str, line: Mapping[str, Any]) -> None:
        seen.append(line["step"])
        if line["step"] == 2:
            raise ValueError("boom")

    kept = Kept()
    watch = Watch([broken, kept])
    with watch("align.1", tmp_path):
        grow(tmp_path / "metrics.jsonl", 1, 4)
        kept.wait(4)
    with watch("align.2", tmp_path):
        pass
    assert (seen, len(kept.lines)) == ([1, 2], 8)
    assert "what follows step align.1 failed" in caplog.text and "boom" in caplog.text
    with pytest.raises(ValueError, match="boom"):
        watch.close()


def test_the_blocks_own_error_is_passed_on_and_its_last_lines_are_handed_on(tmp_path: Path) -> None:
    kept = Kept()
    with pytest.raises(ValueError, match="NaN"), Watch([kept])("align.1", tmp_path):
        grow(tmp_path / "metrics.jsonl", 1, 2)
        raise ValueError("NaN")
    assert kept.steps() == [1, 2]
