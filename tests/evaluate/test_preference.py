"""A preference task's scores and items against float64 numpy and the published definitions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from raised import raises
from ratchet.evaluate.preference import mean_gamma, preference_result, reward_scores
from ratchet.pairs.pair import PreferencePair, Turn, answer_turn
from ratchet.plan.data import Source
from ratchet.plan.tasks import Preference
from ratchet.reference.store import Logps

TASK = Preference(kind="preference", data=Source(path="pairs.jsonl", held_out=0.0))


def pairs_of(count: int, prompts: int) -> list[PreferencePair]:
    return [
        PreferencePair(
            (Turn("user", f"prompt {n % prompts}"),),
            answer_turn(f"good {n}"),
            answer_turn(f"bad {n}"),
            "pairs.jsonl",
            n + 1,
        )
        for n in range(count)
    ]


def logps_of(count: int, seed: int) -> Logps:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 40, (2, count)).astype(np.int32)
    return Logps(*(-random.gamma(2.0, 10.0, (2, count))), *lengths)


@pytest.fixture
def scores() -> tuple[Logps, Logps]:
    return logps_of(60, 1), logps_of(60, 2)


def test_items_hold_each_pair_s_numbers(scores: tuple[Logps, Logps]) -> None:
    policy, reference = scores
    found = preference_result("p", TASK, policy, reference, pairs := pairs_of(60, 60), {"tokens": "abc"})
    assert [item.item for item in found.items] == [pair.pair_id for pair in pairs]
    for n, item in enumerate(found.items):
        chosen, rejected = policy.chosen[n] - reference.chosen[n], policy.rejected[n] - reference.rejected[n]
        assert item.values == {
            "reward_accuracy": float(chosen > rejected),
            "margin": pytest.approx(chosen - rejected, abs=1e-12),
            "chosen_delta": chosen,
            "rejected_delta": rejected,
            "gamma": policy.chosen[n] - policy.rejected[n],
        }
        assert item.answer == (f"good {n}" if chosen > rejected else f"bad {n}")
        assert (item.question, item.reference) == (f"prompt {n}", f"good {n}")
    assert found.settings["tokens"] == "abc"
    assert (found.settings["count"], found.settings["prompts"]) == (60, 60)


def test_scores_are_those_of_the_held_out_pairs_of_a_plan_where_no_prompt_is_shared(
    scores: tuple[Logps, Logps],
) -> None:
    found = {one.metric: one for one in preference_result("p", TASK, *scores, pairs_of(60, 60), {}).scores}
    known = reward_scores(*scores)
    expected = dataclasses.asdict(known) | {"gamma": dataclasses.asdict(mean_gamma(scores[0]))}
    expected["reward_accuracy"] = expected.pop("accuracy")
    del expected["chosen_per_token"]  # it is for a plan's own diagnoses
    assert found.keys() == expected.keys()
    for metric, one in found.items():
        assert one.value == pytest.approx(expected[metric]["mean"], rel=1e-12)
        assert one.standard_error == pytest.approx(expected[metric]["standard_error"], rel=1e-12)
        assert one.count == 60
    assert preference_result("p", TASK, *scores, pairs_of(60, 60), {}).headline.metric == "reward_accuracy"


def test_the_error_takes_prompts_as_independent(scores: tuple[Logps, Logps]) -> None:
    policy, reference = (dataclasses.replace(one, chosen=np.tile(one.chosen[:20], 3)) for one in scores)
    policy, reference = (
        dataclasses.replace(one, rejected=np.tile(one.rejected[:20], 3)) for one in (policy, reference)
    )
    found = preference_result(
        "p", TASK, policy, reference, pairs_of(60, 20), {}
    )  # each prompt's three pairs say the same
    once = reward_scores(policy.at(np.arange(20)), reference.at(np.arange(20)))
    margin = found.scores[1]
    assert (margin.value, margin.count) == (pytest.approx(once.margin.mean), 60)
    assert margin.standard_error == pytest.approx(once.margin.standard_error, rel=1e-12)
    assert len({item.cluster for item in found.items}) == 20


def test_the_clustered_error_is_the_spread_over_new_sets_of_prompts() -> None:
    random = np.random.default_rng(5)
    values, errors = [], []
    pairs = [pair for n in range(40) for pair in pairs_of(40, 40)[n : n + 1] * (1 + n % 4)]
    of_prompt = np.array([int(pair.prompt[0].content.split()[1]) for pair in pairs])
    zeros, ones = np.zeros(len(pairs)), np.ones(len(pairs), np.int32)
    for _ in range(400):
        drawn = random.normal(1.0, 2.0, 40)[of_prompt] + random.normal(0.0, 1.0, len(pairs))
        (score,) = preference_result("p", TASK, Logps(drawn, zeros, ones, ones), None, pairs, {}).scores
        values.append(score.value)
        errors.append(score.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.1)
    assert np.mean(errors) > 1.3 * np.sqrt(5.0 / len(pairs))  # what it would be of independent pairs


def test_without_a_reference_there_is_gamma_alone(scores: tuple[Logps, Logps]) -> None:
    found = preference_result("p", TASK, scores[0], None, pairs_of(60, 60), {})
    (score,) = found.scores
    expected = mean_gamma(scores[0])
    assert (score.name, score.unit) == ("γ", "nats")
    assert (score.value, score.standard_error) == pytest.approx((expected.mean, expected.standard_error))
    assert [item.answer.split()[0] == "good" for item in found.items] == list(scores[0].chosen > scores[0].rejected)
    assert {tuple(item.values) for item in found.items} == {("gamma",)}


def test_a_model_that_is_its_reference_has_no_right_reward(scores: tuple[Logps, Logps]) -> None:
    found = preference_result("p", TASK, scores[0], scores[0], pairs_of(60, 60), {})
    assert [(one.value, one.standard_error) for one in found.scores[:4]] == [(0.0, 0.0)] * 4
    assert [one.note for one in found.scores] == ["0 of 60: below 4.9 %", "", "", "", ""]


def test_one_prompt_tells_no_error() -> None:
    found = preference_result("p", TASK, logps_of(3, 0), logps_of(3, 1), pairs_of(3, 1), {})
    assert [one.standard_error for one in found.scores] == [None] * 5
    assert {one.note for one in found.scores} == {"one prompt: no error"}


def test_a_conversation_is_shown_whole() -> None:
    turns = (Turn("system", "Be kind."), Turn("user", "Hi"))
    pair = PreferencePair(turns, answer_turn("Hello"), answer_turn("Go"), "a", 1)
    found = preference_result("p", TASK, logps_of(1, 0), None, [pair], {})
    assert found.items[0].question == "system: Be kind.\n\nuser: Hi"


def test_demonstrations_and_no_pairs_are_refused() -> None:
    pair = dataclasses.replace(pairs_of(1, 1)[0], rejected=None)
    with raises("data") as caught:
        preference_result("p", TASK, logps_of(1, 0), None, [pair], {})
    assert caught.value.where == "tasks.p.data" and "pairs.jsonl:1" in caught.value.what
    with raises("data.nothing-left") as caught:
        preference_result("p", TASK, logps_of(0, 0), None, [], {})
    assert caught.value.where == "tasks.p"


def test_other_pairs_have_another_digest(scores: tuple[Logps, Logps]) -> None:
    one, two = (preference_result("p", TASK, *scores, pairs_of(60, n), {}).settings["pairs"] for n in (60, 20))
    assert one != two
