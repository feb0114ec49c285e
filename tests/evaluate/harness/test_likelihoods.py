"""Documents whose likelihoods are too small for an exponential, or no numbers at all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from lm_eval.tasks.okapi.truthfulqa_multilingual.utils import process_results_mc2 as okapi
from lm_eval.tasks.simple_cooccurrence_bias.utils import process_results as cooccurrence
from lm_eval.tasks.tinyBenchmarks.utils_truthfulqa import process_results_mc2 as tiny
from lm_eval.tasks.truthfulqa.utils import process_results_mc2
from scipy.special import logsumexp

from ratchet.evaluate.harness.figures import NO_LIKELIHOOD, NO_VALUE, values_of, why_lost

LABELS = [1, 1, 0, 0, 0]
DOC = {"mc2_targets": {"labels": LABELS}}
LIKELY = np.array([-3.0, -1.0, -2.5, -0.5, -30.0])


def mc2(likely: Any) -> float:
    """The share of the right answers, by logarithms of sums."""
    return float(np.exp(logsumexp(np.asarray(likely)[:2]) - logsumexp(likely)))


def said(likely: Any) -> list[tuple[float, bool]]:
    return [(float(one), False) for one in likely]


@pytest.mark.parametrize("process", [process_results_mc2, okapi, tiny])
@pytest.mark.parametrize("down", [0.0, 300.0, 707.0, 720.0, 741.0, 744.0, 746.0, 2000.0, 1e6])
def test_a_share_of_exponentials_is_right_however_small_they_are(process: Any, down: float) -> None:
    found = values_of(process, DOC, said(LIKELY - down))["acc"]
    assert found == pytest.approx(mc2(LIKELY - down), rel=1e-9)


def test_lm_eval_alone_gives_no_number_or_a_wrong_one() -> None:
    with np.errstate(all="ignore"):
        assert math.isnan(process_results_mc2(DOC, said(LIKELY - 746))["acc"])
        assert process_results_mc2(DOC, said(LIKELY - 744))["acc"] != pytest.approx(mc2(LIKELY), rel=0.01)


def test_ordinary_likelihoods_go_to_lm_eval_as_they_are() -> None:
    for down in (0.0, 650.0):
        assert values_of(process_results_mc2, DOC, said(LIKELY - down)) == process_results_mc2(DOC, said(LIKELY - down))


def test_a_difference_of_logarithms_is_safe_too() -> None:
    likely = np.array([-1.0, -2.0, -1.5, -4.0])
    wanted = np.logaddexp(-1.0, -2.0) - np.logaddexp(-1.5, -4.0)
    for down in (0.0, 800.0):
        found = values_of(cooccurrence, {}, said(likely - down))
        assert found["likelihood_diff"] == pytest.approx(wanted)
        assert found["pct_male_preferred"] == 0.0


def by_length(doc: Any, answers: Any) -> dict[str, float]:
    """lm-eval's acc_norm: what is not of differences alone must not be moved."""
    likely = np.array([nats for nats, _ in answers])
    lengths = np.array([float(len(choice)) for choice in doc["choices"]])
    return {
        "acc": float(np.argmax(likely) == doc["gold"]),
        "acc_norm": float(np.argmax(likely / lengths) == doc["gold"]),
    }


def test_a_mean_over_length_is_not_moved() -> None:
    likely = [-1500.0, -1600.0, -4000.0]
    doc = {"choices": ["a", "bb", "c" * 20], "gold": 2}
    assert values_of(by_length, doc, said(likely)) == {"acc": 0.0, "acc_norm": 1.0}
    empty = {"choices": ["", "bb", "c"], "gold": 1}
    assert values_of(by_length, empty, said(likely)) == {"acc": 0.0, "acc_norm": 1.0}


@pytest.mark.parametrize("likely", [[-1.0, math.nan, -2.0], [math.nan] * 3, [-math.inf] * 3])
def test_no_likelihood_is_no_value_of_any_metric(likely: list[float]) -> None:
    found = values_of(by_length, {"choices": ["a", "b", "c"], "gold": 0}, said(likely))
    assert set(found) == {"acc", "acc_norm"} and all(map(math.isnan, found.values()))
    assert why_lost(said(likely)) == NO_LIKELIHOOD


def test_one_choice_that_cannot_be_is_an_answer_like_any_other() -> None:
    answers = said([-1.0, -math.inf, -2.0])
    assert values_of(by_length, {"choices": ["a", "b", "c"], "gold": 0}, answers)["acc"] == 1.0
    assert why_lost(answers) == NO_VALUE


def test_texts_and_rolling_likelihoods_are_lm_evals_own() -> None:
    assert values_of(lambda doc, answers: {"said": answers}, {}, ["a text"]) == {"said": ["a text"]}
    assert values_of(lambda doc, answers: {"nats": answers[0]}, {}, [-9000.0]) == {"nats": -9000.0}
