"""EQ-Bench's rules, against recorded runs with published scores and numbers worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eq_bench_example import NAMES, RIGHT, references
from ratchet.evaluate.eq_bench.rules import (
    asks_revision,
    cut_revision,
    enough,
    question_score,
    read_passes,
    revised_counts,
    total,
    trouble,
)


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


@pytest.mark.heavy
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
            score = question_score(version, references(questions[item])[version], scores)
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
