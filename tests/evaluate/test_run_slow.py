"""The long evaluations: the leaderboard's tasks, other judges, and the suites of a plan."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from endpoint_server import serving
from evaluation_run import (
    ACTOR,
    TEXT,
    Grader,
    begun,
    by_task,
    kept,
    rating_of,
    scores_of,
    timeless,
    units,
    write_questions,
)
from ratchet.reference.processes import still_there
from whole_run import SUITE, processes_below, ratchet, steps, until, weights

pytestmark = [pytest.mark.ray, pytest.mark.slow]


# Judges that are no server.


def talk_suite(folder: Path, judge: str) -> None:
    (folder / "talk.yaml").write_text(
        "tasks:\n  talk: {kind: mt_bench, questions: {path: questions}, references: ours, max_new_tokens: 8,\n"
        f"         judge_retries: 0, judge: {judge}}}\n"
    )


def evaluate_talk(folder: Path, model: Path) -> dict[str, Any]:
    found = ratchet(folder, "evaluate", f"tales={model}", "talk.yaml", "--chat-template", "plain", "--storage", "out")
    assert found.returncode == 0, found.stderr
    return by_task(scores_of(folder / "out"), "tales")["talk"]


def test_a_recording_of_a_judge_gives_the_scores_of_the_judge(stories: Path, tmp_path: Path) -> None:
    write_questions(tmp_path / "questions")
    with serving() as server:
        grader = Grader(server)
        talk_suite(tmp_path, f"{{kind: endpoint, base_url: '{server.url}', model: strict, allow_private: true}}")
        live = evaluate_talk(tmp_path, stories)
    asked = list(grader.answered)
    assert len(asked) == 20
    rows = [
        {"judge": ["strict", "single-v1"], "user_prompt": prompt, "judgment": f"So. [[{rating_of(prompt)}]]"}
        for prompt in asked
    ]
    (tmp_path / "recorded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    talk_suite(tmp_path, "{kind: replay, file: recorded.jsonl, judge: strict}")
    replayed = evaluate_talk(tmp_path, stories)
    assert [score["value"] for score in replayed["scores"]] == [score["value"] for score in live["scores"]]
    assert replayed["scores"][0]["value"] == pytest.approx(sum(map(rating_of, asked)) / 20)
    assert replayed["settings"]["judge_how"].startswith("replay of recorded.jsonl, sha256 ")

    (tmp_path / "recorded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[2:]))
    less = evaluate_talk(tmp_path, stories)
    assert less["scores"][0]["value"] is None
    assert sum(less["problems"].values()) == 2


def test_a_model_that_rates_nothing_leaves_no_score(stories: Path, tmp_path: Path) -> None:
    write_questions(tmp_path / "questions", count=3)
    talk_suite(tmp_path, f"{{kind: model, model: {{path: {stories}, chat_template: plain}}}}")
    found = evaluate_talk(tmp_path, stories)
    assert found["scores"][0]["value"] is None
    assert found["scores"][0]["note"].startswith("no score: 6 of 6 judgments are missing")
    assert sum(found["problems"].values()) == 6
    assert found["settings"]["judge"] == stories.name
    assert "weights " in found["settings"]["judge_how"]
    assert len(list((tmp_path / "out/store/answers").glob("judge-*.jsonl"))) == 1


# Suites of a plan.

PLAN = """\
name: tiny
model: {{path: {model}, chat_template: plain}}
data:
  sums: {{generate: {{kind: arithmetic, rows: 60, steps: 2, largest: 20}}, held_out: 0.3}}
  slips:
    generate: {{kind: arithmetic, rows: 60, steps: 2, largest: 20, seed: 1}}
    build: arithmetic_corruption
    held_out: 0.2
  quiz: {{generate: {{kind: arithmetic_quiz, rows: 40, steps: 1, seed: 2}}, build: multiple_choice, held_out: 0.2}}
stages:
  warm: {{kind: sft, data: [sums], batch: 8, learning_rate: 1e-4, max_length: 400}}
  align:
    kind: dpop
    after: warm
    data: [slips, quiz]
    steps: {{by: source, order: easy_to_hard}}
    batch: 8
    learning_rate: 1e-4
    max_length: 400
evaluate:
  - suite.yaml
  - {{suite: text.yaml, models: final, when: end, set: {{tasks.text.window: 32}}}}
cluster: {{token_budget: 1024, max_restarts: 0, storage: out, ray: {{num_cpus: {cpus}}}}}
"""
MODELS = ["base", "warm", "align.1", "align.2"]
TRAINER = "RayTrainWorker"


def planned(folder: Path, model: Path, cpus: int) -> Path:
    (folder / "plan.yaml").write_text(PLAN.format(model=model, cpus=cpus))
    (folder / "suite.yaml").write_text(
        SUITE.replace("rows: 16, max_new_tokens: 32", "rows: 12, max_new_tokens: 96, batch_tokens: 64")
    )
    (folder / "text.yaml").write_text(TEXT)
    return folder


def watched(folder: Path) -> tuple[set[frozenset[str]], str]:
    """Run the plan; return which kinds of processes were seen at once, and what the run said."""
    seen = set()
    with begun(folder, "run", "plan.yaml") as run:
        while run.poll() is None:
            titles = [title for _, title in processes_below(run.pid)]
            kinds = (ACTOR, TRAINER, "BlockScorer")
            seen.add(frozenset(kind for kind in kinds if any(kind in title for title in titles)))
            time.sleep(0.1)
        said = run.communicate()[1]
        assert run.returncode == 0, said
    return seen, said


@pytest.fixture(scope="module")
def alone(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[frozenset[str]]]:
    """A folder in which the plan has run where there is no room beside training."""
    folder = planned(tmp_path_factory.mktemp("alone"), stories, cpus=2)
    return folder, watched(folder)[0]


def run_scores(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out/runs/tiny/scores.json").read_text())
    return found


def test_a_plan_compares_each_step_with_the_base_and_the_one_before(
    alone: tuple[Path, set[frozenset[str]]],
) -> None:
    folder, seen = alone
    assert any(ACTOR in kinds for kinds in seen)
    assert any(TRAINER in kinds for kinds in seen)
    assert not any({ACTOR, TRAINER} <= kinds for kinds in seen), "there was no room for both"
    document = run_scores(folder)
    assert [one["name"] for one in document["models"]] == MODELS
    assert [one["before"] for one in document["models"]] == [None, *MODELS[:-1]]
    asked = {(one["suite"], one["model"]) for one in document["results"]}
    assert asked == {*(("suite.yaml", model) for model in MODELS), ("text.yaml", "base"), ("text.yaml", "align.2")}
    pairs = {(row["suite"], row["model"], row["against"]) for row in document["comparisons"] if row["items"]}
    steps_ = [("warm", "base"), ("align.1", "base"), ("align.1", "warm"), ("align.2", "base"), ("align.2", "align.1")]
    assert pairs == {*(("suite.yaml", *pair) for pair in steps_), ("text.yaml", "align.2", "base")}
    text = {one["model"]: one for one in document["results"] if one["suite"] == "text.yaml"}
    assert text["base"]["settings"]["window"] == 32
    assert text["base"]["scores"][0]["value"] != text["align.2"]["scores"][0]["value"]
    (row,) = [row for row in document["comparisons"] if row["suite"] == "text.yaml" and row["items"]]
    assert row["items"] == text["base"]["scores"][0]["count"]
    page = (folder / "out/runs/tiny/report.html").read_text()
    for word in ("suite.yaml", "text.yaml", "perplexity", "align.2"):
        assert word in page
    (weight,) = {one["weights"] for one in document["models"] if one["name"] == "align.2"}
    record = json.loads((steps(folder) / "align.2" / "record.json").read_text())
    assert weight == record["facts"]["weights"]


def test_a_plan_that_runs_again_computes_nothing(alone: tuple[Path, set[frozenset[str]]]) -> None:
    folder, _ = alone
    before, results, keys = run_scores(folder), kept(folder / "out"), units(folder / "out")
    seen, said = watched(folder)
    assert not frozenset().union(*seen), "a process was started"
    assert not [f"{task} {model}" for task in ("sums", "text") for model in MODELS if f"{task} {model}" in said]
    after = run_scores(folder)
    assert timeless(after) == timeless(before)
    assert all(one["reused"] for one in after["results"])
    assert (kept(folder / "out"), units(folder / "out")) == (results, keys)


def test_with_room_models_are_evaluated_beside_training_with_the_same_results(
    alone: tuple[Path, set[frozenset[str]]], stories: Path, tmp_path: Path
) -> None:
    seen, _ = watched(planned(tmp_path, stories, cpus=6))
    assert any({ACTOR, TRAINER} <= kinds for kinds in seen), "nothing was evaluated while something trained"
    for step in MODELS[1:]:
        assert weights(tmp_path, step) == weights(alone[0], step), step
    assert timeless(run_scores(tmp_path)) == timeless(run_scores(alone[0]))
    assert kept(tmp_path / "out") == kept(alone[0] / "out")
    assert len(units(tmp_path / "out")) == len(set(units(tmp_path / "out")))


def test_a_run_that_is_stopped_beside_an_evaluation_leaves_no_process_and_goes_on(
    alone: tuple[Path, set[frozenset[str]]], stories: Path, tmp_path: Path
) -> None:
    planned(tmp_path, stories, cpus=6)
    with begun(tmp_path, "run", "plan.yaml") as run:
        kinds = (ACTOR, TRAINER)
        until(lambda: all(any(kind in title for _, title in processes_below(run.pid)) for kind in kinds), run)
        below = [pid for pid, _ in processes_below(run.pid)]
        os.kill(run.pid, signal.SIGINT)
        said = run.communicate(timeout=240)[1]
        assert run.returncode, said
        assert "Traceback" not in said
        assert not still_there(below, 60)
    found = ratchet(tmp_path, "run", "plan.yaml")
    assert found.returncode == 0, found.stderr
    assert timeless(run_scores(tmp_path)) == timeless(run_scores(alone[0]))
    assert len(units(tmp_path / "out")) == len(set(units(tmp_path / "out")))
