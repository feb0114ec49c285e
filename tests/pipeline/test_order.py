"""The order of a stage is decided once, and again where the plan, a model or the file is another; what it scores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bits import flip
from ratchet.model.scratch import make_scratch
from ratchet.pipeline.context import Order, Run
from ratchet.pipeline.graph import BASE, all_steps
from ratchet.pipeline.order import ensure_order, find_order, order_of_stage
from ratchet.pipeline.prepare import prepare_sources
from ratchet.pipeline.reference_passes import reference_jobs, step_jobs
from ratchet.plan.model import Scratch
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import trains
from ratchet.reference.models import model_of
from ratchet.store.files import write_sealed
from ratchet.store.layout import layout_at
from ratchet.store.made import keep_document
from ratchet.track.progress import Console

SMALL = Scratch(tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=1, heads=2, key_value_heads=1)


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Order]:
    root = tmp_path_factory.mktemp("decided")
    make_scratch(SMALL, ["12 + 30 = 42"] * 9, root / "model")
    run = opened(root)
    prepare_sources(run)
    return root, ensure_order(run, "align")


def opened(root: Path, fresh: bool = False, **stage: Any) -> Run:
    align = {"kind": "dpo", "data": ["a"], "steps": {"by": "count", "count": 2, "order": "random"}, **stage}
    rows = {"generate": {"kind": "arithmetic", "rows": 24}, "build": "arithmetic_corruption"}
    plan = Plan.model_validate(
        {
            "name": "p",
            "model": {"path": str(root / "model")},
            "data": {"a": rows},
            "stages": {"align": align},
            "cluster": {"storage": str(root / "out")},
        }
    )
    run = Run(plan, layout_at(plan.cluster.storage), Console(), fresh, None)
    run.models[BASE] = model_of(BASE, plan.model, root / "model")
    return run


def prepared(root: Path, fresh: bool = False, **stage: Any) -> Run:
    prepare_sources(run := opened(root, fresh, **stage))
    return run


def test_an_order_is_decided_once(decided: tuple[Path, Order]) -> None:
    root, order = decided
    run = prepared(root)
    assert order.chunks == ("part 1", "part 2") and order.difficulties and find_order(run, "align") == order
    kept, path = order_of_stage(run, "align"), run.layout.order("p", "align")
    assert kept is not None
    turned = dataclasses.replace(order, rows=order.rows and order.rows[::-1])
    keep_document(path, kept, turned)
    assert ensure_order(prepared(root), "align") == turned, "what is kept is taken"
    assert ensure_order(prepared(root, fresh=True), "align") == order, "and with --fresh decided again"


def test_an_order_that_was_decided_for_something_else_is_not_found(decided: tuple[Path, Order]) -> None:
    root, order = decided
    for other in ({"seed": 7}, {"max_length": 24}, {"steps": {"by": "count", "count": 2, "order": "listed"}}):
        assert find_order(prepared(root, **other), "align") is None, other
    assert find_order(prepared(root, beta=0.5), "align") == order
    run = prepared(root)
    run.models[BASE] = dataclasses.replace(run.models[BASE], weights="others")
    assert find_order(run, "align") is None
    del run.models[BASE]
    assert find_order(run, "align") is None, "its start model is not there"


def test_a_damaged_order_is_decided_again(decided: tuple[Path, Order]) -> None:
    root, order = decided
    path = (run := prepared(root)).layout.order("p", "align")
    flip(path, 40)
    assert ensure_order(run, "align") == order and find_order(run, "align") == order


def test_an_order_from_before_they_named_what_they_are_of_is_shown_and_decided_again(
    decided: tuple[Path, Order],
) -> None:
    root, order = decided
    path = (run := prepared(root)).layout.order("p", "align")
    write_sealed(path, dataclasses.asdict(order))
    assert find_order(run, "align") is None and find_order(run, "align", unnamed=True) == order
    ensure_order(run, "align")
    assert "made_of" in json.loads(path.read_text())


@pytest.mark.parametrize(
    ("steps", "splits"),
    [
        (None, ["train", "heldout"]),
        ({"by": "source"}, ["train", "heldout"]),
        ({"by": "source", "order": "easy_to_hard"}, ["train"]),
        ({"by": "count", "count": 2}, []),
        ({"by": "count", "count": 2, "order": "hard_to_easy"}, ["train"]),
    ],
)
def test_a_model_is_scored_at_once_on_all_that_its_steps_will_ask(
    decided: tuple[Path, Order], steps: dict[str, Any] | None, splits: list[str]
) -> None:
    """Cut chunks are scored with their steps; an order by difficulty asks for all pairs to train on first."""
    run = prepared(decided[0], steps=steps)
    found = [job for _, job in reference_jobs(run, BASE)]
    assert [(job.split, job.rows) for job in found] == [(split, None) for split in splits]
    if splits == ["train", "heldout"]:
        stage: Any = run.plan.stages["align"]
        assert [found] == [step_jobs(run, step, stage) for step in all_steps(run.plan, {})]
    assert not list(reference_jobs(run, "align"))


def test_a_cut_chunk_is_scored_on_its_own_rows_and_on_all_that_is_held_out(decided: tuple[Path, Order]) -> None:
    run = prepared(decided[0])
    stage = run.plan.stages["align"]
    assert trains(stage)
    order = run.orders["align"] = ensure_order(run, "align")
    jobs = [step_jobs(run, step, stage) for step in all_steps(run.plan, {"align": order.chunks})]
    assert order.rows is not None and [[job.rows for job in some] for some in jobs] == [
        [tuple(sorted(rows)), None] for rows in order.rows
    ]
    assert [[job.split for job in some] for some in jobs] == [["train", "heldout"]] * 2
