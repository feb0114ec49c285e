"""A whole plan in one process: everything that a run makes, without Ray and DeepSpeed, and what is refused there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import frames
from ratchet import cli
from whole_run import PLAN, SUITE, environment, record, steps, weights, write_smallest


@pytest.mark.heavy
def test_a_whole_run_needs_no_ray_and_no_deepspeed(tmp_path: Path) -> None:
    write_smallest(tmp_path)
    found = subprocess.run(
        [sys.executable, frames.__file__, "run", "plan.yaml", "--here"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == f"report: {tmp_path}/out/runs/tiny/report.html\n"
    assert "Ray" not in found.stderr and "workers" not in found.stderr
    for step in ("warm", "align", "blend"):
        assert record(tmp_path, step)["facts"]["weights"] and weights(tmp_path, step)
    first = json.loads((steps(tmp_path) / "align/metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.6931, abs=1e-4)
    report = json.loads((tmp_path / "out/runs/tiny/report.json").read_text())
    assert [one["model"] for one in report["samples"][0]["answers"]] == ["base", "warm", "align", "blend"]
    way = frames.way(tmp_path)
    assert way[-1] == "cli.py main" and len(way) <= frames.MOST_FRAMES - 2, "\n".join(way)  # as no thread, no worker
    scores = json.loads((tmp_path / "out/runs/tiny/scores.json").read_text())
    assert [one["name"] for one in scores["models"]] == ["warm", "align", "blend"]


WRONG = {
    "cluster.workers=[2, 4]": "cluster.workers: 2 are as many processes: set it to 1",
    "cluster.deepspeed.zero=2": "cluster.deepspeed.zero: 2 divides a model by DeepSpeed: set it to 0",
    "reference.engine=vllm": "reference.engine: vllm has processes of its own: set it to trainer",
}


@pytest.mark.parametrize("command", ["run", "score"])
def test_what_cannot_be_had_there_is_refused_with_what_to_set(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text(PLAN)
    Path("suite.yaml").write_text(SUITE)
    words = [word for one in WRONG for word in ("--set", one)]
    assert cli.main([command, "plan.yaml", "--here", *words]) == 2
    told = capsys.readouterr().err
    assert all(line in told for line in WRONG.values())
    assert not Path("out").exists() and "loading libraries" not in told


def test_tasks_and_judges_on_vllm_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    suite = yaml.safe_load(SUITE)
    suite["tasks"]["sums"]["engine"] = "vllm"
    Path("plan.yaml").write_text(PLAN)
    Path("suite.yaml").write_text(yaml.safe_dump(suite))
    assert cli.main(["run", "plan.yaml", "--here"]) == 2
    assert "suite.yaml: tasks.sums.engine: vllm has processes of its own" in capsys.readouterr().err
    judge = {"kind": "model", "model": {"path": "m"}, "engine": "vllm"}
    own = {"kind": "mt_bench", "questions": {"path": "questions.jsonl"}, "judge": judge}
    Path("questions.jsonl").write_text("")
    Path("m").mkdir()
    Path("m/config.json").write_text("{}")
    Path("mt.yaml").write_text(yaml.safe_dump({"tasks": {"mt": own}}))
    assert cli.main(["evaluate", "m", "mt.yaml", "--here"]) == 2
    assert "mt.yaml: tasks.mt.judge.engine: vllm has processes of its own" in capsys.readouterr().err
