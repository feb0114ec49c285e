"""Comparisons of averages, their correction for many comparisons, and what recorded judgments show."""

from __future__ import annotations

import collections
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from compare_example import answers, items_of, result
from ratchet.documents.heldout import Estimate
from ratchet.evaluate.compare import ModelResults, compare_models
from ratchet.evaluate.results import Item, TaskResult
from ratchet.evaluate.statistics import clustered, holm, paired


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
