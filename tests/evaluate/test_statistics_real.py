"""Errors and differences on recorded runs of MT-Bench and EQ-Bench."""

from __future__ import annotations

import collections
import json
import math
from pathlib import Path

import numpy as np
import pytest

from ratchet.evaluate.statistics import (
    clustered,
    estimate,
    paired,
)
from ratchet.reference.store import Floats


def judged(shared: Path) -> dict[str, dict[tuple[int, int], float]]:
    found: dict[str, dict[tuple[int, int], float]] = collections.defaultdict(dict)
    path = shared / "mt_bench/recorded/don-tpanic/model_judgment/gpt-4_single.jsonl"
    for row in map(json.loads, path.read_text().splitlines()):
        found[row["model"]][row["question_id"], row["turn"]] = row["score"]
    return found


@pytest.mark.parametrize(
    ("a", "b", "difference", "unpaired", "together", "p"),
    [
        ("llama2_chat_7b", "finetune_llama2_chat_7b_Attention", 1.04, 2.09, 4.17, 0.0001),
        ("finetune_llama2_chat_7b_Attention", "finetune_llama2_chat_7b", 0.52, 1.14, 1.75, 0.085),
        ("finetune_llama2_chat_7b_Attention", "finetune_llama2_chat_7b_FFNet", 0.04, 0.09, 0.16, 0.88),
    ],
)
def test_recorded_mt_bench_scores_differ_by_question(
    shared: Path, a: str, b: str, difference: float, unpaired: float, together: float, p: float
) -> None:
    ratings = judged(shared)
    assert ratings[a].keys() == ratings[b].keys()
    clusters = [str(question) for question, _ in ratings[a]]
    ours, theirs = (np.array([ratings[model][turn] for turn in ratings[a]], float) for model in (a, b))
    found = paired(ours, theirs, clusters, 0)
    alone = [clustered(values, clusters) for values in (ours, theirs)]
    assert (found.items, found.clusters) == (160, 80)
    assert found.difference == pytest.approx(difference, abs=0.005)
    assert found.difference / math.hypot(*(one.standard_error for one in alone)) == pytest.approx(unpaired, abs=0.006)
    assert found.difference / found.standard_error == pytest.approx(together, abs=0.006)
    assert found.p == pytest.approx(p, abs=0.006)
    assert (found.low > 0) == (p < 0.05)


def test_the_error_of_a_recorded_mt_bench_score_is_that_of_drawing_questions_anew(shared: Path) -> None:
    ratings = judged(shared)["llama2_chat_7b"]
    found = clustered(np.array([*ratings.values()], float), [str(question) for question, _ in ratings])
    table = np.array([[ratings[question, turn] for turn in (1, 2)] for question in range(81, 161)], float)
    draws = np.random.default_rng(12).integers(0, 80, (20_000, 80))
    assert found.mean == pytest.approx(6.1906, abs=5e-5)
    assert found.standard_error == pytest.approx(table[draws].mean(axis=(1, 2)).std() * math.sqrt(80 / 79), rel=0.02)


def eq_points(shared: Path, run: str) -> tuple[Floats, float]:
    """Points by question of one recorded run, by version 2's formula of the better pass, and its published score."""
    questions = json.loads((shared / "eq_bench/eq_bench_v2_questions_171.json").read_text())
    recorded = json.loads((shared / f"eq_bench/results/{run}_eqbench_v2_results.json").read_text())
    passes: dict[str, list[float]] = {"first_pass": [], "revised": []}
    for name, question in questions.items():
        right = question["reference_answer_fullscale"]
        for which, points in passes.items():
            given_scores = recorded["raw_results"]["1"]["respondent_answers"][name][which]
            off = [
                abs(float(given_scores[right[f"emotion{n}"]]) - float(right[f"emotion{n}_score"])) for n in range(1, 5)
            ]
            steps = [0 if d == 0 else 6.5 / (1 + math.exp(-1.2 * (d - 4))) if d <= 5 else d for d in off]
            points.append(100 - 7.477 * sum(steps))
    return np.array(max(passes.values(), key=sum)), recorded["benchmark_score"]


def test_recorded_eq_bench_scores_of_one_model_before_and_after_dpo_are_not_apart(shared: Path) -> None:
    (a, published_a), (b, published_b) = (
        eq_points(shared, run)
        for run in ("upstage__SOLAR-10.7B-Instruct-v1.0", "macadeliccc__SOLAR-10.7b-Instruct-dpo")
    )
    assert (a.mean(), b.mean()) == pytest.approx((published_a, published_b), abs=0.02)
    found = paired(a, b, [str(n) for n in range(171)], 0)
    assert found.difference == pytest.approx(0.35, abs=0.006)
    assert found.difference / math.hypot(estimate(a).standard_error, estimate(b).standard_error) == pytest.approx(
        0.12, abs=0.006
    )
    assert found.difference / found.standard_error == pytest.approx(0.32, abs=0.006)
    assert found.p == pytest.approx(0.75, abs=0.01)
