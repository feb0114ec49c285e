"""wandb: what it is given, and that nothing about it reaches training."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nightly import nightly
from ratchet.track.jsonl import open_tracker, read_metrics
from ratchet.track.wandb import WandbRun, WandbTracker, flatten
from track_example import METRICS, settings_of, wandb_run

pytestmark = pytest.mark.heavy


def test_config_has_dotted_keys() -> None:
    assert flatten({"a": {"b": {}, "c": [1, 2]}, "d": None}) == {"a.b": "{}", "a.c": "[1, 2]", "d": None}


def test_offline_wandb_holds_what_metrics_jsonl_holds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = open_tracker(tmp_path / "steps" / "align.1", settings_of(folder=str(tmp_path / "wandb")), 0)
    for step in range(1, 21):
        tracker.log(step, {**METRICS, "loss": 1 / step})
    tracker.summary({"final/loss": 0.05})
    tracker.close()
    ids, history, run = wandb_run(tmp_path)
    assert ids == {"demo-align.1-0f"}
    lines = read_metrics(tmp_path / "steps" / "align.1" / "metrics.jsonl")
    assert len(lines) == 20
    assert history == {line.pop("step"): line for line in lines}
    assert (run.run_group, run.display_name, run.job_type, run.project) == ("demo", "align.1", "dpop", "ratchet-tests")
    assert list(run.tags) == ["a", "b"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["stages.align.beta"] == 0.3
    assert capfd.readouterr() == ("", "")


def test_tables_reach_offline_wandb_as_they_were_given(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = WandbTracker(WandbRun(**settings_of(folder=str(tmp_path / "wandb"))["wandb"]))
    tracker.log(1, METRICS)
    rows = [["arc", 0.25, None], ["</script>, שלום", None, 3]]
    tracker.table("eval/scores", ("task", "value", "items"), rows)
    tracker.summary({"eval/talk/arc": 0.25})
    tracker.close()
    (path,) = tmp_path.glob("wandb/offline-run-*/files/media/table/eval/scores_*.table.json")
    kept = json.loads(path.read_text())
    assert (kept["columns"], kept["data"]) == (["task", "value", "items"], rows)
    _, history, _ = wandb_run(tmp_path)
    assert any(line.get("eval/scores/nrows") == 2 for line in history.values())
    assert history[1]["loss"] == METRICS["loss"]
    assert capfd.readouterr() == ("", "")


class Stuck:
    """Stands for wandb: it stops at one point until it is let go, and keeps what it is given."""

    Settings = staticmethod(dict)
    teardown = staticmethod(lambda: None)

    def __init__(self) -> None:
        self.at, self.reached, self.go = "init", threading.Event(), threading.Event()
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}

    def _pass(self, point: str) -> None:
        if point == self.at:
            self.reached.set()
            self.go.wait()

    def init(self, **_: Any) -> Stuck:
        self._pass("init")
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self._pass("log")
        self.logged.append({"step": step, **values})

    def finish(self, exit_code: int) -> None:
        self._pass("finish")


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    """A wandb that gets stuck; when the test is over it is let go, and its thread awaited."""
    wandb = Stuck()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    yield wandb
    wandb.go.set()
    for thread in threading.enumerate():
        if thread.name == "ratchet-wandb":
            thread.join(600)


def finished(work: Callable[[], Any]) -> Any:
    """Return what `work` returns, run in a thread: one that waits for a stuck wandb never comes to its end."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(600)
    assert found, "waits for wandb"
    return found[0]


@pytest.mark.parametrize("at", ["init", "log"])
def test_training_goes_on_while_wandb_is_stuck(tmp_path: Path, stuck: Stuck, at: str) -> None:
    stuck.at = at
    tracker = finished(lambda: open_tracker(tmp_path, settings_of(), 0))
    finished(lambda: tracker.log(1, METRICS))
    assert stuck.reached.wait(600)  # and stays there while all that follows is logged
    finished(lambda: [tracker.log(step, METRICS) for step in range(2, 31)])
    finished(lambda: tracker.summary({"final/loss": 0.05}))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 31))
    assert not stuck.logged and not stuck.summary
    stuck.go.set()
    tracker.close()
    assert (stuck.logged, stuck.summary) == (lines, {"final/loss": 0.05})


def test_what_a_stuck_wandb_has_no_room_for_is_dropped_and_told(
    tmp_path: Path, stuck: Stuck, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ratchet.track.wandb._QUEUE", 5)
    tracker = finished(lambda: open_tracker(tmp_path, settings_of(), 0))
    finished(lambda: [tracker.log(step, METRICS) for step in range(1, 13)])
    stuck.go.set()
    tracker.close()
    assert [line["step"] for line in stuck.logged] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 13))
    assert "7 lines did not reach it" in caplog.text


@pytest.mark.parametrize("at", ["init", "finish"])
def test_a_wandb_that_is_stuck_at_the_end_is_left(
    tmp_path: Path, stuck: Stuck, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    monkeypatch.setattr("ratchet.track.wandb._FINISH_SECONDS", -4.9)  # `close` adds 5
    stuck.at = at
    tracker = finished(lambda: open_tracker(tmp_path, settings_of(), 0))
    finished(lambda: tracker.log(1, METRICS))
    finished(tracker.close)
    assert stuck.reached.wait(600)
    assert "was left; metrics.jsonl is complete" in caplog.text
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


_TRAIN = """
import json, sys, time
from pathlib import Path
from ratchet.track.jsonl import open_tracker
folder, settings, resume, steps = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
tracker = open_tracker(folder, settings, resume)
for step in range(resume + 1, steps + 1):
    tracker.log(step, {"loss": 1 / step})
    time.sleep(0.02)
if resume == 0 and "die" in sys.argv:
    (folder / "ready").touch()
    time.sleep(60)
tracker.close()
"""


def _train(
    folder: Path, values: dict[str, Any], resume: int, steps: int, *more: str, **env: str
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _TRAIN, str(folder), json.dumps(values), str(resume), str(steps), *more]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, **env}, **pipes)


@pytest.mark.slow
def test_a_killed_run_goes_on_under_its_id(tmp_path: Path) -> None:
    first = _train(tmp_path, settings_of(), 0, 30, "die")
    while not (tmp_path / "ready").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    time.sleep(3)  # for wandb to start in its thread
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = _train(tmp_path, settings_of(), 20, 40)
    assert second.communicate()[1] == ""
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 41))
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2
    ids, history, _ = wandb_run(tmp_path)
    assert ids == {"demo-align.1-0f"}
    assert sorted(history) == list(range(1, 41))


@pytest.mark.slow
def test_a_wandb_whose_service_dies_does_not_stop_training(tmp_path: Path) -> None:
    run = _train(tmp_path, settings_of(), 0, 300)
    service: list[int] = []
    while not service:
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # a process that ended meanwhile
                name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
                if name.startswith("wandb-core") and int(rest.split()[1]) == run.pid:
                    service.append(int(stat.parent.name))
    time.sleep(1)
    os.kill(service[0], signal.SIGKILL)
    _, err = run.communicate()
    assert run.returncode == 0, err
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 300
    assert err.count("\n") == err.count("wandb is off for the rest of this step") == 1, err


@pytest.mark.parametrize("fault", nightly(["refuses", "hangs", "no key"], lambda fault: fault == "no key"))
def test_a_wandb_that_fails_stops_neither_training_nor_its_end(tmp_path: Path, fault: str) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if fault == "hangs":
            server.listen(50)
        env = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}", "HOME": str(tmp_path)}
        env |= {} if fault == "no key" else {"WANDB_API_KEY": "0" * 40}
        run = _train(tmp_path, settings_of(mode="online", init_timeout=1.0), 0, 25, **env)
        _, err = run.communicate()  # it ends while the server still hangs
    assert run.returncode == 0, err
    assert err.count("\n") == 1
    assert "wandb is off for the rest of this step" in err
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 25
