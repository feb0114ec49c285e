"""Shares and mixes of a stage's sources: what a plan may say, and how many pairs follow."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raised import raises
from ratchet.plan.load import load_plan
from ratchet.plan.stages import Sft
from ratchet.plan.training import Mix, TrainingStage


def stage(**keys: Any) -> TrainingStage:
    return Sft.model_validate({"kind": "sft", **keys})


@pytest.mark.parametrize(
    ("until", "weights", "pairs", "counts"),
    [
        ("first_exhausted", {"a": 3, "b": 1}, {"a": 300, "b": 500}, {"a": 300, "b": 100}),
        ("all_exhausted", {"a": 3, "b": 1}, {"a": 300, "b": 500}, {"a": 1500, "b": 500}),
        ("first_exhausted", {"a": 1, "b": 1}, {"a": 10, "b": 7}, {"a": 7, "b": 7}),
        ("all_exhausted", {"a": 0.7, "b": 0.3}, {"a": 70, "b": 30}, {"a": 70, "b": 30}),
        ("first_exhausted", {"a": 1, "b": 1}, {"a": 10, "b": 0}, {"a": 10, "b": 0}),
    ],
)
def test_weights_become_counts(
    until: str, weights: dict[str, float], pairs: dict[str, int], counts: dict[str, int]
) -> None:
    shares = Mix.model_validate({"weights": weights, "until": until}).shares(pairs)
    assert {name: round(shares[name] * pairs[name]) for name in pairs} == counts


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5000)), min_size=2, max_size=5),
    st.sampled_from(["first_exhausted", "all_exhausted"]),
)
def test_counts_are_those_of_exact_fractions(parts: list[tuple[int, int]], until: str) -> None:
    weights = {f"s{k}": weight for k, (weight, _) in enumerate(parts)}
    pairs = {f"s{k}": count for k, (_, count) in enumerate(parts)}
    shares = Mix.model_validate({"weights": weights, "until": until}).shares(pairs)
    unit = (min if until == "first_exhausted" else max)(Fraction(pairs[name], weights[name]) for name in pairs)
    for name, count in pairs.items():
        assert abs(Fraction(shares[name]) * count - unit * weights[name]) < Fraction(1, 1000)
        once = shares[name] <= 1 + 1e-9 if until == "first_exhausted" else shares[name] >= 1 - 1e-9
        assert once, "no pair twice, or each pair once"
    whole = [name for name in pairs if round(shares[name] * pairs[name]) == pairs[name]]
    assert whole, "some source comes exactly once"


def test_without_a_mix_the_shares_are_the_plans() -> None:
    assert stage(data=["a", "b"]).shares_of({}) == {"a": 1.0, "b": 1.0}
    assert stage(data={"a": 1.5, "b": 3.0}).shares_of({}) == {"a": 1.5, "b": 3.0}


@pytest.mark.parametrize(
    ("keys", "draws"),
    [
        ({"data": ["a"]}, False),
        ({"data": {"a": 3.0, "b": 1.0}}, False),
        ({"data": {"a": 1.5}}, True),
        ({"data": ["a"], "mix": {"weights": {"a": 1.0}}}, True),
    ],
)
def test_the_seed_counts_where_a_part_is_drawn(keys: dict[str, Any], draws: bool) -> None:
    assert stage(**keys).draws is draws


STAGES = {
    "data: {chat: 0}": "5: stages.s.data.chat: must be a number above 0 and at most 100",
    "data: {chat: 200}": "5: stages.s.data.chat: must be a number above 0 and at most 100",
    "data: [chat, math]\n    mix: {weights: {chat: 3}}": "6: stages.s.mix.weights: has no weight for math",
    "data: [chat, math]\n    mix: {weights: {chat: 3, maths: 1}}": (
        "6: stages.s.mix.weights.maths: no source of the stage; did you mean math?"
    ),
    "data: {chat: 2, math: 1}\n    mix: {weights: {chat: 3, math: 1}}": (
        "6: stages.s.mix: says how often each source comes, and so does `data`: list the sources there"
    ),
    "data: [chat, math]\n    mix: {weights: {chat: 3, math: 1}, until: all}": "6: stages.s.mix.until: must be",
    "data: [chat, math]\n    mix: {weights: {chat: 3, math: -1}}": "6: stages.s.mix.weights.math: must be",
    "data: [chat, math]\n    mix: {weight: {chat: 3}}": "6: stages.s.mix.weight: no such key; did you mean weights?",
}


@pytest.mark.parametrize("said", sorted(STAGES))
def test_a_plan_says_at_which_line_its_mix_is_wrong(said: str, tmp_path: Path) -> None:
    plan = tmp_path / "p.yaml"
    sources = "{chat: {path: a.jsonl}, math: {path: b.jsonl}}"
    keys = said.replace("\n", ",\n")
    head = f"name: p\nmodel: {{path: m}}\ndata: {sources}\n"
    plan.write_text(f"{head}stages: {{s: {{kind: sft,\n    {keys}}}}}\n")
    with raises("plan") as caught:
        load_plan(plan)
    assert f"{plan}:{STAGES[said]}" in caught.value.what


def test_steps_by_source_have_no_mix(tmp_path: Path) -> None:
    plan = tmp_path / "p.yaml"
    plan.write_text(
        "name: p\nmodel: {path: m}\ndata: {chat: {path: a.jsonl}, math: {path: b.jsonl}}\nstages:\n  s:\n"
        "    kind: dpo\n    data: [chat, math]\n    steps: {by: source}\n    mix: {weights: {chat: 1, math: 1}}\n"
    )
    with raises("plan") as caught:
        load_plan(plan)
    assert f"{plan}:9: stages.s.mix: steps by source train one source each" in caught.value.what
