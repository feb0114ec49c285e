"""From a plan to its steps: names, starts, references, chunks, and what is in an identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet.pipeline.graph import all_steps, chunk_names, final_model, needs_difficulty, options, preference_sources
from ratchet.plan.load import load_plan
from ratchet.plan.model import ModelSpec
from ratchet.plan.schema import Plan

SOURCE = {"generate": {"kind": "arithmetic"}}


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    def make(stages: dict[str, Any], **more: Any) -> Plan:
        document = {"name": "p", "model": {"path": "m"}, "data": dict.fromkeys("abc", SOURCE), "stages": stages} | more
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return load_plan(path)

    return make


STEPWISE = {"kind": "dpop", "data": ["a", "b", "c"], "steps": {"by": "source"}}


def test_a_stepwise_stage_refers_to_and_starts_from_the_step_before(plan: Any) -> None:
    made = plan({"warm": {"kind": "sft", "data": ["a"]}, "align": STEPWISE | {"after": "warm"}})
    steps = all_steps(made, {"align": ["c", "a", "b"]})
    assert [(s.name, list(s.chunk.shares), s.start, s.reference) for s in steps] == [
        ("warm", ["a"], "base", None),
        ("align.1", ["c"], "warm", "warm"),
        ("align.2", ["a"], "align.1", "align.1"),
        ("align.3", ["b"], "align.2", "align.2"),
    ]
    assert final_model(made, "align") == "align.3"
    assert final_model(made, "base") == "base"


def test_the_target_may_start_from_the_stage_s_start_at_every_step(plan: Any) -> None:
    made = plan({"align": STEPWISE | {"steps": {"by": "count", "count": 2, "target": "start"}}})
    steps = all_steps(made, {})
    assert [(s.start, s.reference, s.chunk.part, s.chunk.parts) for s in steps] == [
        ("base", "base", 1, 2),
        ("base", "align.1", 2, 2),
    ]
    assert steps[1].chunk.label == "a + b + c, part 2 of 2"
    assert chunk_names(made.stages["align"]) == ["part 1", "part 2"]


def test_an_external_reference_is_the_first_step_s(plan: Any) -> None:
    made = plan({"align": STEPWISE | {"reference": {"path": "other"}}})
    steps = all_steps(made, {})
    assert isinstance(steps[0].reference, ModelSpec)
    assert [step.reference for step in steps[1:]] == ["align.1", "align.2"]


def test_stages_run_in_the_order_they_need_each_other(plan: Any) -> None:
    made = plan(
        {
            "blend": {"kind": "merge", "of": ["last", "base"]},
            "last": {"kind": "dpo", "data": ["b"], "after": "first"},
            "first": {"kind": "sft", "data": ["a"]},
        }
    )
    steps = all_steps(made, {})
    assert [step.name for step in steps] == ["first", "last", "blend"]
    assert steps[2].start == "last"
    assert preference_sources(made) == ["b"]


@pytest.mark.parametrize(
    ("order", "needs"), [("easy_to_hard", True), ("hard_to_easy", True), ("random", False), ("listed", False)]
)
def test_only_an_order_by_difficulty_needs_scores(plan: Any, order: str, needs: bool) -> None:
    made = plan({"align": STEPWISE | {"steps": {"by": "source", "order": order}}})
    assert needs_difficulty(made.stages["align"]) is needs


@pytest.mark.parametrize(
    ("key", "value", "counts"),
    [
        ("beta", 0.7, True),
        ("penalty", 5.0, True),
        ("learning_rate", 1e-4, True),
        ("seed", 3, True),
        ("epochs", 2, True),
        ("lora", {"rank": 4}, True),
        ("checkpoint", {"every": 7, "keep": 3}, False),
        ("first_loss", 0.4, False),
        ("router_loss", 0.4, True),
        ("router_loss", "model", True),
        ("checkpoint", {"publish": "best"}, True),
    ],
)
def test_what_decides_the_numbers_is_in_the_identity_and_the_rest_is_not(
    plan: Any, key: str, value: Any, counts: bool
) -> None:
    stage = {"kind": "dpop", "data": ["a"]}
    before = options(plan({"align": stage}).stages["align"])
    after = options(plan({"align": stage | {key: value}}).stages["align"])
    assert (before != after) is counts


def test_a_router_loss_that_is_off_is_in_no_identity(plan: Any) -> None:
    """Steps from before there was such a key keep theirs."""
    stages = {"plain": {}, "off": {"router_loss": "off"}, "on": {"router_loss": 0.01}}
    made = plan({name: {"kind": "dpo", "data": ["a"], **more} for name, more in stages.items()}).stages
    found = {name: options(stage) for name, stage in made.items()}
    assert found["plain"] == found["off"] and found["on"] == {**found["off"], "router_loss": 0.01}


def test_the_cluster_is_in_no_identity(plan: Any) -> None:
    stages = {"align": {"kind": "dpo", "data": ["a"]}}
    small = plan(stages)
    large = plan(stages, cluster={"workers": 4, "deepspeed": {"zero": 3}, "gradient_checkpointing": True})
    assert options(small.stages["align"]) == options(large.stages["align"])
