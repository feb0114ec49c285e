"""What several processes want at the same moment is made by one; the others wait, and read it."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raised import raises
from ratchet.documents.scores import Score
from ratchet.errors import StoppedError
from ratchet.evaluate import suites
from ratchet.evaluate.bench import Bench, Candidates
from ratchet.evaluate.judges.kinds import open_judge
from ratchet.evaluate.results import Item, TaskResult
from ratchet.evaluate.suites import AskingWork, keep_result, score_suite
from ratchet.evaluate.task_run import Answered
from ratchet.model.folder import digest_model
from ratchet.model.scratch import make_scratch
from ratchet.pairs import token_flow
from ratchet.pairs.pair_table import pairs_table
from ratchet.pairs.table import open_table
from ratchet.pairs.token_flow import Policy, prepare_tokens
from ratchet.pairs.tokens import TokenWriter
from ratchet.plan.cluster import Cluster
from ratchet.plan.judge import EndpointJudge
from ratchet.plan.suite import Suite
from ratchet.plan.tasks import Perplexity
from ratchet.reference import score
from ratchet.reference.models import TRAINER, Model, Passes, ScoreJob, ScoringModel
from ratchet.reference.pool import Pool
from ratchet.reference.score import score_jobs
from ratchet.reference.store import Logps, write_block
from ratchet.serving.requests import Answer
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import Wait, leased
from ratchet.track.progress import Console
from token_pairs import SPEC, TEXTS, pair

pytestmark = pytest.mark.heavy

LENGTHS: dict[str, Any] = {"max_length": 128, "overlong": "drop", "chat_template": None}


@pytest.fixture
def made(tmp_path: Path) -> tuple[Layout, Path, Path]:
    """A store, a model folder, and a folder of pairs."""
    make_scratch(SPEC, TEXTS, tmp_path / "model")
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for side, count in (("train", 30), ("heldout", 5)):
        table = pairs_table([pair(f"What is {number} + {count}?") for number in range(count)])
        pq.write_table(table, pairs / f"{side}.parquet")
    return Layout(tmp_path / "out"), tmp_path / "model", pairs


def beside(work: Callable[[], Any]) -> Future[Any]:
    """Begin some work in another thread."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def nothing_to_do(*arguments: Any) -> None:
    raise AssertionError("it was made by another, and is made again")


def test_tokens_that_many_want_are_made_once(made: tuple[Layout, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    layout, model, pairs = made
    begun: list[Path] = []

    class Counted(TokenWriter):
        def __init__(self, folder: Path) -> None:
            begun.append(folder)
            time.sleep(0.2)
            super().__init__(folder)

    monkeypatch.setattr(token_flow, "TokenWriter", Counted)
    start = threading.Barrier(4)

    def work() -> tuple[tuple[str, Path], list[str]]:
        said: list[str] = []
        start.wait()
        return prepare_tokens(pairs, "abc", model, layout, **LENGTHS, wait=Wait(said.append)), said

    answers = [future.result() for future in [beside(work) for _ in range(4)]]
    assert len(begun) == 1
    assert {answer for answer, _ in answers} == {(layout.tokens(answers[0][0][0]).name, answers[0][0][1])}
    lines = [line for _, said in answers for line in said]
    assert len(lines) == 3
    assert all(line.startswith("waiting for tokens of the pairs abc: process ") for line in lines)


def test_who_was_taken_over_publishes_nothing(made: tuple[Layout, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    layout, model, pairs = made

    class Slept(TokenWriter):
        def __init__(self, folder: Path) -> None:
            (lease,) = (layout.store / "leases").glob("tokens-*")
            (lease / "2.json").write_text("another")
            super().__init__(folder)

    monkeypatch.setattr(token_flow, "TokenWriter", Slept)
    with raises("run.taken-over"):
        prepare_tokens(pairs, "abc", model, layout, **LENGTHS)
    assert list((layout.store / "tokens").iterdir()) == []


def test_scores_that_another_process_makes_are_waited_for_and_not_computed(
    made: tuple[Layout, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "_run", nothing_to_do)
    layout, folder, pairs = made
    fp, tokens = prepare_tokens(pairs, "abc", folder, layout, **LENGTHS)
    model = ScoringModel(folder, "weights", "float32")
    sample, whole = ScoreJob(fp, tokens, "train", (1, 4)), ScoreJob(fp, tokens, "train")
    (plan,) = score._plans([(model, whole)], TRAINER, layout)
    said: list[str] = []
    work = [(model, sample), (model, ScoreJob(fp, tokens, "heldout"))]
    (_, other) = score._plans(work, TRAINER, layout)
    with leased(layout.lease(other.lease), what="x"), leased(layout.lease(plan.lease), what="x"):
        waiting = beside(lambda: score_jobs(work, layout, Pool(1, 0, Passes()), wait=Wait(said.append)))
        time.sleep(0.3)
        assert not waiting.done()
        for one in (plan, other):
            ids = open_table([one.job.file], [1.0], 0).pair_ids().to_pylist()
            numbers, counts = -np.ones(len(ids)), np.ones(len(ids), np.int32)
            write_block(one.folder, 0, ids, Logps(numbers, numbers, counts, counts))
            score._finish(one, score._Pass("2026-01-01T00:00:00Z", time.monotonic(), 0.0, in_training=False), 1.0)
    found = waiting.result()
    assert [(one.folder, one.reused, one.pairs) for one in found] == [(plan.folder, True, 2), (other.folder, True, 5)]
    assert len(said) in {1, 2} and said[0].startswith(f"waiting for scores of {folder} on the ")


@pytest.mark.parametrize("held", [True, False])
def test_who_waits_for_others_or_would_begin_can_be_stopped(made: tuple[Layout, Path, Path], held: bool) -> None:
    layout, folder, pairs = made

    def stop() -> None:
        raise StoppedError("asked to stop")

    key = f"tokens-{fingerprint(token_flow.tokens_identity('abc', folder, Policy(128, 'drop'), None))}"
    with leased(layout.lease(key), what="x") if held else contextlib.nullcontext():
        waiting = beside(lambda: prepare_tokens(pairs, "abc", folder, layout, wait=Wait(look=stop), **LENGTHS))
        with pytest.raises(StoppedError):
            waiting.result()
    assert not list(layout.tokens("x").parent.glob("*"))
    fp, tokens = prepare_tokens(pairs, "abc", folder, layout, **LENGTHS)
    work = [(ScoringModel(folder, "weights", "float32"), ScoreJob(fp, tokens, "train"))]
    (plan,) = score._plans(work, TRAINER, layout)
    with leased(layout.lease(plan.lease), what="x") if held else contextlib.nullcontext():
        waiting = beside(lambda: score_jobs(work, layout, Pool(1, 0, Passes()), wait=Wait(look=stop)))
        with pytest.raises(StoppedError):
            waiting.result()


def result_of(task: str) -> TaskResult:
    return TaskResult(
        task=task,
        kind="perplexity",
        scores=(Score("perplexity", "nats", 3.0, None, 1),),
        items=(Item("0", "0", {"nats": 1.1}),),
        settings={},
    )


@pytest.fixture
def bench(made: tuple[Layout, Path, Path]) -> tuple[Bench, Model, Suite]:
    layout, folder, _ = made
    (folder.parent / "rows.jsonl").write_text('{"text": "What is 1 + 1?"}\n')
    weights = digest_model(folder)
    rows = {"path": str(folder.parent / "rows.jsonl")}
    suite = Suite.model_validate({"tasks": {"text": {"kind": "perplexity", "rows": rows, "column": "text"}}})
    return Bench(layout, Cluster(), Console(), None, 1), Model("m", folder, weights, weights, "float32"), suite


def test_a_model_that_is_evaluated_is_waited_for_and_its_result_read(
    bench: tuple[Bench, Model, Suite], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "keep_result", nothing_to_do)
    place, model, suite = bench
    task = suite.tasks["text"]
    assert isinstance(task, Perplexity)
    with Candidates(place, model) as candidates:
        leases = candidates.alone([task], candidates.step_back)
        candidates.of(task)  # its journal is open: nobody else may open it
        waiting = beside(lambda: score_suite(place, model, "suite", suite, print))
        time.sleep(0.5)
        assert not waiting.done()
        read = suites.check_suite("suite", suite, candidates.tokenizer, place.layout, None, gpu=False)
        part = suites.ScoredTask("text", candidates.identity_for(task), read.identities["text"])
        folder = keep_result(place.layout, part, Answered(result_of("text"), {}), AskingWork(1.0), leases).folder
    (scored,) = waiting.result()
    assert (scored.folder, scored.reused, scored.result.headline.value) == (folder, True, 3.0)


def test_the_next_one_finds_the_journal_closed(bench: tuple[Bench, Model, Suite]) -> None:
    place, model, suite = bench
    task = suite.tasks["text"]
    assert isinstance(task, Perplexity)
    start = threading.Barrier(3)

    def work(number: int) -> bool:
        start.wait()
        with Candidates(place, model) as candidates:
            candidates.alone([task], candidates.step_back)
            journal = candidates._journal(candidates.of(task).identity)
            before = "0" in journal
            if not before:
                journal.append("0", [Answer(str(number), "stop")])
            time.sleep(0.1)
            return before

    futures = [beside(functools.partial(work, number)) for number in range(3)]
    assert sorted(future.result() for future in futures) == [False, True, True]


def test_a_wait_ends_where_the_evaluation_is_stopped(bench: tuple[Bench, Model, Suite]) -> None:
    place, model, suite = bench
    stopped = Bench(place.layout, place.cluster, place.console, None, 1, lambda: True)
    with Candidates(place, model) as candidates:
        candidates.alone(suite.tasks.values(), candidates.step_back)
        waiting = beside(lambda: score_suite(stopped, model, "suite", suite, print))
        with raises("stopped.asked"):
            waiting.result()


def test_one_process_at_a_time_asks_a_judge_behind_a_url(bench: tuple[Bench, Model, Suite]) -> None:
    place, model, _ = bench
    judge = EndpointJudge(kind="endpoint", base_url="http://127.0.0.1:9/v1", model="j", allow_private=True)
    inside: list[str] = []

    def work() -> None:
        with Candidates(place, model) as candidates, open_judge(candidates, judge, "here"):
            inside.append("in")
            time.sleep(0.1)
            inside.append("out")

    for future in [beside(work) for _ in range(3)]:
        future.result()
    assert inside == ["in", "out"] * 3
