"""Whole runs with vLLM as the engine of the reference, from the command line and on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ratchet.reference.processes import still_there
from ratchet.store.record import read_record
from vllm_bench import needs_vllm
from whole_run import command, environment, processes_below, ratchet, record, steps, titles_below
from wide_heads import widen_heads

pytestmark = needs_vllm

PLAN = """\
name: tiny
model: {path: MODEL, dtype: DTYPE, chat_template: plain}
data:
  slips:
    generate: {kind: arithmetic, rows: ROWS, steps: 2, largest: 20, seed: 1}
    build: arithmetic_corruption
    held_out: 0.1
reference: {engine: vllm, sample: 32, otherwise: OTHERWISE}
stages:
  align:
    kind: dpop
    data: [slips]
    steps: {by: count, count: 2}
    lora: {rank: 4}
    batch: 32
    learning_rate: 1e-3
    max_length: 200
  whole: {kind: dpo, data: [slips], batch: 32, learning_rate: 1e-4, max_length: 200, max_steps: 2}
evaluate: [suite.yaml]
cluster: {token_budget: 1024, storage: out}
"""
SUITE = """\
tasks:
  own: {kind: exact_match, source: slips, pattern: '(\\w+)', rows: 12, max_new_tokens: 24}
  theirs: {kind: exact_match, source: slips, pattern: '(\\w+)', rows: 12, max_new_tokens: 24, engine: vllm,
           batch_tokens: 400}
"""


@pytest.fixture(scope="module")
def model(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return widen_heads(stories, tmp_path_factory.mktemp("wide"), 32)


def write(folder: Path, model: Path, rows: int = 300, dtype: str = "float32", otherwise: str = "refuse") -> Path:
    text = PLAN.replace("MODEL", str(model)).replace("ROWS", str(rows)).replace("DTYPE", dtype)
    (folder / "suite.yaml").write_text(SUITE)
    (folder / "plan.yaml").write_text(text.replace("OTHERWISE", otherwise))
    return folder


class Watch:
    """Notes which of Ray's processes are alive at the same time."""

    def __init__(self) -> None:
        self.seen: set[tuple[bool, bool]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            names = titles_below(os.getpid())
            self.seen.add((any("BlockScorer" in name for name in names), any("TrainWorker" in name for name in names)))


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watch]:
    folder = write(tmp_path_factory.mktemp("run"), model)
    with Watch() as watch:
        found = ratchet(folder, "run", "plan.yaml")
    assert found.returncode == 0, found.stderr[-3000:]
    return folder, watch


@pytest.mark.slow
def test_a_run_refers_to_vllm_s_scores_and_starts_at_ln_2(done: tuple[Path, Watch]) -> None:
    folder, _ = done
    for step in ("align.1", "align.2", "whole"):
        facts = record(folder, step)["facts"]
        found = facts["reference"]["calibration"]
        assert facts["reference"]["engine"].startswith("vllm 0.")
        assert found["passed"] and found["pairs"] == 32 and 0 < abs(found["chosen"]["worst"]) < 1e-3
        assert abs(facts["training"]["first"]["loss"] - 0.693147) < 0.01
        for scores in facts["reference"]["records"]:
            identity = read_record(Path(scores)).identity  # type: ignore[union-attr]
            adapter = ", adapter" if step == "align.2" else ""
            assert identity["engine"] == facts["reference"]["engine"] + adapter
            assert (identity["dtype"], identity["quantise"]) == ("float32", None)


@pytest.mark.slow
def test_vllm_writes_the_answers_that_transformers_writes(done: tuple[Path, Watch]) -> None:
    folder, _ = done
    for name in ("base", "align.2"):
        scores = json.loads((folder / "out/runs/tiny/scores" / f"{name}.json").read_text())["exact_match"]
        own, theirs = ([example["answer"] for example in one["examples"]] for one in scores)
        assert own == theirs and any(answer.strip() for answer in own)
        journal = (folder / "out/runs/tiny/answers" / f"{name}.jsonl").read_text().splitlines()
        assert len(journal) == 12


@pytest.mark.slow
def test_engines_are_gone_before_training_starts(done: tuple[Path, Watch]) -> None:
    _, watch = done
    assert (True, False) in watch.seen and (False, True) in watch.seen
    assert (True, True) not in watch.seen


def test_a_killed_pass_goes_on_with_the_blocks_that_are_missing(model: Path, tmp_path: Path) -> None:
    write(tmp_path, model, rows=1600)
    process = subprocess.Popen(
        command("score", "plan.yaml"), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    first = until(lambda: whole_blocks(tmp_path), process)
    orphans = [pid for pid, title in processes_below(process.pid) if "BlockScorer" in title]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert still_there(orphans, 200) == []  # Ray ends them once their driver is gone
    before = {path: path.stat().st_mtime_ns for path in whole_blocks(tmp_path)}
    assert first and len(before) < 6
    found = ratchet(tmp_path, "score", "plan.yaml")
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.splitlines()[-1].startswith("scored: ") and "align.2" in found.stdout
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    folder = next(iter(before)).parent
    ids = [row for path in sorted(folder.glob("block-*.parquet")) for row in pq.read_table(path)["pair_id"].to_pylist()]
    assert len(ids) == len(set(ids)) == read_record(folder).counts["pairs"]  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_scoring_process_that_is_killed_is_replaced(model: Path, tmp_path: Path) -> None:
    write(tmp_path, model, rows=1600)
    process = subprocess.Popen(
        command("score", "plan.yaml"), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until(lambda: whole_blocks(tmp_path), process)
    victims = [pid for pid, title in processes_below(process.pid) if "BlockScorer" in title]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert victims and process.returncode == 0, errors[-3000:]
    for folder in (path.parent for path in (tmp_path / "out/store/logps").glob("*/record.json")):
        ids = [
            row for path in sorted(folder.glob("block-*.parquet")) for row in pq.read_table(path)["pair_id"].to_pylist()
        ]
        assert len(ids) == len(set(ids)) == read_record(folder).counts["pairs"]  # type: ignore[union-attr]


@pytest.mark.slow
def test_auto_leaves_to_the_trainer_what_vllm_does_not_take(stories: Path, tmp_path: Path) -> None:
    write(tmp_path, stories, rows=60)  # heads 8 wide, which vLLM's attention does not have on a CPU
    refused = ratchet(tmp_path, "score", "plan.yaml")
    assert refused.returncode == 4 and "head_dim=8" in refused.stderr and "reference.engine" in refused.stderr
    found = ratchet(tmp_path, "score", "plan.yaml", "--set", "reference.engine=auto")
    assert found.returncode == 0, found.stderr[-3000:]
    identities = [read_record(path.parent).identity for path in (tmp_path / "out/store/logps").glob("*/record.json")]  # type: ignore[union-attr]
    assert {identity["engine"] for identity in identities} == {"trainer"}


@pytest.mark.slow
def test_scores_that_are_too_far_off_are_refused_or_made_again(model: Path, tmp_path: Path) -> None:
    write(tmp_path, model, rows=100, dtype="bfloat16")
    refused = ratchet(tmp_path, "score", "plan.yaml")
    assert refused.returncode == 5
    assert "stages.align: vllm" in refused.stderr and "too differently for dpop" in refused.stderr
    assert "nats (worst" in refused.stderr and "reference.otherwise" in refused.stderr
    write(tmp_path, model, rows=100, dtype="bfloat16", otherwise="rescore")
    again = ratchet(tmp_path, "run", "plan.yaml", "--set", "stages.align.max_steps=1")
    assert again.returncode == 0, again.stderr[-3000:]
    found = record(tmp_path, "align.1")["facts"]["reference"]
    assert found["engine"] == "trainer" and not found["calibration"]["passed"]
    assert record(tmp_path, "whole")["facts"]["reference"]["engine"].startswith("vllm")  # dpo bears it
    report = json.loads((steps(tmp_path).parent / "report.json").read_text())
    assert any("the trainer scores it" in warning for warning in report["warnings"])


def whole_blocks(folder: Path) -> list[Path]:
    """Return the blocks of the largest score folder that is being written by vLLM."""
    folders = {path.parent for path in (folder / "out").glob("store/logps/*/block-000001.parquet")}
    return sorted(next(iter(folders)).glob("block-*.parquet")) if folders else []


def until(condition: Callable[[], Any], process: subprocess.Popen[bytes] | None) -> Any:
    """Return what `condition` gives as soon as it is true."""
    for _ in range(2400):
        if found := condition():
            return found
        assert process is None or process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.1)
    raise AssertionError("it did not happen")
