"""Models against the base and against the one before: what is joined, what is refused, what is shown."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from ratchet.documents.heldout import Estimate
from ratchet.documents.scores import Comparison, Score
from ratchet.errors import DataError
from ratchet.evaluate.compare import ModelResults, compare_models
from ratchet.evaluate.results import Item, TaskResult
from ratchet.evaluate.statistics import clustered, estimate, holm, paired
from ratchet.reference.store import Floats

TASK = "h6:arc"


def result(
    items: Sequence[Item], metric: str = "acc", *, value: float | str | None = "mean",
    settings: Mapping[str, Any] | None = None,
    kind: str = "harness", lower: bool = False, unit: str = "share", note: str = "",
) -> TaskResult:  # fmt: skip
    """A task's result with the mean of its items as its score, unless `value` says another."""
    if value == "mean":
        value = float(np.mean([item.values[metric] for item in items if metric in item.values]))
    score = Score(metric, metric, value, None, len(items), unit, note=note, lower_is_better=lower)
    return TaskResult("arc", kind, (score,), tuple(items), settings or {})


def items_of(values: Sequence[float] | Floats, metric: str = "acc", **fields: Any) -> list[Item]:
    return [Item(f"q{index}", f"q{index}", {metric: float(value)}, **fields) for index, value in enumerate(values)]


def two(mine: TaskResult, base: TaskResult) -> Comparison:
    (row,) = compare_models([ModelResults("base", None, {TASK: base}), ModelResults("dpo", "base", {TASK: mine})])
    return row


def answers(share: float, seed: int, count: int = 200) -> Floats:
    return (np.random.default_rng(seed).random(count) < share).astype(float)


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
    ("before", "name", "says"),
    [
        ("sft", "dpo", "dpo was made from sft, which is not among the models ahead of it: base"),
        ("base", "base", "two models are named base"),
    ],
)
def test_models_that_are_not_there_are_errors(before: str, name: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        compare_models([ModelResults("base", None, {}), ModelResults(name, before, {})])


def test_holm_is_over_all_comparisons_of_a_table() -> None:
    base = {f"a:{n}": result(items_of(np.zeros(40))) for n in range(4)}
    moved = [(12, 0), (8, 1), (6, 6), (9, 1)]
    gains = [np.repeat([1.0, -1.0, 0.0], [up, down, 40 - up - down]) for up, down in moved]
    mine = {f"a:{n}": result(items_of(gain), value=0.1) for n, gain in enumerate(gains)}
    none = {"a:4": result(items_of(np.ones(5)), value=None)}
    rows = compare_models(
        [ModelResults("base", None, {**base, **none}), ModelResults("sft", "base", {**mine, **none}),
         ModelResults("dpo", "sft", {"a:1": mine["a:1"]})]
    )  # fmt: skip
    sign_tests = [scipy.stats.binomtest(up, up + down).pvalue for up, down in moved]
    assert [row.p for row in rows[:4]] == pytest.approx(sign_tests)
    assert sign_tests[1] == pytest.approx(0.0391, abs=1e-4)
    # Two more of them: dpo against base on a:1, with the p of sft, and against sft, where nothing differs.
    first, second, third = 6 * sign_tests[0], 5 * sign_tests[3], 4 * sign_tests[1]
    assert [row.p_holm for row in rows[:4]] == pytest.approx([first, third, 1.0, second])
    assert [row.verdict for row in rows[:5]] == ["better", "not shown", "not shown", "not shown", "not shown"]
    alone = next(row for row in rows if (row.model, row.task, row.relation) == ("dpo", "a:1", "base"))
    assert (alone.p, alone.p_holm) == (pytest.approx(sign_tests[1]), pytest.approx(third)), "no family of its own"
    assert alone.verdict == "not shown"


def test_where_less_is_better_a_fall_is_better() -> None:
    low, high = items_of(answers(0.1, 1)), items_of(answers(0.9, 2))
    assert two(result(high), result(low)).verdict == "better"
    assert two(result(low), result(high)).verdict == "worse"
    assert two(result(low, lower=True), result(high, lower=True)).verdict == "better"


def test_an_average_is_compared_by_its_tasks_differences() -> None:
    sides = [{f"a:{n}": result(items_of(answers(share + n / 20, 10 * seed + n, 100 + 50 * n))) for n in range(4)}
             for seed, share in ((1, 0.35), (2, 0.5))]  # fmt: skip
    models = [ModelResults("base", None, sides[0]), ModelResults("dpo", "base", sides[1])]
    rows = compare_models(models, {"a:H4": [*sides[0]], "a:H2": ["a:0", "a:1"]})
    whole = rows[4]
    assert whole.difference == pytest.approx(
        np.mean([sides[1][task].headline.value - sides[0][task].headline.value for task in sides[0]])
    )
    # By another route: all items of all tasks at once, each task a group.
    pooled = [np.concatenate([[item.values["acc"] for item in one.items] for one in side.values()]) for side in sides]
    tags = [task for task, one in sides[0].items() for _ in one.items]
    names = [f"{task} {index}" for index, task in enumerate(tags)]
    together = paired(pooled[1], pooled[0], names, 0, groups=tags)
    assert (whole.difference, whole.standard_error) == pytest.approx((together.difference, together.standard_error))
    assert (whole.low, whole.high) == pytest.approx((together.low, together.high), abs=1e-3)
    assert whole.p == pytest.approx(together.p, abs=0.01)
    assert (whole.items, whole.clusters, whole.verdict) == (700, 700, "better")
    assert [row.p_holm for row in rows] == pytest.approx(holm([row.p for row in rows])), "one family of all six"


def test_an_average_needs_all_of_its_tasks() -> None:
    done, unscored = result(items_of(answers(0.5, 1))), result(items_of(answers(0.5, 2)), value=None)
    up = result(items_of(answers(0.9, 3)), lower=True)
    of = {"a:x": done, "a:y": unscored, "a:one": result(items_of([1.0])), "a:less": up}
    models = [ModelResults("base", None, of), ModelResults("dpo", "base", of)]
    averages = {"a:A": ["a:x", "a:y"], "a:B": ["a:x", "a:one", "a:gone"], "a:C": ["a:x", "a:less"]}
    rows = compare_models(models, averages)[-3:]
    assert [row.note for row in rows] == [
        "no comparison, or none with an error, of a:y",
        "no comparison, or none with an error, of a:one, a:gone",
        "more is better in one task and less in another",
    ]
    assert {(row.p, row.verdict) for row in rows} == {(None, "not shown")}


def test_a_handful_of_items_that_all_agree_show_no_average() -> None:
    zeros, ones = ({f"a:{n}": result(items_of([value] * 2), value=value) for n in range(2)} for value in (1e-9, 1.0))
    row = compare_models(
        [ModelResults("base", None, zeros), ModelResults("dpo", "base", ones)], {"a:H2": ["a:0", "a:1"]}
    )[-1]
    assert (row.p, row.verdict, row.note) == (None, "not shown", "too few items to tell")
    same = compare_models(
        [ModelResults("base", None, ones), ModelResults("dpo", "base", ones)], {"a:H2": ["a:0", "a:1"]}
    )[-1]
    assert (same.difference, same.p, same.verdict, same.note) == (0.0, 1.0, "not shown", "")


def test_tasks_whose_items_all_agree_leave_their_average_open() -> None:
    zeros, ones = ({f"a:{n}": result(items_of([value] * 60), value=value) for n in range(2)} for value in (0.0, 1.0))
    averages = {"a:H2": ["a:0", "a:1"]}
    same = compare_models([ModelResults("base", None, zeros), ModelResults("dpo", "base", zeros)], averages)
    assert same[0].high == pytest.approx(0.0602, abs=1e-4), "0 of 60 against 0 of 60"
    assert (same[2].low, same[2].high) == pytest.approx((-0.0602 / 2**0.5, 0.0602 / 2**0.5), abs=1e-4)
    apart = compare_models([ModelResults("base", None, zeros), ModelResults("dpo", "base", ones)], averages)
    assert (apart[2].difference, apart[2].high) == pytest.approx((1.0, 1.0))
    assert 1 - apart[2].low == pytest.approx((1 - apart[0].low) / 2**0.5) and apart[0].low < 0.95
    mixed = compare_models(
        [ModelResults("base", None, zeros), ModelResults("dpo", "base", {**zeros, "a:1": half()})], averages
    )
    upper = [row.high - row.difference for row in mixed]
    assert upper[2] == pytest.approx(np.hypot(upper[0], upper[1]) / 2)


def half() -> TaskResult:
    return result(items_of([0.0, 1.0] * 30), value=0.5)


def test_a_note_of_a_task_is_a_note_of_its_average() -> None:
    whole, part = result(items_of(answers(0.5, 1, 80))), result(items_of(answers(0.5, 2, 79)))
    models = [ModelResults("base", None, {"a:x": whole, "a:y": whole}),
              ModelResults("dpo", "base", {"a:x": part, "a:y": whole})]  # fmt: skip
    assert compare_models(models, {"a:H2": ["a:x", "a:y"]})[-1].note == "a:x: 79 of 80 items"


def test_recorded_mt_bench_judgments_show_what_they_can(shared: Path) -> None:
    turns: dict[str, list[Item]] = collections.defaultdict(list)
    path = shared / "mt_bench/recorded/don-tpanic/model_judgment/gpt-4_single.jsonl"
    for row in map(json.loads, path.read_text().splitlines()):
        question = str(row["question_id"])
        turns[row["model"]].append(Item(f"{question}/{row['turn']}", question, {"rating": row["score"]}))
    made = [("llama2_chat_7b", None), ("finetune_llama2_chat_7b_Attention", "llama2_chat_7b"),
            ("finetune_llama2_chat_7b", "finetune_llama2_chat_7b_Attention")]  # fmt: skip
    models = [
        ModelResults(model, before, {"mt:mt": result(turns[model], "rating", kind="mt_bench")})
        for model, before in made
    ]
    rows = compare_models(models)
    assert [(row.relation, row.verdict, row.items, row.clusters, row.note) for row in rows] == [
        ("base", "worse", 160, 80, ""), ("base", "worse", 160, 80, ""), ("before", "not shown", 160, 80, "")
    ]  # fmt: skip
    assert [row.difference for row in rows] == pytest.approx([-1.04, -1.57, -0.52], abs=0.006)
    by_turn = clustered(
        np.array([item.values["rating"] for item in turns[made[0][0]]]), [item.cluster for item in turns[made[0][0]]]
    )
    assert by_turn == Estimate(pytest.approx(6.1906, abs=5e-5), pytest.approx(0.364, abs=5e-4), 160)
