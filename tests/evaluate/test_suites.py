"""A task that cannot be asked fails alone, by name, with its remedy; the others are asked and scored as ever."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest

from endpoint_server import says, serving
from evaluation_run import write_questions
from harness_example import SUMS, asking, mine, own_task
from plain_engine import PlainEngine, run_all
from ratchet.errors import DataError, ModelError, PlanError, RatchetError
from ratchet.evaluate.bench import Bench
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.harness import run as harness
from ratchet.evaluate.harness.asking import Encoder
from ratchet.evaluate.perplexity import windows
from ratchet.evaluate.results import NOT_ASKED, TaskResult, why_of
from ratchet.evaluate.suites import check_suite, raise_failed, score_suite
from ratchet.model.folder import digest_model
from ratchet.model.scratch import make_scratch
from ratchet.pairs.chat import PLAIN
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pipeline.scores_document import say_score
from ratchet.pipeline.standalone_evaluation import Evaluated
from ratchet.plan.cluster import Cluster
from ratchet.plan.suite import Suite
from ratchet.plan.tasks import Harness
from ratchet.reference.models import Model
from ratchet.serving.requests import ContinuationRequest
from ratchet.store.layout import Layout
from ratchet.track.progress import Console
from tests.evaluate.engines.test_pool import tokens

WRITES = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "doc_to_target": "text",
    "generation_kwargs": {"max_gen_toks": 96, "until": ["\n"]},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}

RATED = {
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Rating: [[5]]"}}]
}


def both(task: Harness, candidate: Candidate, store: Path) -> tuple[RatchetError, TaskResult]:
    """Ask a task that fails, and one that does not, together."""
    loaded = {"bad": harness.load_task("bad", task, None, store), "sums": harness.load_task("sums", SUMS, None, store)}
    found = harness.run_all(loaded, candidate, store)
    bad, good = found["bad"][0], found["sums"][0]
    assert isinstance(bad, RatchetError) and isinstance(good, TaskResult)
    return bad, good


def program(folder: Path, code: str) -> Harness:
    """Return a task whose items are scored by a program of its own."""
    own_task(folder)
    (folder / "own.py").write_text(code)
    text = (folder / "mine.yaml").read_text()
    (folder / "mine.yaml").write_text(f"{text}process_results: !function own.score\n")
    return mine(folder)


def test_a_task_for_which_the_model_is_too_small_fails_alone(small: Candidate, tmp_path: Path) -> None:
    own_task(tmp_path / "task", **{key: value for key, value in WRITES.items() if value is not None})
    bad, good = both(asking("mine", "exact_match", include=str(tmp_path / "task")), small, tmp_path / "store")
    assert isinstance(bad, ModelError) and "asks for 96 new tokens" in bad.what and "leave the task out" in bad.fix
    assert good == run_all({"sums": SUMS}, small, data_root=None, store=tmp_path / "other")["sums"]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("raises", "kind", "what", "fix"),
    [
        ("1 / 0", DataError, "failed inside lm-eval: ZeroDivisionError: division by zero", "look at the task's"),
        (
            "raise LookupError('Resource punkt_tab not found. >>> nltk.download(\\'punkt_tab\\')')",
            DataError, "needs data of NLTK that are not on this machine: punkt_tab", "-m nltk.downloader punkt_tab",
        ),
        ("import math_verify", PlanError, "needs the Python package math_verify", "pip install 'lm-eval[math]'"),
        ("import no_such.thing", PlanError, "needs the Python package no_such", "pip install no-such"),
    ],
)  # fmt: skip
def test_a_task_whose_program_fails_while_it_scores_fails_alone(
    small: Candidate, tmp_path: Path, raises: str, kind: type[RatchetError], what: str, fix: str
) -> None:
    task = program(tmp_path / "task", f"def score(doc, results):\n    {raises}\n")
    bad, good = both(task, small, tmp_path / "store")
    assert type(bad) is kind and what in bad.what and fix in bad.fix
    assert good.headline.count == 8


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        ("import langdetect", "pip install 'lm-eval[ifeval]'"),
        ("import antlr4_python3_runtime", "'lm-eval[math]'"),
        ("raise RuntimeError('a program of its own')", "look at the task's definition"),
    ],
)
def test_a_definition_that_does_not_load_is_an_error_in_words(tmp_path: Path, code: str, fix: str) -> None:
    task = program(tmp_path / "task", f"{code}\ndef score(doc, results):\n    return {{}}\n")
    with pytest.raises((PlanError, DataError)) as caught:
        harness.load_task("bad", task, None, tmp_path / "store")
    assert fix in caught.value.fix and "mine" in caught.value.what


def test_a_text_whose_first_token_began_in_the_context_is_scored_by_itself(small: Candidate, tmp_path: Path) -> None:
    tokenizer = small.tokenizer

    def count(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    words = [word.replace("Ġ", " ") for word in sorted(tokenizer.get_vocab()) if word.startswith("Ġ")]
    word, cut = next(
        (word, cut)
        for word in words
        for cut in range(2, len(word))
        if word.isascii() and count("3" + word[:cut]) == count("3" + word)
    )
    folder = own_task(tmp_path / "task", target_delimiter="")
    rows = [{"text": f"3{word[:cut]}", "choices": [word[cut:], "zz"], "answer": 0} for _ in range(2)]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run_all({"mine": mine(folder)}, small, data_root=None, store=tmp_path / "store")["mine"]
    assert result.headline.count == 2 and result.headline.value is not None
    assert any("2 of 4 requests have a token that reaches from the context" in line for line in result.warnings)
    context, continuation = Encoder(tokenizer, 96, special=None)._encode_pair(f"3{word[:cut]}", word[cut:])
    assert tokenizer.decode(context + continuation, skip_special_tokens=True) == f"3{word}"


@pytest.fixture
def place(tmp_path: Path) -> tuple[Bench, Model]:
    from harness_example import SPEC

    texts = [f"what is {n} of {n + 1}?" for n in range(40)]
    make_scratch(SPEC, texts, tmp_path / "model")
    weights = digest_model(tmp_path / "model")
    bench = Bench(Layout(tmp_path / "out"), Cluster(), Console(), None, 1)
    return bench, Model("m", tmp_path / "model", weights, weights, "float32")


def suite_of(folder: Path) -> Suite:
    bad = {"kind": "harness", "task": "mine", "metric": "acc"}
    task = program(folder / "task", "import langdetect\n")
    tasks: dict[str, Any] = {
        "no-folder": {**bad, "include": str(folder / "nowhere")},
        "no-package": {**bad, "include": task.include},
        "no-rows": {"kind": "perplexity", "rows": {"path": str(folder / "none.txt")}},
    }
    return Suite.model_validate({"tasks": tasks})


def test_all_that_fails_is_told_by_name_kept_without_a_score_and_asked_again(
    place: tuple[Bench, Model], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench, model = place
    suite = suite_of(tmp_path)
    scored = score_suite(bench, model, "mine.yaml", suite, print)
    assert [one.task for one in scored] == ["no-folder", "no-package", "no-rows"]
    for one in scored:
        assert one.failure is not None and one.result.headline.value is None
        assert one.result.headline.note.startswith(f"{NOT_ASKED}: ") and one.result.problems == {NOT_ASKED: 1}
        assert f"mine.yaml: tasks.{one.task} of m was not asked: {why_of(one.failure)}; " in caplog.text
        assert (one.folder / "record.json").is_file()
    assert "pip install 'lm-eval[ifeval]'" in scored[1].result.headline.note
    again = score_suite(bench, model, "mine.yaml", suite, print)
    assert {one.folder for one in again}.isdisjoint(one.folder for one in scored)
    error = Evaluated(tmp_path, tuple(scored)).error()
    assert isinstance(error, PlanError) and error.what.count("was not asked") == 3
    assert scored[0].failure is not None and error.code == scored[0].failure.code != PlanError.class_code
    assert Evaluated(tmp_path).error() is None


@pytest.mark.heavy
def test_a_result_with_judgments_missing_is_not_whole_and_is_asked_again(
    place: tuple[Bench, Model], tmp_path: Path
) -> None:
    bench, model = dataclasses.replace(place[0], chat_template=PLAIN), place[1]
    write_questions(tmp_path / "questions")
    task = {"kind": "mt_bench", "questions": {"path": str(tmp_path / "questions")}, "references": "ours",
            "max_new_tokens": 1}  # fmt: skip
    with serving() as server:
        refuse, rate = says(400, "this one cannot be judged"), says(200, json.dumps(RATED))
        server.always = lambda handler, body: (refuse if "of 5 red" in str(body) else rate)(handler, body)
        judge = {"kind": "endpoint", "base_url": server.url, "model": "j", "allow_private": True}
        suite = Suite.model_validate({"tasks": {"talk": task | {"judge": judge}}})
        asked = []
        for _ in range(2):
            (scored,) = score_suite(bench, model, "mine.yaml", suite, print)
            assert (scored.result.whole, scored.reused) == (False, False)
            asked.append(len(server.bodies))
    refused = sum("of 5 red" in str(body) for body in server.bodies) // 2
    assert refused and asked == [20, 20 + refused]


def test_a_record_counts_tokens_that_were_asked_and_computed(place: tuple[Bench, Model], tmp_path: Path) -> None:
    bench, model = place
    line = "what is 3 of 4? " * 12
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": line}) + "\n")
    rows = {"path": str(tmp_path / "text.jsonl")}
    task = {"kind": "perplexity", "rows": rows, "column": "text", "window": 24, "stride": 8}
    (scored,) = score_suite(bench, model, "mine.yaml", Suite.model_validate({"tasks": {"t": task}}), lambda _: None)
    ids = load_tokenizer(model.folder, None)(line)["input_ids"]
    cut = windows(len(ids), 24, 8)
    asked = tuple(ContinuationRequest(tuple(ids[w.start : w.first]), (tuple(ids[w.first : w.end]),)) for w in cut)
    assert scored.tokens == {"asked": sum(w.end - w.start - 1 for w in cut), "computed": tokens(asked)}
    assert scored.tokens["computed"] < scored.tokens["asked"]  # the text repeats itself: some windows begin alike
    said = io.StringIO()
    say_score(Console(said), scored)
    assert f"{tokens(asked)} computed of {scored.tokens['asked']}" in said.getvalue()


def test_a_plan_is_told_of_all_of_them_before_it_trains(place: tuple[Bench, Model], tmp_path: Path) -> None:
    bench, _ = place
    read = check_suite("mine.yaml", suite_of(tmp_path), None, bench.layout, None, gpu=False)
    with pytest.raises(PlanError) as caught:
        raise_failed("mine.yaml", read)
    assert [line.split(":")[0] for line in caught.value.what.splitlines()[:1]] and caught.value.what.count("\n") == 2
    assert "tasks.no-package: mine needs the Python package langdetect" in caught.value.what


def test_the_engine_is_asked_for_the_tasks_that_are_left(small: Candidate, tmp_path: Path) -> None:
    assert isinstance(small.engine, PlainEngine)
    own_task(tmp_path / "task", **{key: value for key, value in WRITES.items() if value is not None})
    before = len(small.engine.asked)
    both(asking("mine", "exact_match", include=str(tmp_path / "task")), small, tmp_path / "store")
    (groups,) = small.engine.asked[before:]
    assert list(groups) == ["sums/small_sums"]
