"""What a good plan's parts say of each other: order, starts, references, micro-batches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.plan.model import ModelSpec
from ratchet.plan.references import reference_of, stage_order, start_of
from ratchet.plan.schema import Plan


def plan_with(stages: dict[str, dict[str, Any]]) -> Plan:
    common = {"name": "p", "model": {"path": "m"}, "data": {"a": {"path": "f"}}}
    filled = {name: {"kind": "dpo", "data": ["a"], **stage} for name, stage in stages.items()}
    for stage in filled.values():
        if stage["kind"] == "merge":
            del stage["data"]
    return Plan.model_validate({**common, "stages": filled})


def test_order_follows_names_and_then_the_file() -> None:
    plan = plan_with(
        {
            "blend": {"kind": "merge", "of": ["late", "first"]},
            "late": {"after": "first"},
            "free": {},
            "judged": {"reference": "late", "start": "base"},
            "first": {},
        }
    )
    assert stage_order(plan) == ["free", "first", "late", "blend", "judged"]


@given(st.lists(st.sets(st.integers(0, 9), max_size=3), min_size=1, max_size=10), st.randoms(use_true_random=False))
def test_every_stage_comes_once_and_after_what_it_names(needs: list[set[int]], random: Any) -> None:
    stages: dict[str, dict[str, Any]] = {}
    for n, named in enumerate(needs):
        known = [f"s{m}" for m in sorted(named) if m < n]  # only earlier ones: no circle
        keys = ("after", "start", "reference")
        stages[f"s{n}"] = dict(zip(keys, known, strict=False))
    names = list(stages)
    random.shuffle(names)
    order = stage_order(plan_with({name: stages[name] for name in names}))
    assert sorted(order) == sorted(names)
    for name, stage in stages.items():
        assert all(order.index(needed) < order.index(name) for needed in stage.values())
    ready = [name for name in names if not stages[name]]
    assert order[0] == ready[0]


def test_a_long_chain_is_no_deep_recursion() -> None:
    stages = {f"s{n}": {"after": f"s{n - 1}"} if n else {} for n in range(1500)}
    assert stage_order(plan_with(dict(reversed(stages.items())))) == list(stages)


def test_starts_and_references() -> None:
    other = {"path": "elsewhere"}
    plan = plan_with(
        {
            "plain": {},
            "chained": {"after": "plain"},
            "restarted": {"after": "plain", "start": "base"},
            "judged": {"after": "plain", "reference": "chained"},
            "by-base": {"after": "plain", "reference": "base"},
            "by-other": {"after": "plain", "reference": other},
            "blend": {"kind": "merge", "of": ["plain", "chained"]},
            "warm": {"kind": "sft", "after": "plain"},
        }
    )
    told = {name: start_of(plan, name) for name in plan.stages if name != "blend"}
    assert told.pop("plain") == told.pop("restarted") == "base"
    assert set(told.values()) == {"plain"}
    names = ("plain", "chained", "restarted", "judged", "by-base")
    assert [reference_of(plan, name) for name in names] == ["base", "plain", "base", "chained", "base"]
    assert reference_of(plan, "by-other") == ModelSpec(path="elsewhere")
    with pytest.raises(ValueError, match="blend is a merge"):
        start_of(plan, "blend")
    with pytest.raises(ValueError, match="warm is of kind sft"):
        reference_of(plan, "warm")
