"""A trial runs the plan with a point's values in it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import PlanError
from ratchet.plan.load import plan_of
from ratchet.plan.reading import parse, read
from ratchet.plan.space import Space
from ratchet.plan.stages import Dpop
from ratchet.tune.points import points
from ratchet.tune.trial_plan import trial_document
from tests.conftest import ROOT

ORDERS = {"stages.align.data": {"permutation": ["slips", "quiz"]}}
LISTED = {"stages.align.steps.order": "listed"}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def space(keys: dict[str, Any], **rest: Any) -> Space:
    return Space.model_validate({"name": "x", "keys": keys, "objectives": {"align/train/loss": "min"}, **rest})


def test_a_trial_is_the_plan_with_the_points_values() -> None:
    plan = read(Path("jobs/quickstart.yaml"))
    values = {"stages.align.data": ["quiz", "slips"], "stages.align.beta": 0.5}
    varied = space(ORDERS | {"stages.align.beta": {"grid": [0.5, 1]}}, set=LISTED, unset=["stages.align.batch"])
    made = plan_of(trial_document(plan, varied, values, 7))
    align = made.stages["align"]
    assert isinstance(align, Dpop)
    assert (align.data, align.beta, align.seed) == (("quiz", "slips"), 0.5, 7)
    assert (align.batch, align.learning_rate) == (Dpop.model_fields["batch"].default, 2e-4)
    assert [made.stages[name].seed for name in ("warm", "control")] == [0, 0]  # type: ignore[union-attr]
    assert plan == read(Path("jobs/quickstart.yaml"))


def test_an_order_of_sources_with_shares_keeps_them() -> None:
    text = Path("jobs/quickstart.yaml").read_text()
    plan = parse(text.replace("data: [slips, quiz]\n    steps", "data: {slips: 0.9, quiz: 0.4}\n    steps"), "p.yaml")
    varied = space(ORDERS, set=LISTED)
    made = plan_of(trial_document(plan, varied, {"stages.align.data": ["quiz", "slips"]}, None))
    assert list(made.stages["align"].data.items()) == [("quiz", 0.4), ("slips", 0.9)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"stages.align.data": ["quiz"]}, "--set stages.align.data: leaves out slips, which stages.align.data has"),
        (
            {"stages.align.data": "quiz"},
            "--set stages.align.data: must be a list of names, in the order in which they are",
        ),
        ({"stages.align.beta": -1}, "--set stages.align.beta: must be a number above 0, not -1"),
        ({"stages.algin.beta": 1}, "--set stages.algin.beta: no such key; did you mean stages.align.beta?"),
    ],
)
def test_a_point_from_elsewhere_that_is_none_is_told(values: dict[str, Any], line: str) -> None:
    plan = read(Path("jobs/quickstart.yaml"))
    with pytest.raises(PlanError) as caught:
        plan_of(trial_document(plan, space(ORDERS, set=LISTED), values, None))
    assert caught.value.what.startswith(line)
    assert len(caught.value.what.splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "seeded"),
    [
        ("stages.warm.batch", {"warm"}),
        ("data.slips.seed", {"warm", "align", "control"}),
        ("model.scratch.layers", {"warm", "align", "control"}),
        ("stages.blend.weights", {"warm", "align", "control"}),
    ],
)
def test_seeds_go_to_the_stages_that_vary_or_to_all(key: str, seeded: set[str]) -> None:
    plan = read(Path("jobs/quickstart.yaml"))
    plan.data["stages"]["blend"] = {"kind": "merge", "of": ["align", "control"]}
    value: Any = [1, 2] if "blend" in key else 2
    made = plan_of(trial_document(plan, space({key: {"grid": [value]}}, seeds=[41, 42]), {key: value}, 41))
    assert {name for name, stage in made.stages.items() if getattr(stage, "seed", None) == 41} == seeded


def test_orders_of_four_share_their_beginnings() -> None:
    orders = [point["x"] for point in points(space({"x": {"permutation": list("abcd")}}))]
    begun = {tuple(order[: n + 1]) for order in orders for n in range(4)}
    assert len(begun) == sum(math.perm(4, k) for k in range(1, 5)) == 64
    assert sorted(map(tuple, orders)) == list(itertools.permutations("abcd"))
