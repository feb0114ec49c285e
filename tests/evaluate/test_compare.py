"""Comparisons of each model with the base and with the model before it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats

from compare_example import answers, items_of, result, two
from raised import raises
from ratchet.evaluate.compare import ModelResults, compare_models
from ratchet.evaluate.results import Item, TaskResult
from ratchet.evaluate.statistics import estimate, paired


def test_each_model_stands_against_the_base_and_the_one_it_was_made_from() -> None:
    models = [
        ModelResults(name, before, {task: result(items_of(answers(0.5, seed))) for task in ("a:x", "a:y")})
        for seed, (name, before) in enumerate([("base", None), ("sft", "base"), ("dpo", "sft"), ("other", "sft")])
    ]
    rows = compare_models(models, {"a:H2": ["a:x", "a:y"]})
    families = [("sft", "base", "base"), ("dpo", "base", "base"), ("dpo", "sft", "before"),
                ("other", "base", "base"), ("other", "sft", "before")]  # fmt: skip
    assert [(row.model, row.against, row.relation) for row in rows[::3]] == families
    assert [row.task for row in rows] == ["a:x", "a:y", "a:H2"] * 5
    assert [row.metric for row in rows[:3]] == ["acc", "acc", "average"]
    assert compare_models(models[:1]) == compare_models([]) == []


def test_items_are_joined_by_name_and_not_by_place() -> None:
    base, mine = answers(0.5, 1), answers(0.6, 2)
    straight = two(result(items_of(mine)), result(items_of(base)))
    turned = two(result(items_of(mine)[::-1]), result(items_of(base)))
    assert straight.difference == pytest.approx(mine.mean() - base.mean())
    assert turned == straight
    assert straight.p == paired(mine, base, [f"q{index}" for index in range(200)], 0).p
    assert (straight.items, straight.clusters, straight.note) == (200, 200, "")


def test_items_without_a_verdict_on_either_side_are_left_out_and_said() -> None:
    base, mine = items_of(answers(0.5, 1, 80)), items_of(answers(0.9, 2, 80))
    base[3] = dataclasses.replace(base[3], values={}, problem="no rating")
    mine[3] = dataclasses.replace(mine[3], values={"other": 1.0}, problem="no rating")
    mine[7] = dataclasses.replace(mine[7], values={}, problem="no rating")
    row = two(result(mine[:-1]), result(base[1:]))
    kept = [index for index in range(1, 79) if index not in {3, 7}]
    expected = np.mean([mine[index].values["acc"] - base[index].values["acc"] for index in kept])
    assert (row.items, row.note) == (76, "76 of 80 items")
    assert row.difference == pytest.approx(expected)


def test_turns_of_one_conversation_are_one_draw() -> None:
    random = np.random.default_rng(3)
    of_question = np.repeat(random.normal(0.3, 1, 40), 2)
    turns = [[Item(f"{i // 2}/{i % 2}", f"{i // 2}", {"rating": float(value)}) for i, value in enumerate(values)]
             for values in (of_question + 5, np.full(80, 5.0))]  # fmt: skip
    row = two(result(turns[0], "rating"), result(turns[1], "rating"))
    assert (row.items, row.clusters) == (80, 40)
    assert row.standard_error == pytest.approx(scipy.stats.sem(of_question[::2]))


def test_a_score_that_is_a_plain_mean_of_groups_is_compared_as_one() -> None:
    sizes = {"algebra": 5, "law": 100, "virology": 20}
    groups = np.repeat(list(sizes), list(sizes.values()))
    values = [answers(share, seed, 125) for seed, share in ((4, 0.7), (5, 0.5))]
    results = []
    for side in values:
        rows = [dataclasses.replace(item, group=str(group)) for item, group in zip(items_of(side), groups, strict=True)]
        value = float(np.mean([side[groups == group].mean() for group in sizes]))
        results.append(result(rows, value=value, settings={"headline_mean": "groups"}))
    row = two(*results)
    gains = [estimate((values[0] - values[1])[groups == group]) for group in sizes]
    assert row.difference == pytest.approx(results[0].headline.value - results[1].headline.value)
    assert row.difference == pytest.approx(np.mean([gain.mean for gain in gains]))
    assert row.standard_error == pytest.approx(math.hypot(*(gain.standard_error for gain in gains)) / 3)
    assert row.note == ""
    plain = two(*(dataclasses.replace(one, settings={}) for one in results))
    assert plain.difference != pytest.approx(row.difference)
    assert plain.note == "of the items' mean acc, which is not the score as it is shown"


def windows(rate: float, seed: int, tokens: Sequence[int]) -> TaskResult:
    nats = np.array(tokens) * np.random.default_rng(seed).normal(rate, 0.2, len(tokens))
    rows = [Item(f"w{i}", f"w{i}", {"nll": nats[i], "tokens": float(count)}) for i, count in enumerate(tokens)]
    value = math.exp(sum(nats) / sum(tokens))
    return result(rows, "nll", value=value, kind="perplexity", lower=True, unit="perplexity")


def test_perplexities_are_compared_in_nats_for_each_token() -> None:
    tokens = np.random.default_rng(6).integers(100, 2000, 60).tolist()
    base, mine = windows(3.0, 7, tokens), windows(2.5, 8, tokens)
    row = two(mine, base)
    assert row.difference == pytest.approx(math.log(mine.headline.value / base.headline.value))
    off = np.array([a.values["nll"] - b.values["nll"] for a, b in zip(mine.items, base.items, strict=True)])
    draws = np.random.default_rng(9).integers(0, 60, (20_000, 60))
    spread = (off[draws].sum(axis=1) / np.array(tokens)[draws].sum(axis=1)).std()
    assert row.standard_error == pytest.approx(spread, rel=0.05)
    assert (row.verdict, row.note) == ("better", "in nats for each token")
    assert two(base, mine).verdict == "worse"
    other = two(mine, windows(3.0, 7, [*tokens[:-1], tokens[-1] + 1]))
    assert (other.difference, other.note) == (None, "the same items have other numbers of tokens")


def test_a_corpus_score_is_compared_by_its_items_and_says_so() -> None:
    base, mine = (
        result(items_of(answers(share, seed) * 30, "bleu"), "bleu", value=20.0, settings={"headline_mean": "corpus"})
        for share, seed in ((0.3, 1), (0.6, 2))
    )
    row = two(mine, base)
    assert row.verdict == "better"
    assert row.note == "of the items' mean bleu; the score is of all texts together"


SAME = {"versions": {"lm_eval": "0.4.13"}, "shots": 25, "data": {"test": "ab12", "train": "cd34"}, "stops": ["\n"]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"settings": {**SAME, "data": {"test": "ffff", "train": "cd34"}}}, "made with other settings: data.test"),
        ({"settings": {**SAME, "shots": 5, "limit": 10}}, "made with other settings: shots, limit"),
        ({"settings": {key: SAME[key] for key in ("versions", "data", "stops")}}, "made with other settings: shots"),
        ({"kind": "exact_match"}, "dpo has exact_match acc, base has harness acc"),
        ({"metric": "acc_norm"}, "dpo has harness acc_norm, base has harness acc"),
        ({"value": None, "note": "12 of 80 judged"}, "no score of dpo: 12 of 80 judged"),
        ({"value": None}, "no score of dpo: too much is missing"),
    ],
)
def test_results_that_are_not_alike_are_refused(change: dict[str, Any], says: str) -> None:
    change = {"settings": SAME, "metric": "acc", **change}
    mine = result(items_of(answers(0.9, 1), change["metric"]), **change)
    row = two(mine, result(items_of(answers(0.1, 2)), settings=SAME))
    assert row.note == says
    assert (row.difference, row.standard_error, row.low, row.high, row.p, row.p_holm) == (None,) * 6
    assert (row.verdict, row.items, row.clusters) == ("not shown", 0, 0)


def test_settings_read_back_from_a_file_are_the_same_settings() -> None:
    made = {**SAME, "stops": ("\n",), "pairs": ({"b": 1, "a": (2,)},)}
    read = json.loads(json.dumps({key: made[key] for key in reversed(made)}, sort_keys=True))
    row = two(result(items_of(answers(0.9, 1)), settings=made), result(items_of(answers(0.1, 2)), settings=read))
    assert (row.verdict, row.note) == ("better", "")


def test_items_that_cannot_be_joined_are_refused() -> None:
    good = items_of(answers(0.5, 1, 10))
    elsewhere = [dataclasses.replace(item, item=f"other {item.item}") for item in good]
    assert two(result(elsewhere), result(good)).note == "none of 20 items has acc on both sides"
    assert two(result([*good, good[0]]), result(good)).note == "dpo has two items of one name"
    broken = [*good[:-1], dataclasses.replace(good[-1], values={"acc": math.nan})]
    assert two(result(good), result(broken, value=0.5)).note == "base has a value that is not finite"


def test_a_task_that_one_model_was_not_asked_has_a_row() -> None:
    done = result(items_of(answers(0.5, 1)))
    rows = compare_models([ModelResults("base", None, {"a:x": done}), ModelResults("dpo", "base", {"a:y": done})])
    assert [(row.task, row.note) for row in rows] == [("a:y", "base has no result"), ("a:x", "dpo has no result")]


@pytest.mark.parametrize(
    ("before", "name", "named"),
    [
        ("sft", "dpo", ("dpo", "sft", "base")),
        ("base", "base", ("base",)),
    ],
)
def test_models_that_are_not_there_are_errors(before: str, name: str, named: tuple[str, ...]) -> None:
    with raises("data.not-comparable") as caught:
        compare_models([ModelResults("base", None, {}), ModelResults(name, before, {})])
    assert all(name in caught.value.what for name in named)


def test_where_less_is_better_a_fall_is_better() -> None:
    low, high = items_of(answers(0.1, 1)), items_of(answers(0.9, 2))
    assert two(result(high), result(low)).verdict == "better"
    assert two(result(low), result(high)).verdict == "worse"
    assert two(result(low, lower=True), result(high, lower=True)).verdict == "better"
