"""EQ-Bench: its rules against recorded runs with published scores, asking in rounds, and whose questions they are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from conftest import ROOT
from ratchet.errors import DataError
from ratchet.evaluate.candidate import Candidate
from ratchet.evaluate.eq_bench import run
from ratchet.evaluate.eq_bench_files import read_questions
from ratchet.evaluate.eq_bench_rules import (
    asks_revision,
    cut_revision,
    enough,
    question_score,
    read_passes,
    revised_counts,
    total,
    trouble,
)
from ratchet.evaluate.results import TaskResult
from ratchet.plan.suite import EqBench, Files
from ratchet.serving.requests import Answer, ChatRequest, Request

OWN = ROOT / "eval/sets/short-feelings.json"
NAMES = ("Calm", "Sad", "Proud", "Angry")
RIGHT = "Calm: 1\nSad: 2\nProud: 3\nAngry: 4"


class Scripted:
    """An engine whose answers are a function of prompt and seed; it keeps what it was asked, call by call."""

    def __init__(self, say: Callable[[str, int], str], reason: str = "stop") -> None:
        self.say, self.reason = say, reason
        self.calls: list[list[ChatRequest]] = []

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        chats = [request for request in requests if isinstance(request, ChatRequest)]
        assert len(chats) == len(requests)
        self.calls.append(chats)
        return [Answer(self.say(chat.turns[-1].content, chat.sampling.seed or 0), self.reason) for chat in chats]

    def answer_groups(self, groups: Any) -> dict[str, list[Answer]]:
        return {name: self.answer(requests) for name, requests in groups.items()}


def record(number: int, names: Sequence[str] = NAMES, **changes: Any) -> dict[str, Any]:
    """A question of EQ-Bench's format whose full scores are 1 to 4, which sum to 10."""
    form = "\n".join(f"{name}: <score>" for name in names)
    reference = {f"emotion{n}": name for n, name in enumerate(names, 1)}
    reference |= {f"emotion{n}_score": n for n in range(1, 5)}
    prompt = (
        f"\nDialogue {number}.\n\nGive scores. Then critique your answer. Give new ones.\n\nIn this form:\n\n"
        f"First pass scores:\n{form}\n\nCritique: <yours>\n\nRevised scores:\n{form}\n\n[End of answer]\n\nAll of it.\n"
    )
    return {"prompt": prompt, "reference_answer": reference, "reference_answer_fullscale": reference} | changes


def written(path: Path, records: Any) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def asked(tmp_path: Path, count: int, engine: Scripted, **settings: Any) -> TaskResult:
    path = written(tmp_path / "own.json", {str(number): record(number) for number in range(1, count + 1)})
    task = EqBench(kind="eq_bench", questions=Files(path=str(path)), **settings)
    return run("feelings", task, Candidate(engine, None, 4096, "scripted"))


# ---- the published rules


def references(question: dict[str, Any]) -> dict[str, dict[str, float]]:
    """References by version, read by other means than the code under test."""
    keys = {"v1": "reference_answer", "v2": "reference_answer_fullscale"}
    return {
        version: {question[key][f"emotion{n}"]: float(question[key][f"emotion{n}_score"]) for n in range(1, 5)}
        for version, key in keys.items()
    }


def recorded_total(run: dict[str, Any], questions: dict[str, Any], *, raw: bool) -> tuple[float, int]:
    """The v2 score of one iteration of a recorded run and how many questions count, by the rules under test."""
    kept: dict[str, list[float]] = {"first": [], "revised": []}
    for item, parsed in run["respondent_answers"].items():
        passes: dict[str, Any] = {"first": parsed["first_pass"], "revised": parsed["revised"]}
        if raw:
            text = run["raw_inference"][item]
            # No run says whether it asked for revision, and one was begun with it and resumed without.
            passes = dict(read_passes(text, revision=bool(parsed["revised"]) or "Revised scores:" in text))
        for key, scores in passes.items():
            numbers = {name: float(score) for name, score in scores.items()}
            if (score := question_score("v2", references(questions[item])["v2"], numbers)) is not None:
                kept[key].append(score)
    chosen = kept["revised" if revised_counts(kept["first"], kept["revised"]) else "first"]
    return total(chosen), len(chosen)


@pytest.mark.parametrize("raw", [False, True], ids=["from the parsed answers", "from the raw text"])
def test_recorded_runs_score_as_published(shared: Path, raw: bool) -> None:
    questions = json.loads((shared / "eq_bench/eq_bench_v2_questions_171.json").read_text())
    files = sorted((shared / "eq_bench/results").glob("*.json"))
    if not files:
        pytest.skip("no recorded runs of EQ-Bench in the folder of real data")
    offsets, miscounted = [], []
    for file in files:
        run = json.loads(file.read_text())
        (iteration,) = run["raw_results"].values()
        score, count = recorded_total(iteration, questions, raw=raw)
        offsets.append(abs(round(score, 2) - run["benchmark_score"]))
        assert enough(count, run["n_questions_total"]) == run["benchmark_success"], file.name
        if count != run["n_questions_parseable"]:
            miscounted.append((file.name.partition("_eqbench")[0], run["n_questions_parseable"] - count))
    # Two decimals of the runner's own factor, which has more digits than the one it prints.
    assert max(offsets) < 0.0201
    assert sum(offset > 0.0101 for offset in offsets) <= 3
    # Of this run the first pass has one question less than the revised one, and their totals are all but equal.
    assert set(miscounted) <= {("TheBloke__NeuralBeagle14-7B-GGUF", 1)}


def test_another_projects_recorded_run_is_scored_alike_question_by_question(shared: Path) -> None:
    folder = shared / "evalverse_recorded/SOLAR-10.7B-Instruct-v1.0/eq_bench"
    if not folder.is_dir():
        pytest.skip(f"no recorded run at {folder}")
    questions = json.loads((shared / "eq_bench/eq_bench_v2_questions_171.json").read_text())
    (run,) = json.loads((folder / "raw_results.json").read_text()).values()
    replies = run["iterations"]["1"]
    found: dict[str, list[float]] = {"v1": [], "v2": []}
    for item, text in replies["raw_inference"].items():
        scores = read_passes(text, revision=False)["first"]
        assert trouble(scores, tuple(references(questions[item])["v1"])) == ""
        for version, key in (("v1", "individual_scores"), ("v2", "individual_scores_fullscale")):
            score = question_score(version, references(questions[item])[version], scores)  # type: ignore[arg-type]
            assert score == pytest.approx(replies[key][item]["first_pass_score"], abs=1e-9)
            found[version].append(score or 0.0)
    assert (round(total(found["v2"]), 2), len(found["v2"])) == (72.17, 165)
    assert total(found["v2"]) == pytest.approx(replies["benchmark_results_fullscale"]["final_score"], abs=1e-9)


def test_version_2_scales_differences_by_a_sigmoid_up_to_5() -> None:
    reference = dict.fromkeys(NAMES, 0.0)
    for distance, scaled in {0: 0, 1: 6.5 / (1 + math.exp(3.6)), 4: 3.25, 5: 6.5 / (1 + math.exp(-1.2)), 6: 6}.items():
        scores = {**reference, "Sad": float(distance)}
        assert question_score("v2", reference, scores) == pytest.approx(10 - 0.7477 * scaled, abs=1e-12)
    assert question_score("v2", reference, dict.fromkeys(NAMES, 10.0)) == pytest.approx(10 - 0.7477 * 40)


def test_version_1_compares_shares_of_10() -> None:
    reference = dict(zip(NAMES, (0.0, 6.0, 0.0, 4.0), strict=True))
    scores = dict(zip(NAMES, (2.0, 3.0, 3.0, 7.0), strict=True))
    by_hand = 10 - np.abs(np.array([2, 3, 3, 7]) / 15 * 10 - [0, 6, 0, 4]).sum()
    assert question_score("v1", reference, scores) == pytest.approx(by_hand)
    assert question_score("v1", reference, {name: 3 * score for name, score in scores.items()}) == pytest.approx(
        by_hand
    )
    assert question_score("v1", reference, {**dict.fromkeys(NAMES, 0.0), "Calm": 1.0}) == -10
    assert question_score("v1", reference, dict.fromkeys(NAMES, 0.0)) is None
    assert question_score("v2", reference, dict.fromkeys(NAMES, 0.0)) is not None


@pytest.mark.parametrize(
    ("text", "scores", "says"),
    [
        (RIGHT, (1, 2, 3, 4), ""),
        ("Sure! " + RIGHT.replace("\n", ", ") + ".", (1, 2, 3, 4), ""),
        (RIGHT + "\nSad: 9", (1, 9, 3, 4), ""),
        (RIGHT.replace("3", "7.5"), (1, 2, 7, 4), ""),
        (RIGHT.replace("2", "**2**"), (1, 3, 4), "not four scores"),
        (RIGHT.replace(": 2", ":2"), (1, 3, 4), "not four scores"),
        (RIGHT.replace("Sad", "sad"), (1, 2, 3, 4), "other emotions than asked"),
        (RIGHT + "\nNote: 5 is the middle", (1, 2, 3, 4, 5), "not four scores"),
        (RIGHT.replace("3", "-3"), (1, 2, 4), "not four scores"),
        ("I feel for them all.", (), "no scores"),
        ("Calm: 0\nSad: 0\nProud: 0\nAngry: 0", (0, 0, 0, 0), "scores sum to 0"),
        (RIGHT.replace("4", "9" * 400), (1, 2, 3, math.inf), "a score without bounds"),
    ],
)
def test_scores_are_read_as_the_runner_reads_them(text: str, scores: tuple[float, ...], says: str) -> None:
    found = read_passes(text, revision=False)["first"]
    assert tuple(found.values()) == scores
    assert trouble(found, NAMES) == says


def test_a_score_without_bounds_has_no_score() -> None:
    reference = dict.fromkeys(NAMES, 1.0)
    scores = {**reference, "Sad": 1e200}
    assert question_score("v1", reference, scores) is None
    assert question_score("v2", reference, scores) is None


@pytest.mark.parametrize(
    ("text", "first", "revised"),
    [
        ("First pass scores:\nSad: 1\nCritique: no.\nRevised scores:\nSad: 2", {"Sad": 1}, {"Sad": 2}),
        ("First pass scores:\nSad: 1\nCritique: 4 is more like it.", {}, {}),
        ("Sad: 1\nRevised scores:\nSad: 2", {}, {"Sad": 2}),
        ("**First pass scores:**\nSad: 1\n**Revised scores:**\nSad: 2", {"Sad": 1}, {"Sad": 2}),
    ],
)
def test_with_revision_headings_part_the_passes(text: str, first: dict[str, int], revised: dict[str, int]) -> None:
    assert read_passes(text, revision=True) == {"first": first, "revised": revised}


def test_a_total_needs_83_percent_and_the_edge_passes() -> None:
    assert enough(5, 6) and enough(50, 60) and enough(143, 171) and enough(8333, 10_000)
    assert not enough(49, 60) and not enough(142, 171) and not enough(8332, 10_000) and not enough(0, 10)


def test_the_better_pass_stands_and_the_revised_one_needs_95_percent_as_many() -> None:
    assert revised_counts([5.0] * 20, [5.0] * 20)
    assert not revised_counts([5.0] * 20, [4.9] * 20)
    assert revised_counts([5.0] * 20, [6.0] * 19)
    assert not revised_counts([5.0] * 20, [6.0] * 18)
    assert revised_counts([5.0] * 18, [5.0] * 20)


def test_prompts_are_cut_as_the_runner_cuts_them(shared: Path) -> None:
    for name in ("eq_bench_v1_questions_60.json", "eq_bench_v2_questions_171.json"):
        for question in json.loads((shared / "eq_bench" / name).read_text()).values():
            prompt = question["prompt"]
            sentence = prompt[prompt.index(" Then critique your answer") :].partition("\n")[0]
            assert sentence.endswith("give your revised scores.")
            left = prompt.replace(sentence, "").replace("First pass scores:\n", "")
            wanted = left[: left.index("Critique: <your critique here>")] + "\n" + left[left.index("[End of answer]") :]
            assert cut_revision(prompt) == wanted + "\nYour answer:\n"
            assert asks_revision(prompt) and not asks_revision(wanted)


# ---- asking


def test_a_round_asks_only_what_has_no_scores_a_little_warmer(tmp_path: Path) -> None:
    needs = {1: 1, 2: 2, 3: 3, 4: 9}

    def say(prompt: str, seed: int) -> str:
        return RIGHT if seed >= next(need for number, need in needs.items() if f"Dialogue {number}." in prompt) else "?"

    engine = Scripted(say)
    result = asked(tmp_path, 4, engine)
    assert [len(call) for call in engine.calls] == [4, 3, 2]
    assert [{each.sampling.temperature for each in call} for call in engine.calls] == [{0.01}, {0.16}, {0.31}]
    assert [{each.sampling.seed for each in call} for call in engine.calls] == [{1}, {2}, {3}]
    assert {each.sampling.max_tokens for call in engine.calls for each in call} == {60}
    assert all(len(each.turns) == 1 and each.turns[0].role == "user" for call in engine.calls for each in call)
    assert [item.values for item in result.items] == [{"parsed": 1.0, "score": 10.0}] * 3 + [{"parsed": 0.0}]
    assert result.problems == {"no scores": 1}
    assert result.headline.value is None
    assert result.headline.note == "3 of 4 parsed, and a score needs 83.33%"


def test_the_score_is_the_mean_of_what_was_parsed(tmp_path: Path) -> None:
    wrong = RIGHT.replace("Calm: 1", "Calm: 7")  # 6 away: 10 − 0.7477 · 6

    def say(prompt: str, seed: int) -> str:
        return "?" if "Dialogue 1." in prompt else wrong if "Dialogue 2." in prompt else RIGHT

    result = asked(tmp_path, 6, Scripted(say))  # 5 of 6 is just enough
    values = np.array([10 - 0.7477 * 6, 10, 10, 10, 10])
    headline, parsed = result.scores
    assert headline.value == pytest.approx(10 * values.mean())
    assert headline.standard_error == pytest.approx(10 * values.std(ddof=1) / np.sqrt(5))
    assert (headline.count, headline.unit, headline.metric) == (5, "points", "score")
    assert (parsed.value, parsed.count) == (pytest.approx(5 / 6), 6)
    assert [item.problem for item in result.items] == ["no scores", "", "", "", "", ""]
    assert result.items[1].reference == "Calm: 1, Sad: 2, Proud: 3, Angry: 4"
    assert result.items[1].answer == wrong


def both(first: str, revised: str) -> str:
    return f"First pass scores:\n{first}\n\nCritique: hm.\n\nRevised scores:\n{revised}\n\n[End of answer]"


def test_with_revision_the_better_pass_is_the_score(tmp_path: Path) -> None:
    wrong = RIGHT.replace("Calm: 1", "Calm: 7")
    engine = Scripted(lambda prompt, seed: both(wrong, RIGHT))
    result = asked(tmp_path, 3, engine, revision=True)
    assert [len(call) for call in engine.calls] == [3]
    assert engine.calls[0][0].turns[0].content == record(1)["prompt"]
    assert engine.calls[0][0].sampling.max_tokens == 1000
    assert [(each.metric, each.value) for each in result.scores] == [
        ("score", 100), ("parsed", 1), ("first", pytest.approx(55.138)), ("revised", 100),
    ]  # fmt: skip
    assert result.headline.note == "the revised pass"
    back = asked(tmp_path, 3, Scripted(lambda prompt, seed: both(RIGHT, wrong)), revision=True)
    assert (back.headline.value, back.headline.note) == (100, "the first pass")
    assert back.items[0].values == {"parsed": 1.0, "score": 10.0, "first": 10.0, "revised": pytest.approx(5.5138)}


def test_one_good_pass_is_kept_where_no_attempt_gives_two(tmp_path: Path) -> None:
    wrong = RIGHT.replace("Calm: 1", "Calm: 7")
    replies = {1: "?", 2: both(wrong, "?"), 3: both(RIGHT, "?")}
    engine = Scripted(lambda prompt, seed: replies[seed])
    result = asked(tmp_path, 2, engine, revision=True)
    assert [len(call) for call in engine.calls] == [2, 2, 2]
    assert [item.answer for item in result.items] == [replies[2]] * 2  # the first that counts, not the best
    assert result.headline.value == pytest.approx(55.138)
    assert [each.count for each in result.scores] == [2, 2, 2, 0]
    later = {**replies, 3: both(RIGHT, RIGHT)}
    assert asked(tmp_path, 2, Scripted(lambda prompt, seed: later[seed]), revision=True).headline.value == 100


def test_zeros_alone_are_asked_again_in_version_2_too(tmp_path: Path) -> None:
    zeros = "Calm: 0\nSad: 0\nProud: 0\nAngry: 0"
    engine = Scripted(lambda prompt, seed: zeros)
    result = asked(tmp_path, 2, engine)
    assert [len(call) for call in engine.calls] == [2, 2, 2]
    assert result.problems == {"scores sum to 0": 2}
    assert result.headline.count == 0
    # Beside a revised pass that counts they are kept, and version 2 has a score for them.
    kept = asked(tmp_path, 2, Scripted(lambda prompt, seed: both(zeros, RIGHT)), revision=True)
    assert [each.count for each in kept.scores] == [2, 2, 2, 2]


def test_version_1_without_revision_is_the_cut_prompt_and_says_so(tmp_path: Path) -> None:
    engine = Scripted(lambda prompt, seed: "Calm: 2\nSad: 4\nProud: 6\nAngry: 8")
    result = asked(tmp_path, 2, engine, version="v1", max_new_tokens=33, attempts=1)
    prompt = engine.calls[0][0].turns[0].content
    assert prompt.endswith("[End of answer]\n\nAll of it.\n\nYour answer:\n")
    assert "ritique" not in prompt and "First pass" not in prompt
    assert result.headline.value == 100  # shares of 10 are right
    assert "always asks for both" in result.settings["prompt"]
    assert (result.settings["max_new_tokens"], result.settings["temperatures"]) == (33, [0.01])
    assert asked(tmp_path, 2, engine, version="v1", revision=True).settings["prompt"] == "as published"


def test_answers_cut_off_at_the_limit_are_told(tmp_path: Path) -> None:
    result = asked(tmp_path, 2, Scripted(lambda prompt, seed: "Well, ", reason="length"))
    assert "2 of the answers without scores ended at max_new_tokens (60)" in result.warnings


# ---- whose questions


def test_the_published_sets_are_known_by_their_content(shared: Path, tmp_path: Path) -> None:
    for version, count in (("v1", 60), ("v2", 171)):
        path = shared / f"eq_bench/eq_bench_{version}_questions_{count}.json"
        found = read_questions(Files(path=str(path)), version, revision=True)  # type: ignore[arg-type]
        assert (found.official, found.label) == (version, f"EQ-Bench {version}, {count} questions")
        content = json.loads(path.read_text())
        again = read_questions(Files(path=str(written(tmp_path / "copy.json", content))), version, revision=False)  # type: ignore[arg-type]
        assert again.digest == found.digest
        rows = [{**each, "prompt": cut_revision(each["prompt"]), "reference_answer": repr(each["reference_answer"])}
                for each in content.values()]  # fmt: skip
        cut = read_questions(Files(path=str(written(tmp_path / "rows.json", rows))), version, revision=False)  # type: ignore[arg-type]
        assert cut.official == version
        content["7"]["reference_answer_fullscale"]["emotion1_score"] = 10
        changed = read_questions(Files(path=str(written(tmp_path / "x.json", content))), version, revision=False)  # type: ignore[arg-type]
        assert (changed.official, changed.label) == (None, f"x.json, {count} questions")


def test_only_the_published_questions_by_their_own_rule_give_an_eq_bench_score(shared: Path) -> None:
    def score(path: Path, version: str) -> TaskResult:
        task = EqBench(kind="eq_bench", questions=Files(path=str(path)), version=version, attempts=1)  # type: ignore[arg-type]
        return run("x", task, Candidate(Scripted(lambda prompt, seed: "?"), None, 4096, "scripted"))

    published = shared / "eq_bench/eq_bench_v2_questions_171.json"
    right, other = score(published, "v2"), score(published, "v1")
    assert (right.headline.name, right.warnings) == ("EQ-Bench v2", ())
    assert other.headline.name == "EQ-Bench v2, 171 questions, by EQ-Bench v1's rule"
    assert "no published figure is made so" in other.warnings[0]


def test_the_questions_that_are_shipped_run_in_every_mode_and_are_not_passed_off_as_eq_bench() -> None:
    content = json.loads(OWN.read_text(encoding="utf-8"))
    for version in ("v1", "v2"):
        for revision in (False, True):

            def say(prompt: str, seed: int, version: str = version, revision: bool = revision) -> str:
                (right,) = (references(each)[version] for each in content.values()
                            if each["prompt"].partition("[End dialogue]")[0] in prompt)  # fmt: skip
                text = "\n".join(f"{name}: {score:.0f}" for name, score in right.items())
                return both(text, text) if revision else text

            task = EqBench(kind="eq_bench", questions=Files(path=str(OWN)), version=version, revision=revision)  # type: ignore[arg-type]
            result = run("feelings", task, Candidate(Scripted(say), None, 4096, "scripted"))
            assert result.headline.value == pytest.approx(100)
            assert result.headline.count == len(content) == 10
            assert result.headline.name == f"short-feelings.json, 10 questions, by EQ-Bench {version}'s rule"
            assert "these are not EQ-Bench's" in result.warnings[0]


def test_the_questions_that_are_shipped_share_no_line_with_the_published_ones(shared: Path) -> None:
    lines: list[set[str]] = []
    for path in (
        OWN,
        shared / "eq_bench/eq_bench_v2_questions_171.json",
        shared / "eq_bench/eq_bench_v1_questions_60.json",
    ):
        prompts = (each["prompt"] for each in json.loads(path.read_text(encoding="utf-8")).values())
        lines.append({line for prompt in prompts for line in prompt.splitlines() if len(line.split()) > 3})
    assert lines[0].isdisjoint(lines[1] | lines[2])


def test_rows_of_a_data_set_are_the_same_questions(tmp_path: Path) -> None:
    odd = record(2)["prompt"].replace("Dialogue 2.", "Dialogue\u2028 2.")
    records = [record(1), record(2, prompt=odd)]
    rows = [{key: value if key == "prompt" else repr(value) for key, value in each.items()} for each in records]
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8"
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "nested.parquet")
    written(tmp_path / "rows.json", records)
    written(tmp_path / "byid.json", dict(zip("12", records, strict=True)))
    found = {
        path.name: read_questions(Files(path=str(path)), "v2", revision=True) for path in sorted(tmp_path.iterdir())
    }
    assert len(found) == 5
    assert len({each.digest for each in found.values()}) == 1
    assert found["rows.jsonl"].questions == found["byid.json"].questions
    with pytest.raises(DataError, match=r"holds byid\.json, nested\.parquet, rows\.json, .*: one .* file is wanted"):
        read_questions(Files(path=str(tmp_path)), "v2", revision=False)


REFERENCE = record(1)["reference_answer"]
NO_SCORE = {key: value for key, value in REFERENCE.items() if key != "emotion4_score"}
FULL = "reference_answer_fullscale"


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ({}, "own.json: the file holds no question"),
        ("text", "own.json: holds neither questions by id nor rows"),
        ({"a": 3}, "question a: has no prompt"),
        ({"a": record(1, prompt=" ")}, "question a: has no prompt"),
        ([record(1), {**record(2), FULL: None}], f"question 2: has no {FULL}, which v2 compares"),
        ({"a": record(1, (*NAMES[:3], "Sad"))}, f"question a: {FULL}|reference_answer: emotion4 is 'Sad'"),
        ({"a": record(1, (*NAMES[:3], "Ill at ease"))}, "emotion4 is 'Ill at ease'"),
        ({"a": record(1, **{FULL: {**REFERENCE, "emotion2": None}})}, "emotion2 is None"),
        ({"a": record(1, **{FULL: "four"})}, f"{FULL}: is no dictionary"),
        ({"a": record(1, **{FULL: NO_SCORE})}, "emotion4_score: is None, which is no number"),
        ({"a": record(1, **{FULL: {**REFERENCE, "emotion4_score": "nan"}})}, "is 'nan', which is no number"),
        ({"a": record(1, **{FULL: {**REFERENCE, "emotion4": "Glad"}})}, "name different emotions"),
        ({"a": record(1, prompt="Feel.\n\nFirst pass scores:\nSad: <score>")}, "in a form that cannot be cut out"),
    ],
)
def test_broken_questions_are_named(tmp_path: Path, records: Any, says: str) -> None:
    path = written(tmp_path / "own.json", records)
    with pytest.raises(DataError, match=says):
        read_questions(Files(path=str(path)), "v2", revision=False)


def test_what_a_mode_lacks_is_named(tmp_path: Path) -> None:
    short = {key: value for key, value in record(1, prompt="How do they feel?").items() if key != FULL}
    path = str(written(tmp_path / "own.json", {"a": short}))
    found = read_questions(Files(path=path), "v1", revision=False)
    assert cut_revision(found.questions[0].prompt) == "How do they feel?"  # asked as it stands
    with pytest.raises(DataError, match=r"question a: does not ask for a critique"):
        read_questions(Files(path=path), "v1", revision=True)
    with pytest.raises(DataError, match=r"question a: has no reference_answer_fullscale(.|\n)*set version: v1"):
        read_questions(Files(path=path), "v2", revision=False)


def test_files_that_are_absent_damaged_or_of_another_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"1": {"pro')
    (tmp_path / "cut.parquet").write_text("PAR1")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, says in {
        "cut.json": "cannot be read",
        "cut.parquet": "cannot be read",
        "notes.txt": "is no file or folder with questions",
        "empty": "is no file or folder with questions",
        "absent.json": "is no file or folder with questions",
    }.items():
        with pytest.raises(DataError, match=rf"{name}: {says}"):
            read_questions(Files(path=str(tmp_path / name)), "v2", revision=False)


def test_a_repository_of_the_hub_is_read_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "c" * 40
    folder = tmp_path / "datasets--them--feelings/snapshots" / commit
    folder.mkdir(parents=True)
    written(folder / "dataset_infos.json", {})
    (folder / "data").mkdir()
    written(folder / "data/test.json", [record(1)])
    found = read_questions(Files(hub="them/feelings", revision=commit), "v2", revision=True)
    assert found.label == f"hub:them/feelings@{commit}/data/test.json, 1 question"
    with pytest.raises(DataError, match=r"hub:them/others: is not in the local cache and cannot be fetched"):
        read_questions(Files(hub="them/others"), "v2", revision=False)
