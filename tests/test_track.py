"""Tracking: what reaches the disk, and that nothing about wandb reaches training."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratchet.track.jsonl import JsonLines, read_metrics
from ratchet.track.tracker import open_tracker
from ratchet.track.wandb import flatten

METRICS = {"epoch": 0.5, "loss": math.log(2), "rewards/margins": 0.25, "pairs_per_second": 12.5, "tokens_computed": 123}


# --- JSON lines ---------------------------------------------------------------------------------


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


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


# --- wandb --------------------------------------------------------------------------------------


def _settings(**changes: Any) -> dict[str, Any]:
    values = {
        "project": "ratchet-tests",
        "entity": None,
        "mode": "offline",
        "tags": ["a", "b"],
        "group": "demo",
        "name": "align.1",
        "job_type": "dpop",
        "run_id": "demo-align.1-0f",
        "config": {"model": {"name": "m"}, "stages": {"align": {"beta": 0.3, "betas": [0.9, 0.999]}}},
    }
    return {"wandb": {**values, **changes}}


def test_config_has_dotted_keys() -> None:
    assert flatten({"a": {"b": {}, "c": [1, 2]}, "d": None}) == {"a.b": "{}", "a.c": "[1, 2]", "d": None}


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: LevelDB's log format (7-byte header, 32 KiB blocks)."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # full, or the last of several fragments
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def wandb_run(folder: Path) -> tuple[set[str], dict[int, dict[str, Any]], Any]:
    """Return run ids, history by step and the run record of every offline run below a folder."""
    ids, history, run = set(), {}, None
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in wandb_records(path):
            if record.HasField("run"):
                ids.add(record.run.run_id)
                run = record.run
            if record.HasField("history"):
                line = {
                    (item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item
                }
                history[record.history.step.num] = {k: v for k, v in line.items() if not k.startswith("_")}
    return ids, history, run


def test_offline_wandb_holds_what_metrics_jsonl_holds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = open_tracker(tmp_path / "steps" / "align.1", _settings(folder=str(tmp_path / "wandb")), 0)
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


_TRAIN = """
import json, os, sys, time
from pathlib import Path
from ratchet.track.tracker import open_tracker
folder, settings, resume, steps = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
tracker = open_tracker(folder, settings, resume)
slowest = 0.0
for step in range(resume + 1, steps + 1):
    before = time.perf_counter()
    tracker.log(step, {"loss": 1 / step})
    slowest = max(slowest, time.perf_counter() - before)
    time.sleep(0.02)
if resume == 0 and "die" in sys.argv:
    (folder / "ready").touch()
    time.sleep(60)
tracker.close()
print(slowest)
"""


def _train(
    folder: Path, values: dict[str, Any], resume: int, steps: int, *more: str, **env: str
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _TRAIN, str(folder), json.dumps(values), str(resume), str(steps), *more]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, **env}, **pipes)


@pytest.mark.slow
def test_a_killed_run_goes_on_under_its_id(tmp_path: Path) -> None:
    first = _train(tmp_path, _settings(), 0, 30, "die")
    while not (tmp_path / "ready").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    time.sleep(3)  # for wandb to start in its thread
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = _train(tmp_path, _settings(), 20, 40)
    assert second.communicate()[1] == ""
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 41))
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2
    ids, history, _ = wandb_run(tmp_path)
    assert ids == {"demo-align.1-0f"}
    assert sorted(history) == list(range(1, 41))


@pytest.mark.slow
def test_a_wandb_whose_service_dies_does_not_stop_training(tmp_path: Path) -> None:
    run = _train(tmp_path, _settings(), 0, 300)
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
    out, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert float(out) < 0.25
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 300
    assert err.count("\n") == err.count("wandb is off for the rest of this step") == 1, err


@pytest.mark.parametrize("fault", ["refuses", pytest.param("hangs", marks=pytest.mark.slow), "no key"])
def test_a_wandb_that_fails_neither_stops_nor_slows_training(tmp_path: Path, fault: str) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if fault == "hangs":
            server.listen(50)
        env = {"WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}", "HOME": str(tmp_path)}
        env |= {} if fault == "no key" else {"WANDB_API_KEY": "0" * 40}
        started = time.monotonic()
        run = _train(tmp_path, _settings(mode="online", init_timeout=1.0), 0, 25, **env)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert time.monotonic() - started < 30
    assert float(out) < 0.25
    assert err.count("\n") == 1
    assert "wandb is off for the rest of this step" in err
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 25
