"""What a trial writes down of its end, once, whatever end it is; what a scheduler and a resumed sweep make of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sweep_run
from raised import raises
from ratchet.documents.sweep import Value
from ratchet.documents.trial import TrialEnd, TrialStep
from ratchet.errors import ClusterError, RatchetError, StoppedError, TrainingError, error_from
from ratchet.plan.load import load_plan
from ratchet.plan.space import Scheduler
from ratchet.store.files import write_json, write_json_once
from ratchet.store.lease import leased
from ratchet.store.record import Record, write_record
from ratchet.track.jsonl import JsonLines
from ratchet.tune.process import Progress, end_from_outside, raise_if_told, tell, work
from ratchet.tune.ray_trials import scheduler_of
from ratchet.tune.trial import TASK, TrialTask, end_trial, made_steps, read_end, run_trial, write_point
from ratchet.tune.watch import TrialStop

METRIC = "align/heldout/accuracy"


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialTask:
    monkeypatch.chdir(tmp_path)
    sweep_run.write_files(tmp_path, sweep_run.BETAS)
    plan = load_plan(Path("plan.yaml")).model_copy(update={"name": "t1"})
    point = {"stages.align.beta": 0.1}
    made = TrialTask("tiny-betas", "t1", 1, point, "p1", None, "grid", plan, "", str(tmp_path), (METRIC,))
    write_point(made)
    return made


def found(value: float | None) -> dict[str, Value]:
    return {METRIC: Value(value)}


def raising(error: Exception) -> Callable[[], dict[str, Any]]:
    def run() -> dict[str, Any]:
        raise error

    return run


def kept(task: TrialTask) -> TrialEnd:
    end = read_end(task.folder)
    assert end is not None
    return end


def test_a_trial_with_all_its_objectives_has_finished_and_is_not_run_again(task: TrialTask) -> None:
    assert run_trial(task, lambda: found(0.5), "p/run").status == "finished"
    assert (kept(task).metrics, kept(task).wandb) == (found(0.5), "p/run")
    assert run_trial(task, raising(AssertionError())).status == "finished"


@pytest.mark.parametrize("metrics", [{}, {METRIC: Value(None)}])
def test_a_trial_without_its_objective_has_failed_and_says_which(task: TrialTask, metrics: dict[str, Value]) -> None:
    end = run_trial(task, lambda: metrics)
    assert end.status == "failed" and METRIC in end.why


def test_what_a_trial_failed_of_is_written_down_and_can_be_raised_again(task: TrialTask) -> None:
    error = TrainingError("the loss is not finite", where="step align", fix="lower the rate")
    end = run_trial(task, raising(error))
    assert end.status == "failed" and end.reason is not None
    again = error_from(end.reason)
    assert (type(again), again.args) == (TrainingError, error.args)
    assert run_trial(task, lambda: found(0.5)) == end  # the same point would fail again


def test_a_trial_that_failed_of_its_machine_is_run_again(task: TrialTask) -> None:
    assert run_trial(task, raising(ClusterError("a worker ran out of memory"))).status == "failed"
    assert run_trial(task, lambda: found(0.5)).status == "finished" == kept(task).status


@pytest.mark.parametrize("error", [ZeroDivisionError(), StoppedError("asked to stop by SIGTERM")])
def test_what_is_no_end_of_the_trial_leaves_it_unfinished(task: TrialTask, error: Exception) -> None:
    with pytest.raises(type(error)):
        run_trial(task, raising(error))
    assert not (task.folder / "trial.json").exists()
    assert run_trial(task, lambda: found(0.5)).status == "finished"


def test_all_trials_of_a_sweep_hear_that_it_was_asked_to_stop(task: TrialTask) -> None:
    both = [task, dataclasses.replace(task, name="t2")]
    assert [one.asked() for one in both] == [None, None]
    write_json(task.folder.parent.parent / "pause.json", {"what": "asked to stop by SIGTERM"})
    assert [one.asked() for one in both] == ["asked to stop by SIGTERM"] * 2


@pytest.mark.parametrize("held", [True, False])
def test_a_trial_of_a_sweep_that_stops_does_not_begin(task: TrialTask, held: bool) -> None:
    """Nor does it wait for a process that is still at it."""
    with leased(task.lease, what="x") if held else contextlib.nullcontext(), ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, task, lambda line: None, lambda: "asked to stop by SIGTERM")
        with raises("stopped.asked", "SIGTERM"):
            working.result()
    assert not (task.folder / "trial.json").exists() and not (task.folder / "wandb").exists()


def test_an_end_seen_from_outside_does_not_replace_the_trials_own(task: TrialTask) -> None:
    run_trial(task, lambda: found(0.5))
    end, run = end_from_outside(task, "stopped", {"kind": "Stopped", "what": "did worse"})
    assert (end.status, run) == ("finished", None)
    other = dataclasses.replace(task, name="t2")
    end, _ = end_from_outside(other, "stopped", {"kind": "Stopped", "what": "did worse"})
    assert end.status == "stopped" and kept(other).why == "did worse"


def test_of_two_ends_at_one_moment_one_stands(task: TrialTask) -> None:
    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(lambda n: end_trial(task, "failed", seconds=float(n)), range(16)))
    assert len({one.seconds for one in ends}) == 1 == len([kept(task)])
    assert kept(task) in ends


def test_a_file_is_written_once_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "once.json"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: write_json_once(path, n), range(32)))
    assert won.count(True) == 1 and json.loads(path.read_text()) == won.index(True)
    assert list(tmp_path.iterdir()) == [path]


def test_steps_are_the_links_with_a_record_and_none_that_is_being_made(tmp_path: Path) -> None:
    folder, store = tmp_path / "trial/steps", tmp_path / "store/f1"
    folder.mkdir(parents=True)
    facts = {"chunk": "a", "start": "start", "made_by": "sweep/t1"}
    write_record(
        store, Record("step", "f1", {"kind": "dpo"}, {"pairs_seen": 3}, "2026-11-21T10:00:00Z", 2.5, {}, facts)
    )
    (folder / "align.1").symlink_to(store)
    (folder / ".align.1.0123abcd").symlink_to(store)
    (folder / "align.2").mkdir()
    (made,) = made_steps(folder.parent)
    assert made == TrialStep(
        "f1", "align.1", "dpo", "a", None, "sweep/t1", "2026-11-21T10:00:00Z", pairs=3, seconds=2.5
    )


def test_progress_counts_on_over_the_steps_of_its_stage_and_skips_lines_without_the_metric(
    task: TrialTask, tmp_path: Path
) -> None:
    told: list[dict[str, Any]] = []
    lines = JsonLines(tmp_path / "progress.jsonl", 0)
    progress = Progress(task, "align/train/heldout/loss", lines, lambda line: told.append(dict(line)))
    for step, n, value in (("warm", 1, 9.0), ("align.1", 1, None), ("align.1", 2, 0.7), ("align.2", 1, 0.6)):
        progress.line(step, {"step": n, "loss": 1.0, **({} if value is None else {"heldout/loss": value})})
    progress.line("align.2", {"step": 2, "heldout/loss": None})  # not finite: no scheduler can compare it
    lines.close()
    wanted = [{"step": 2, "align/train/heldout/loss": 0.7}, {"step": 3, "align/train/heldout/loss": 0.6}]
    assert told == wanted
    assert [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()] == wanted


class _Trial:
    def __init__(self, task: TrialTask) -> None:
        self.trial_id, self.config = task.name, {TASK: task}


def ended(scheduler: Any, task: TrialTask, rows: dict[str, list[tuple[int, float]]]) -> dict[str, int]:
    """Tell a scheduler of trials one after another; return after which step each was told to end, if it was."""
    found: dict[str, int] = {}
    for name, lines in rows.items():
        mine = dataclasses.replace(task, name=name)
        trial = _Trial(mine)
        scheduler.on_trial_add(None, trial)
        for n, value in lines:
            assert scheduler.on_trial_result(None, trial, {"step": n, "m": value}) == "CONTINUE"  # Ray ends no process
            try:
                raise_if_told(mine)
            except TrialStop as stop:
                found.setdefault(name, n)
                assert str(stop) == f"did worse than others at step {found[name]}"
    return found


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_a_scheduler_that_is_told_of_earlier_trials_decides_as_if_it_had_seen_them(
    tmp_path: Path, task: TrialTask, kind: str
) -> None:
    draw = np.random.default_rng(0)
    rows = {f"t{n}": [(step, float(draw.normal() - 5 * (n % 5 == 4))) for step in range(1, 31)] for n in range(12)}
    settings = Scheduler.model_validate({"kind": kind, "metric": "m", "mode": "max", "grace": 4})
    live = ended(scheduler_of(settings, []), dataclasses.replace(task, sweep="live"), rows)
    first, last = dict(list(rows.items())[:8]), dict(list(rows.items())[8:])
    for name, lines in first.items():
        (tmp_path / name).mkdir()
        text = "".join(json.dumps({"step": step, "m": value}) + "\n" for step, value in lines)
        (tmp_path / name / "progress.jsonl").write_text(text)
    told = ended(
        scheduler_of(settings, [tmp_path / name for name in first]), dataclasses.replace(task, sweep="b"), last
    )
    assert told == {name: live[name] for name in last if name in live}
    assert told


def test_asha_lets_the_best_third_go_on_at_each_rung(task: TrialTask) -> None:
    """Li et al. 2020, algorithm 2: the top 1/η of those that came to the rung so far, by percentile."""
    values = np.random.default_rng(1).normal(size=30).tolist()
    settings = Scheduler.model_validate({"kind": "asha", "metric": "m", "mode": "min", "grace": 5, "reduction": 3})
    told = ended(scheduler_of(settings, []), task, {f"t{n}": [(5, value)] for n, value in enumerate(values)})
    for n, value in enumerate(values):
        stopped = n > 0 and -value < np.percentile([-one for one in values[:n]], 100 * (1 - 1 / 3))
        assert (f"t{n}" in told) == stopped


def test_no_scheduler_ends_nothing(task: TrialTask) -> None:
    assert scheduler_of(None, []).on_trial_result(None, _Trial(task), {"step": 1, "m": 0.0}) == "CONTINUE"


def test_a_trial_that_was_told_to_end_has_stopped_whatever_its_training_says(task: TrialTask) -> None:
    tell(task, "did worse than others at step 3")
    end = run_trial(task, raising(TrainingError("ended after step 4, as it was told to")))
    assert (end.status, end.why) == ("stopped", "did worse than others at step 3")


def test_a_reason_of_an_unknown_kind_is_an_error_all_the_same() -> None:
    assert type(error_from({"kind": "Stopped", "what": "x", "where": "", "fix": ""})) is RatchetError


def test_a_damaged_end_is_no_end_and_the_trial_runs_again(task: TrialTask, caplog: pytest.LogCaptureFixture) -> None:
    end_trial(task, "finished", metrics=found(0.5))
    path = task.folder / "trial.json"
    path.write_text(path.read_text().replace('"value": 0.5', '"value": 0.9'))
    assert read_end(task.folder) is None and "counts as unfinished, and runs again" in caplog.text
    again = run_trial(task, lambda: found(0.5))
    assert read_end(task.folder) == again and again.metrics[METRIC].value == 0.5
    path.write_text(path.read_text().replace('"value": 0.5', '"value": 0.9'))
    assert end_trial(task, "failed") == read_end(task.folder)
    point = write_point(task)
    assert write_point(task) == point
    (task.folder / "point.json").write_text("{}")
    with raises("corrupt.document"):
        write_point(task)
