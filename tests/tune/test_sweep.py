"""A sweep's folder: whose trials it holds, what `--fresh` does, and what is written of points that the plan refuses."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

import sweep_run
from raised import raises
from ratchet.documents.sweep import Value
from ratchet.errors import PlanError
from ratchet.pipeline.answered import answer_in
from ratchet.store.codec import to_values
from ratchet.store.files import read_sealed
from ratchet.store.layout import layout_at
from ratchet.track.progress import Console
from ratchet.tune import sweep as module
from ratchet.tune.background import Clock, Pages
from ratchet.tune.choose import Chosen
from ratchet.tune.definition import Sweep, keep_answer_of_sweep, open_sweep, sweep_question
from ratchet.tune.points import SeededPoint
from ratchet.tune.process import tell, work
from ratchet.tune.trial import end_trial, write_point
from whole_run import loaded_by

BETA = "stages.align.beta"


@pytest.fixture
def betas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.chdir(tmp_path)
    return asked(tmp_path)


def asked(folder: Path, space: str = sweep_run.BETAS, plan: str = sweep_run.PLAN) -> Sweep:
    sweep_run.write_files(folder, space, plan)
    found = open_sweep(Path("plan.yaml"), Path("space.yaml"))
    found.folder.mkdir(parents=True, exist_ok=True)
    return found


def claim(sweep: Sweep, *, fresh: bool = False) -> None:
    module._claim(sweep, Console(), fresh=fresh)


def begin(sweep: Sweep, beta: float = 0.1) -> Path:
    task = sweep.task(Chosen(SeededPoint({BETA: beta}), 1, "grid"))
    write_point(task)
    return task.folder


def test_budget_search_and_objectives_may_change_and_keys_and_plan_may_not(betas: Sweep, tmp_path: Path) -> None:
    claim(betas)
    more = sweep_run.BETAS + "budget: {trials: 2}\nat_once: 1\n"
    claim(asked(tmp_path, more.replace("align/heldout/accuracy", "align/heldout/margin")))
    with raises("run.other-plan") as caught:
        claim(asked(tmp_path, sweep_run.BETAS.replace("1.0", "2.0")))
    assert "space.keys" in str(caught.value)
    with raises("run.other-plan") as caught:
        claim(asked(tmp_path, plan=sweep_run.PLAN.replace("data: [sums], batch: 32", "data: [sums], batch: 16")))
    assert "plan.stages.warm.batch: 32 → 16" in str(caught.value)
    claim(asked(tmp_path, plan=sweep_run.PLAN.replace("token_budget: 512", "token_budget: 256")))


def test_other_rows_of_a_source_are_another_sweep(betas: Sweep, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} + 1 =", "chosen": str(n + 1), "rejected": str(n)} for n in range(30)]
    path = tmp_path / "more.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    generated = (
        "more: {generate: {kind: arithmetic_quiz, rows: 30, steps: 2, seed: 3}, build: multiple_choice, held_out: 0.2}"
    )
    plan = sweep_run.PLAN.replace(generated, "more: {path: more.jsonl, held_out: 0.2}")
    claim(asked(tmp_path, plan=plan))
    path.write_text(path.read_text().replace("29 + 1", "28 + 2"))
    with raises("run.other-plan") as caught:
        claim(asked(tmp_path, plan=plan))
    assert "sources.more" in str(caught.value)


def test_fresh_puts_all_aside_and_a_kill_in_the_middle_mixes_nothing(
    betas: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(betas)
    begin(betas)
    other = asked(tmp_path, sweep_run.BETAS.replace("1.0", "2.0"))
    rename, moved = Path.rename, []

    def killed(self: Path, target: Path) -> Path:
        moved.append(self.name)
        if len(moved) == 3:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        claim(other, fresh=True)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with raises("run.other-plan"):
        claim(other)
    claim(other, fresh=True)
    assert not list(other.folder.glob("trials/*"))
    assert len(list(tmp_path.glob("out/sweeps/tiny-betas.*/trials/*"))) == 1


def test_trials_that_nothing_is_known_of_are_not_adopted(betas: Sweep) -> None:
    claim(betas)
    begin(betas)
    (betas.folder / "identity.json").unlink()
    with raises("run.unowned"):
        claim(betas)


def test_a_point_between_the_ends_that_the_plan_refuses_is_recorded(betas: Sweep, tmp_path: Path) -> None:
    space = """\
name: sizes
keys: {model.scratch.hidden_size: {randint: [32, 128]}}
objectives: {align/heldout/accuracy: max}
search: {by: random}
budget: {trials: 2}
"""
    sizes = asked(tmp_path, space)
    chosen = Chosen(SeededPoint({"model.scratch.hidden_size": 45}), 1, "random")
    with pytest.raises(PlanError) as refused:
        sizes.task(chosen)
    document = module.reject(sizes.impossible(chosen), refused.value)
    assert document.status == "failed" and document.reason is not None and document.reason["kind"] == "PlanError"
    kept = sizes.folder / "trials" / chosen.trial.trial_id / "trial.json"
    assert read_sealed(kept) == to_values(document)


def test_what_every_trial_has_is_in_the_sweeps_plan(betas: Sweep, tmp_path: Path) -> None:
    found = asked(tmp_path, sweep_run.BETAS + "set: {cluster.workers: 2}\nunset: [stages.align.checkpoint]\n")
    assert found.plan.cluster.workers == 2 and found.plan.stages["align"].checkpoint.every == 100
    assert found.task(Chosen(SeededPoint({BETA: 0.1}), 1, "grid")).plan.cluster.workers == 2


def test_a_trial_that_has_ended_is_left_as_it_is(betas: Sweep) -> None:
    claim(betas)
    task = betas.task(Chosen(SeededPoint({BETA: 0.1}), 1, "grid"))
    write_point(task)
    (task.folder / "progress.jsonl").write_text('{"step": 1}\n')
    ended = end_trial(task, "finished", metrics={})
    assert work(task, lambda line: None) == ended
    assert (task.folder / "progress.jsonl").read_text() == '{"step": 1}\n'


@pytest.mark.heavy
def test_a_sweep_whose_trials_have_ended_is_answered_from_their_documents(betas: Sweep, tmp_path: Path) -> None:
    claim(betas)
    accuracy = {"align/heldout/accuracy": Value(0.5, 0.1)}
    for number, beta in enumerate((0.1, 0.3, 1.0), 1):
        task = betas.task(Chosen(SeededPoint({BETA: beta}), number, "grid"))
        write_point(task)
        end_trial(task, "finished", metrics=accuracy)
    question, layout = sweep_question(betas), layout_at(betas.plan.cluster.storage)
    assert answer_in(layout, betas.folder, question) is None
    page, _ = module.run_sweep(betas, asked=question)
    said = answer_in(layout, betas.folder, question)
    assert said is not None and said["report"] == str(page)
    loaded = loaded_by(tmp_path, "sweep", "plan.yaml", "space.yaml")
    assert not {"torch", "ray", "matplotlib", "transformers", "scipy"} & loaded
    for path in (page, task.folder / "trial.json", task.folder / "point.json", betas.folder / "sweep.json"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b" ")
        assert answer_in(layout, betas.folder, question) is None, path
        path.write_bytes(whole)
    assert answer_in(layout, betas.folder, question) is not None
    other = asked(tmp_path, sweep_run.BETAS + "budget: {trials: 2}\n")
    assert answer_in(layout, other.folder, sweep_question(other)) is None


@pytest.mark.heavy
@pytest.mark.parametrize(("kind", "repeated"), [("StorageError", True), ("TrainingError", False)])
def test_a_sweep_with_a_trial_to_repeat_is_never_done(betas: Sweep, kind: str, repeated: bool) -> None:
    claim(betas)
    reason = {"kind": kind, "what": "the disk is full", "where": "", "fix": ""}
    for number, beta in enumerate((0.1, 0.3, 1.0), 1):
        task = betas.task(Chosen(SeededPoint({BETA: beta}), number, "grid"))
        write_point(task)
        if number < 3:
            end_trial(task, "finished", metrics={"align/heldout/accuracy": Value(0.5, 0.1)})
    end_trial(task, "failed", reason=reason)
    question = sweep_question(betas)
    page, outcome = module.write_page(betas, 1.0)
    assert [one.grave for one in outcome.diagnoses if one.of.endswith(task.name)] != [True]
    keep_answer_of_sweep(betas, question, page, outcome)
    found = answer_in(layout_at(betas.plan.cluster.storage), betas.folder, question)
    assert (found is None) == repeated


def test_a_trial_that_was_told_to_end_before_its_driver_was_killed_ends_without_training(betas: Sweep) -> None:
    claim(betas)
    task = betas.task(Chosen(SeededPoint({BETA: 0.1}), 1, "grid"))
    write_point(task)
    tell(task, "did worse than others at step 4")
    document = work(task, lambda line: None)
    assert (document.status, document.why) == ("stopped", "did worse than others at step 4")
    assert not (task.folder / "steps").exists()


def test_time_is_added_up_over_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    for seconds, before in ((5.0, 0.0), (7.0, 5.0)):
        with Clock(tmp_path / "calls.json") as mine:
            assert mine.before == before
            clock[0] += seconds
    assert [call["seconds"] for call in json.loads((tmp_path / "calls.json").read_text())] == [5.0, 7.0]


def test_a_page_that_cannot_be_written_does_not_end_the_next_ones(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []
    written = [threading.Event(), threading.Event()]

    def write() -> None:
        calls.append(len(calls))
        written[calls[-1]].set()
        if len(calls) == 1:
            raise KeyError("a number")

    with Pages(write) as pages:
        for event in written:
            pages.ask()
            assert event.wait(600)
    assert calls == [0, 1] and "page could not be written" in caplog.text
