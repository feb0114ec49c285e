"""Whole runs from the command line: what comes out, what is kept, what is refused, what a kill costs."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bits import flip
from ratchet.store.made import hold
from whole_run import Whole, command, environment, metrics, ratchet, record, steps, until, weights, write_plan

pytestmark = pytest.mark.ray
DAMAGED = (
    "store/pairs/*/train.parquet", "store/tokens/*/train.arrow", "store/models/*/model.safetensors",
    "store/logps/*/block-000000.parquet", "store/answers/*.jsonl", "store/scores/*/items.parquet",
    "runs/tiny/orders/align.json",
)  # fmt: skip
"""A file of every kind in the store of a run, less the steps, which would be trained again."""
STEPS = ("warm", "align.1", "align.2", "control", "blend")


@pytest.fixture(scope="module")
def done(whole_run: Whole) -> Path:
    """A folder in which the plan has run to its end."""
    assert whole_run.stdout.splitlines()[-1] == f"report: {whole_run.folder}/out/runs/tiny/report.html"
    return whole_run.folder


def test_every_step_leaves_a_model_that_transformers_loads(done: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for step in STEPS:
        model = steps(done) / step / "model"
        assert AutoModelForCausalLM.from_pretrained(model).num_parameters() > 10_000
        tokenizer = AutoTokenizer.from_pretrained(model)
        text = tokenizer.apply_chat_template([{"role": "user", "content": "What is 1 + 2?"}], tokenize=False)
        assert "1 + 2" in text
        assert (model / "generation_config.json").exists()
        card = (model / "README.md").read_text()
        assert step in card or step == "blend"
        assert not (steps(done) / step / "checkpoints").exists() and not list((steps(done) / step).glob(".*"))
    assert len({weights(done, step) for step in STEPS}) == len(STEPS)


def test_the_merge_is_the_weighted_average(done: Path) -> None:
    from safetensors.numpy import load_file

    blend, align, control = (
        load_file(next((steps(done) / s / "model").glob("*.safetensors"))) for s in ("blend", "align.2", "control")
    )
    for name, tensor in blend.items():
        expected = 0.75 * align[name].astype("float64") + 0.25 * control[name].astype("float64")
        assert abs(tensor - expected).max() <= 1e-6


def test_each_preference_step_starts_at_ln_2_and_saw_each_pair_once(done: Path) -> None:
    for step in ("align.1", "align.2", "control"):
        assert metrics(done, step)[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
        rows = [
            row
            for line in (steps(done) / step / "ledger.jsonl").read_text().splitlines()
            for row in json.loads(line)["rows"]
        ]
        assert sorted(rows) == list(range(record(done, step)["counts"]["pairs"]))


def test_step_2_refers_to_step_1(done: Path) -> None:
    first, second = record(done, "align.1"), record(done, "align.2")
    assert first["inputs"]["start"] == first["inputs"]["reference"] == record(done, "warm")["facts"]["weights"]
    assert second["inputs"]["start"] == second["inputs"]["reference"] == first["facts"]["weights"]
    order = json.loads((done / "out/runs/tiny/orders/align.json").read_text())
    accuracy = {one["chunk"]: one["accuracy"] for one in order["difficulties"]}
    assert accuracy[order["chunks"][0]] >= accuracy[order["chunks"][1]]
    assert first["facts"]["chunk"] == order["chunks"][0]


def test_the_reference_is_scored_once_for_all_that_need_it(done: Path) -> None:
    folders = {path.parent for path in (done / "out/store/logps").glob("*/record.json")}
    identities = [json.loads((folder / "record.json").read_text())["identity"] for folder in folders]
    warm = record(done, "warm")["facts"]["weights"]
    whole = [one for one in identities if one["weights"] == warm and one["split"] == "train" and one["rows"] == "all"]
    assert len(whole) == 2, "one pass over each source, shared by align.1 and control"
    assert set(record(done, "align.1")["facts"]["reference"]["records"]) < set(
        record(done, "control")["facts"]["reference"]["records"]
    )


def test_the_report_is_one_page_with_the_figures_of_the_records(done: Path) -> None:
    page = (done / "out/runs/tiny/report.html").read_text()
    assert "<script src" not in page
    data = json.loads((done / "out/runs/tiny/report.json").read_text())
    assert [step["name"] for step in data["steps"]] == list(STEPS)
    assert {row["model"] for row in data["evaluation"]} == set(STEPS)
    assert all(0 <= row["heldout"][0]["reward_accuracy"] <= 1 for row in data["evaluation"] if row["heldout"])
    seen = {(row["model"], row["source"]): row["seen"] for row in data["gamma"] if row["split"] == "train"}
    assert seen["control", "slips"] is True
    assert seen["warm", "slips"] is False


@dataclass(frozen=True)
class Again:
    """What the command said when it was given once more, and what was there before."""

    said: str
    samples: Any
    sizes: dict[Path, int]
    times: dict[Path, int]


@pytest.fixture(scope="module")
def again(done: Path) -> Again:
    """The same command, given once more over the whole run; it looks at each step, as nothing answers in its place."""
    shutil.rmtree(done / "out/store/answered")
    (steps(done) / "warm/checkpoints/step-000001").mkdir(parents=True)  # a kill came before it could go
    samples = json.loads((done / "out/runs/tiny/report.json").read_text())["samples"]
    sizes = {path: path.stat().st_size for path in (done / "out/store/answers").iterdir()}
    times = {path: path.stat().st_mtime_ns for path in steps(done).glob("*/model/*")}
    found = ratchet(done, "run", "plan.yaml")
    assert found.returncode == 0, found.stderr
    return Again(found.stderr, samples, sizes, times)


def test_what_each_stage_ends_with_answers_five_prompts_and_a_second_call_asks_nothing(
    done: Path, again: Again
) -> None:
    report = done / "out/runs/tiny/report.json"
    before = again.samples
    assert len(before) == 5
    assert all(
        [one["model"] for one in sample["answers"]] == ["base", "warm", "align.2", "control", "blend"]
        for sample in before
    )
    journals = {done / "out" / one["record"] for sample in before for one in sample["answers"]}
    assert journals <= again.sizes.keys()
    assert json.loads(report.read_text())["samples"] == before
    assert {path: path.stat().st_size for path in again.sizes} == again.sizes
    assert f"model: {done}/out/runs/tiny/steps/blend/model" in again.said


def test_show_says_what_is_done(done: Path) -> None:
    shown = ratchet(done, "show", "plan.yaml")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("done on") == len(STEPS)
    changed = ratchet(done, "show", "plan.yaml", "--set", "stages.align.beta=0.5")
    assert "changed stages.align.beta: 0.3 → 0.5" in changed.stdout
    assert "waiting for align.1" in changed.stdout


def test_a_second_run_does_nothing_again(done: Path, again: Again) -> None:
    assert again.said.count("is there already") == len(STEPS)
    assert "pairs scored" not in again.said
    assert not (steps(done) / "warm/checkpoints").exists()
    assert {path: path.stat().st_mtime_ns for path in steps(done).glob("*/model/*")} == again.times


@pytest.mark.slow
def test_damage_in_the_store_is_told_and_made_again_and_changes_no_number(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "copy", symlinks=True)
    folder, before = tmp_path / "copy", numbers(done)
    touched = []
    for pattern in DAMAGED:
        path = max((folder / "out").glob(pattern), key=lambda path: path.stat().st_size)
        flip(path, path.stat().st_size // 2, 2)
        touched.append(path.parent)
    gone = next((folder / "out/store/logps").glob("*/block-*.parquet"))
    gone.unlink()
    again = ratchet(folder, "run", "plan.yaml")
    assert again.returncode == 0, again.stderr
    lines = [line for line in again.stderr.splitlines() if "damaged" in line]
    for part in {*touched, gone.parent}:
        told = [line for line in lines if f"/{part.name} is damaged" in line]
        looked_at = part.name not in {"answers", "orders"}  # asked again, and decided again, where a result is wanted
        assert len(told) == looked_at, lines
    assert gone.exists() and again.stderr.count("is there already") == len(STEPS)
    assert numbers(folder) == before


def numbers(folder: Path) -> Any:
    """What a run came to: its models, and what was measured of them."""
    data = json.loads((folder / "out/runs/tiny/report.json").read_text())
    return {step: weights(folder, step) for step in STEPS}, without_places([data["evaluation"], data["gamma"]])


def without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_places(one) for key, one in value.items() if not key.endswith("record")}
    return [without_places(one) for one in value] if isinstance(value, list) else value


def test_another_plan_on_the_same_run_is_refused_by_key(done: Path) -> None:
    found = ratchet(done, "run", "plan.yaml", "--set", "stages.control.beta=0.7", "--set", "stages.control.batch=8")
    assert found.returncode == 6
    assert "step control was made from something else" in found.stderr
    assert "stages.control.batch: 16 → 8; stages.control.beta: 0.1 → 0.7" in found.stderr
    assert "--fresh" in found.stderr and "add a stage with `after:`" in found.stderr
    assert "starting Ray" not in found.stderr and "score" not in found.stderr


def test_a_second_run_on_the_folder_is_refused(done: Path) -> None:
    with hold(done / "out/runs/tiny"):
        found = ratchet(done, "run", "plan.yaml")
    assert found.returncode == 6
    assert f"another process is using tiny in {done}/out/runs: process {os.getpid()} on " in found.stderr


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("run", "plan.yaml", *arguments), cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start runs of the plan that end with the test, whatever happens."""
    write_plan(tmp_path)
    runs: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        runs.append(start(tmp_path, *arguments))
        return runs[-1]

    yield begin
    for run in runs:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()


@pytest.mark.slow
def test_a_killed_driver_comes_back_as_if_nothing_had_happened(
    done: Path, tmp_path: Path, begun: Callable[..., subprocess.Popen[str]]
) -> None:
    run = begun()
    until(lambda: any((steps(tmp_path) / "align.1" / "checkpoints").glob("step-*/COMMITTED")), run)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    for step in ("align.1", "blend"):  # as if it had been publishing, and merging
        (steps(tmp_path) / step / ".model.0a1b2c3d").mkdir(parents=True)
    found = ratchet(tmp_path, "run", "plan.yaml")
    assert found.returncode == 0, found.stderr
    assert not list(steps(tmp_path).glob("*/.model.*"))
    assert "warm                 is there already" in found.stderr
    assert record(tmp_path, "align.1")["facts"]["training"]["resumed_from"] > 0
    for step in STEPS:
        assert weights(tmp_path, step) == weights(done, step), step
        if step != "blend":
            trained = [line["step"] for line in metrics(tmp_path, step)]
            assert trained == list(range(1, len(trained) + 1))
            assert (steps(tmp_path) / step / "ledger.jsonl").read_text() == (
                steps(done) / step / "ledger.jsonl"
            ).read_text()
