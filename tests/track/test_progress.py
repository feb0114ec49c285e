"""Progress for people: what follows a growing metrics file, and what it shows."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import termios
import threading
import time
from pathlib import Path

import pytest

from ratchet.track import progress
from ratchet.track.jsonl import JsonLines, Tail
from ratchet.track.progress import Console, counted, duration, follow_training, under_way
from track_example import METRICS


def test_tail_follows_growth_torn_lines_and_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.last() is None
    tracker = JsonLines(path, 0)
    tracker.log(1, METRICS)
    tracker.log(2, METRICS)
    assert (tail.last() or {})["step"] == 2
    assert tail.last() is None
    with path.open("a") as file:
        file.write('{"step": 3, "loss"')
        file.flush()
        assert tail.last() is None
        file.write(": 1.0}\n")
    assert tail.last() == {"step": 3, "loss": 1.0}
    tracker.close()
    JsonLines(path, 1).close()
    assert (tail.last() or {})["step"] == 1


def test_tail_sees_another_file_under_the_name_and_the_same_one_shortened(tmp_path: Path) -> None:
    path, other = tmp_path / "metrics.jsonl", tmp_path / "other"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    tail = Tail(path)
    assert tail.last() == {"step": 2}
    other.write_text('{"step": 7}\n{"step": 8}\n')
    other.replace(path)
    assert tail.last() == {"step": 8}
    with path.open("r+") as file:
        file.truncate(12)
    assert tail.last() == {"step": 7}


def _grow(path: Path, last: int) -> None:
    tracker = JsonLines(path, 0)
    for step in range(1, last + 1):
        tracker.log(step, METRICS)
        time.sleep(0.01)
    tracker.close()


def test_a_log_gets_lines_with_step_loss_and_estimate(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    path, said = tmp_path / "metrics.jsonl", list[str]()
    with follow_training(path, "align-1", 40, Console()):
        while capfd_lines(capfd, said) < 3:
            time.sleep(0.01)
        assert set(said) == {"training begins"}
        tracker = JsonLines(path, 0)
        for step in range(1, 41):
            tracker.log(step, METRICS)
            while step < 5 and not any(f"step {step} of 40" in line for line in said):
                capfd_lines(capfd, said)
        while not any("publishing" in line for line in said):
            capfd_lines(capfd, said)
        path.with_name("scoring.json").write_text('{"done": 512, "total": 4000}')
        while not any("512 of 4,000 pairs scored" in line for line in said):
            capfd_lines(capfd, said)
        tracker.close()
    capfd_lines(capfd, said)
    known = [line for line in said if " left" in line]
    assert known and all(re.fullmatch(r"step \d+ of 40, loss 0.6931, margin 0.250, .*s, .* left", one) for one in known)
    assert "step 40 of 40, loss 0.6931, margin 0.250, 12.5 pairs/s, publishing the model" in said
    assert said[-1].startswith("ended at step 40 of 40, loss 0.6931")


def capfd_lines(capfd: pytest.CaptureFixture[str], said: list[str]) -> int:
    """Add what was said since, without the label, and return how many lines there are."""
    said += [line.partition("align-1")[2].strip() for line in capfd.readouterr().err.splitlines()]
    return len(said)


def test_the_estimate_leaves_the_start_of_workers_out() -> None:
    """1,200 steps of 0.18 s: workers took 46 s to start, and the first steps are those of the newcomer's case."""
    now = [0.0]
    seen = progress.Pace(lambda: now[0])
    assert (seen.begun, seen.left(1200)) == (False, None)
    now[0] = 46.0
    seen.mark(1)
    assert (seen.begun, seen.left(1200)) == (True, None)
    now[0] += 3 * 0.18
    seen.mark(4)
    assert seen.left(1200) == pytest.approx(1196 * 0.18)
    now[0] += 10.0
    assert seen.left(1200) == pytest.approx(1196 * 0.18 - 10)
    seen.mark(2)  # workers that start again go on from a checkpoint
    assert seen.left(1200) is None
    now[0] += 1.0
    seen.mark(4)
    assert seen.left(1200) == pytest.approx(1196 / 2)


def test_counted_work_is_told_too(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    said: list[str] = []
    with counted("score align-1", "pairs", Console()) as show:
        while capfd_lines(capfd, said) < 2:
            time.sleep(0.01)
        for done in range(1, 4001):
            if any("pairs/s" in line for line in said):
                break
            show(done, 4000)
            time.sleep(0.01)
            capfd_lines(capfd, said)
    assert said[0] == "starting processes"
    assert any(re.fullmatch(r"[\d,]+ of 4,000 pairs, [\d.]+ pairs/s, .* left", line) for line in said)
    before = len(said)
    with under_way("align-1", "12 answers are judged", Console()):
        while capfd_lines(capfd, said) == before:
            time.sleep(0.01)
    assert re.fullmatch(r"12 answers are judged, .* s so far", said[before])


def test_a_sweep_tells_what_its_trials_said_last(tmp_path: Path) -> None:
    from ratchet.tune.sweep import last_line

    path = tmp_path / "log.txt"
    assert last_line(path) == ""
    path.write_text("x" * 9000 + "\nalign                step 5 of 36, loss 0.6\nalign  step 6 of")
    assert last_line(path) == "align step 5 of 36, loss 0.6"


def test_a_failure_inside_is_told_and_passed_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="boom"), follow_training(tmp_path / "metrics.jsonl", "align-1", 40, Console()):
        _grow(tmp_path / "metrics.jsonl", 7)
        raise ValueError("boom")
    assert "stopped at step 7 of 40" in capfd.readouterr().err
    assert not [thread for thread in threading.enumerate() if thread.name == "ratchet-progress"]


@pytest.mark.parametrize("ci", [False, True])
def test_on_a_terminal_a_bar_goes_forth_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: bool) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.02)
    if ci:
        monkeypatch.setenv("CI", "true")
    path = tmp_path / "metrics.jsonl"
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    shown: list[bytes] = []

    def read() -> None:
        while True:
            try:
                shown.append(os.read(master, 65536))
            except OSError:
                return

    def seen(steps: bytes) -> None:
        if ci:
            time.sleep(0.1)  # for a bar that must not come
        while not ci and steps not in b"".join(shown):
            time.sleep(0.01)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w") as terminal, follow_training(path, "align-1", 40, Console(terminal)):
        while b"training begins" not in b"".join(shown):
            time.sleep(0.01)
        _grow(path, 30)
        seen(b"30/40")
        JsonLines(path, 10).close()
        seen(b"10/40")
        Console(terminal).say("a line above the bar")
    reader.join()
    os.close(master)
    text = b"".join(shown).decode()
    assert ("30/40" in text and "10/40" in text and "loss 0.6931" in text) is not ci
    assert "a line above the bar" in text
    assert "ended at step 10 of 40" in text


def test_console_and_duration(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    console = Console()
    console.step("align-1", "dpop on helpful: 1,200 pairs")
    console.done("align-1", {"loss": 0.41237, "pairs": 1200, "reference": "reused"}, 192.0)
    first, second = capfd.readouterr().err.splitlines()
    assert first.split(maxsplit=1) == ["align-1", "dpop on helpful: 1,200 pairs"]
    assert second.endswith("done in 3 min 12 s: loss 0.4124, pairs 1,200, reference reused")
    shown = [duration(seconds) for seconds in (0.04, 9.94, 9.96, 59.4, 59.6, 185, 3599.6, 7620)]
    assert shown == ["0.0 s", "9.9 s", "10 s", "59 s", "1 min 00 s", "3 min 05 s", "1 h 00 min", "2 h 07 min"]
