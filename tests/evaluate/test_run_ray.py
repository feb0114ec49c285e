"""Evaluations from the command line: what comes out, what a kill costs, what is asked again and what is not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from endpoint_server import Server, serving
from evaluation_run import (
    ACTOR,
    SMALL,
    TEXT,
    Grader,
    actors_of,
    answers,
    asked,
    begun,
    by_task,
    kept,
    lines,
    rating_of,
    scores_files,
    scores_of,
    suite_in,
    timeless,
    units,
    write_questions,
)
from harness_example import own_task
from ratchet.reference.processes import still_there
from tests.conftest import SHARED
from whole_run import processes_below, ratchet, until

pytestmark = pytest.mark.ray
SLOW_TO_GO = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own, which hold no model; they see only after a minute or two that their Ray was killed."""


@pytest.fixture(scope="module")
def straight(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one process has put the story model through the small suite."""
    folder = tmp_path_factory.mktemp("straight")
    (folder / "small.yaml").write_text(SMALL)
    found = ratchet(folder, *asked(stories))
    assert found.returncode == 0, found.stderr
    assert found.stdout == f"report: {scores_files(folder / 'out')[0].with_name('report.html')}\n"
    return folder


def assert_same(storage: Path, straight: Path) -> None:
    """Compare all results, items and figures of an evaluation, and what it computed, with those of another."""
    assert kept(storage) == kept(straight / "out")
    assert timeless(scores_of(storage)) == timeless(scores_of(straight / "out"))
    assert sorted(units(storage)) == sorted(units(straight / "out"))
    assert len(set(units(storage))) == len(units(storage)), "a unit was computed twice"
    said, before = (
        {line["key"]: line for some in answers(of).values() for line in some} for of in (storage, straight / "out")
    )
    assert said == before


def test_a_suite_has_its_scores_items_and_report(straight: Path) -> None:
    document = scores_of(straight / "out")
    found = by_task(document, "tales")
    assert list(found) == ["small-sums", "word-letters", "text", "overlap", "feelings"]
    # The published model has learnt such texts; one of random weights is as unsure as a guess among its 512 tokens.
    least, most = (2, 100) if (SHARED / "stories260K").is_dir() else (450, 600)
    assert least < found["text"]["scores"][0]["value"] < most
    assert found["feelings"]["scores"][0]["value"] is None
    assert "0 of 10 parsed" in found["feelings"]["scores"][0]["note"]
    assert sum(found["feelings"]["problems"].values()) == 10
    assert all((scores_files(straight / "out")[0].parent / one["items"]).is_file() for one in found.values())
    both = [found[task]["scores"][0]["value"] for task in ("small-sums", "word-letters")]
    assert [one["value"] for one in document["averages"]] == [pytest.approx(sum(both) / 2)]
    assert len(units(straight / "out")) > 20
    assert "small-sums" in scores_files(straight / "out")[0].with_name("report.html").read_text()


@pytest.mark.slow  # the default tier has a task that fails alone
def test_tasks_that_cannot_be_asked_fail_alone(straight: Path, stories: Path, tmp_path: Path) -> None:
    shutil.copytree(straight / "out", tmp_path / "out")
    own_task(tmp_path / "shots", num_fewshot=9)
    own_task(tmp_path / "program", process_results="PROGRAM")
    definition = tmp_path / "program" / "mine.yaml"
    definition.write_text(definition.read_text().replace("PROGRAM", "!function own.score"))
    (tmp_path / "program" / "own.py").write_text("import langdetect\n")
    bad = {
        "kind: harness, task: mine, metric: acc, include: program": "needs the Python package langdetect",
        "kind: harness, task: mine, metric: acc, include: shots": "cannot put 9 examples before document 0",
        "kind: perplexity, rows: {path: mine.jsonl}, column: story": "mine.jsonl",
    }
    (tmp_path / "mine.jsonl").write_text('{"text": "a tale"}\n')
    tasks = "".join(f"  bad-{number}: {{{task}}}\n" for number, task in enumerate(bad))
    suite_in(tmp_path, SMALL.replace("averages:", f"{tasks}averages:"))
    found = ratchet(tmp_path, *asked(stories))
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert found.stdout.startswith("report: ")
    said = found.stderr[found.stderr.index("error: ") :]
    document = next(one for one in scores_files(tmp_path / "out") if "bad-0" in one.read_text())
    results = by_task(json.loads(document.read_text()), "tales")
    for number, why in enumerate(bad.values()):
        assert f"tasks.bad-{number} of tales was not asked: " in said and why in said
        assert results[f"bad-{number}"]["scores"][0]["value"] is None
        assert why in results[f"bad-{number}"]["scores"][0]["note"]
    theirs = by_task(scores_of(straight / "out"), "tales")
    assert {task: results[task]["scores"] for task in theirs} == {task: theirs[task]["scores"] for task in theirs}
    assert "was not asked" in document.with_name("report.html").read_text()


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(straight: Path, stories: Path, tmp_path: Path) -> None:
    suite_in(tmp_path)
    most = 0
    with begun(tmp_path, *asked(stories, "--actors", "2")) as run:
        while run.poll() is None:
            most = max(most, len(actors_of(run)))
            time.sleep(0.1)
        assert run.returncode == 0, run.communicate()[1]
    assert most == 2, "the second process never worked"
    assert_same(tmp_path / "out", straight)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_evaluation_goes_on_and_computes_nothing_twice(
    straight: Path, stories: Path, tmp_path: Path, how: signal.Signals
) -> None:
    storage = suite_in(tmp_path) / "out"
    with begun(tmp_path, *asked(stories)) as run:
        # One more than is asked for below: a stop may take back the line whose bytes are not on the disk yet.
        until(lambda: len(units(storage)) >= 7, run)
        os.kill(run.pid, signal.SIGSTOP)  # so that nothing is started between the look and the kill
        below = [pid for pid, title in processes_below(run.pid) if not title.startswith(SLOW_TO_GO)]
        os.kill(run.pid, how)
        os.kill(run.pid, signal.SIGCONT)
        said = run.communicate(timeout=120)[1]
        if how == signal.SIGTERM:
            assert (run.returncode, "asked to stop by SIGTERM" in said, "Traceback" in said) == (75, True, False)
        assert not still_there(below, 60)
    before = len(units(storage))
    assert 6 <= before < len(units(straight / "out"))
    found = ratchet(tmp_path, *asked(stories))
    assert found.returncode == 0, found.stderr
    assert_same(storage, straight)


@pytest.mark.slow
def test_a_killed_process_of_an_evaluation_is_replaced(straight: Path, stories: Path, tmp_path: Path) -> None:
    storage = suite_in(tmp_path) / "out"
    with begun(tmp_path, *asked(stories, "--actors", "2")) as run:
        until(lambda: len(units(storage)) >= 4 and bool(actors_of(run)), run)
        os.kill(actors_of(run)[0], signal.SIGKILL)
        said = run.communicate(timeout=300)[1]
        assert run.returncode == 0, said
    assert "a process of the evaluation ended" in said
    assert_same(storage, straight)


def test_a_second_evaluation_reads_what_is_there(straight: Path, stories: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    storage = tmp_path / "out"
    before = timeless(scores_of(storage)), units(storage), set(kept(storage))
    with begun(tmp_path, *asked(stories)) as run:
        titles: set[str] = set()
        while run.poll() is None:
            titles |= {title for _, title in processes_below(run.pid)}
            time.sleep(0.1)
        assert run.returncode == 0, run.communicate()[1]
    assert not [title for title in titles if title.startswith(ACTOR)]
    assert (timeless(scores_of(storage)), units(storage), set(kept(storage))) == before
    assert all(one["reused"] for one in scores_of(storage)["results"])


@pytest.mark.slow
def test_other_weights_under_the_same_path_are_another_model(stories: Path, tmp_path: Path) -> None:
    model, storage = tmp_path / "model", suite_in(tmp_path, TEXT) / "out"
    shutil.copytree(stories, model)
    values, reused, journals = [], [], []
    for disturb in (False, True, False):
        shutil.copyfile(stories / "model.safetensors", model / "model.safetensors")
        if disturb:
            weights = load_file(model / "model.safetensors")
            noise = torch.Generator().manual_seed(1)
            weights = {name: w + 0.02 * torch.randn(w.shape, generator=noise) for name, w in weights.items()}
            save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        found = ratchet(tmp_path, *asked(model))
        assert found.returncode == 0, found.stderr
        (one,) = scores_of(storage)["results"]
        values.append(one["scores"][0]["value"])
        reused.append(one["reused"])
        journals.append({name: len(some) for name, some in answers(storage).items()})
    assert values[0] == values[2] != values[1]
    assert reused == [False, False, True]
    assert len(journals[0]) == 1
    assert len(journals[1]) == 2
    assert len(set(journals[1].values())) == 1, "the disturbed model has answered each unit itself"
    assert journals[1] == journals[2]
    assert len(scores_files(storage)) == 2, "an evaluation of other weights has a folder of its own"


@pytest.mark.slow
def test_models_are_held_against_the_first_and_the_one_before(stories: Path, tmp_path: Path) -> None:
    suite_in(tmp_path, TEXT)
    for n in (1, 2):
        shutil.copytree(stories, tmp_path / f"m{n}")
        weights = load_file(stories / "model.safetensors")
        noise = torch.Generator().manual_seed(n)
        weights = {name: w + 0.02 * n * torch.randn(w.shape, generator=noise) for name, w in weights.items()}
        save_file(weights, tmp_path / f"m{n}" / "model.safetensors", metadata={"format": "pt"})
    arguments = asked(stories)
    found = ratchet(tmp_path, *arguments[:2], "m1", "m2", *arguments[2:])
    assert found.returncode == 0, found.stderr
    document = scores_of(tmp_path / "out")
    value = {one["model"]: one["scores"][0]["value"] for one in document["results"]}
    rows = {(row["model"], row["against"]): row for row in document["comparisons"]}
    assert set(rows) == {("m1", "tales"), ("m2", "tales"), ("m2", "m1")}
    assert value["tales"] < value["m1"] < value["m2"]
    for row in rows.values():
        assert row["difference"] > 0
        assert row["p"] < 0.001


# MT-Bench with a judge behind a URL.


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


def mt_suite(folder: Path, url: str) -> None:
    write_questions(folder / "questions")
    (folder / "talk.yaml").write_text(f"""\
tasks:
  talk:
    kind: mt_bench
    questions: {{path: questions}}
    references: ours
    max_new_tokens: 8
    judge: {{kind: endpoint, base_url: {url}, model: strict, concurrency: 1, max_attempts: 1, allow_private: true}}
""")


@pytest.mark.slow
def test_no_judgment_is_bought_twice_and_a_failed_one_is_no_score(
    stories: Path, tmp_path: Path, server: Server
) -> None:
    mt_suite(tmp_path, server.url)
    grader, storage = Grader(server), tmp_path / "out"
    arguments = asked(stories, suite="talk.yaml")

    grader.last = 6  # killed in the middle of judging
    with begun(tmp_path, *arguments) as run:
        until(grader.waiting.is_set, run)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    grader.go_on.set()
    grader.last = None
    assert len(server.bodies) == 7
    assert sum(len(lines(path)) for path in (storage / "store/judgments").iterdir()) >= 6
    conversations = sorted(units(storage))

    grader.fails = lambda prompt: "of 8 red balls" in prompt  # both turns of one question: 2 of 20
    found = ratchet(tmp_path, *arguments)
    assert found.returncode == 0, found.stderr
    assert "average no score, of 18" in found.stderr
    talk = by_task(scores_of(storage), "tales")["talk"]
    assert talk["scores"][0]["value"] is None
    assert talk["scores"][0]["note"].startswith("no score: 2 of 20 judgments are missing, and 5% may be")
    assert sum(talk["problems"].values()) == 2
    assert (len(server.bodies), len(grader.answered)) == (7 + 14, 18)

    grader.fails = lambda prompt: "of 8 red balls" in prompt and "Tell it again" in prompt
    found = ratchet(tmp_path, *arguments)
    assert found.returncode == 0, found.stderr
    talk = by_task(scores_of(storage), "tales")["talk"]
    assert talk["scores"][0]["value"] == pytest.approx(sum(map(rating_of, grader.answered)) / 19)
    assert talk["scores"][0]["note"].startswith("1 of 20 judgments are missing; ")
    assert (len(server.bodies), len(grader.answered)) == (7 + 14 + 2, 19)

    grader.fails = lambda prompt: False
    found = ratchet(tmp_path, *arguments)
    assert found.returncode == 0, found.stderr
    talk = by_task(scores_of(storage), "tales")["talk"]
    average = talk["scores"][0]
    assert average["value"] == pytest.approx(sum(map(rating_of, grader.answered)) / 20)
    assert average["note"] == "questions (10 questions; not MT-Bench), judged by strict, references ours"
    assert (talk["settings"]["judge"], talk["settings"]["judge_how"]) == ("strict", f"endpoint {server.url}")
    assert talk["settings"]["reference_set"] == "ours"
    assert (talk["problems"], talk["reused"]) == ({}, False)

    found = ratchet(tmp_path, *arguments)
    assert found.returncode == 0, found.stderr
    assert by_task(scores_of(storage), "tales")["talk"]["reused"]
    assert len(server.bodies) == 7 + 14 + 2 + 1, "a result that was whole was asked for again"
    assert (len(grader.answered), grader.most()) == (20, 1)
    assert sorted(units(storage)) == conversations, "the model was asked again"


# What is not there.
