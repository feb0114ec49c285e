"""How much work a sweep is: counts by formula, identities against the pipeline's own, sizes from the store."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bits import flip
from nightly import examples
from ratchet.pairs.flow import pairs_identity
from ratchet.pipeline.context import Order, Run, Tokens
from ratchet.pipeline.graph import BASE, all_steps, chunk_names, step_identity
from ratchet.pipeline.sizes import Sizes, pairs_seen
from ratchet.pipeline.step_inputs import Contents
from ratchet.plan.model import ModelSpec
from ratchet.plan.schema import Plan
from ratchet.reference.models import Model
from ratchet.reference.partition import order_chunks, split_rows
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.record import Record, write_record
from ratchet.track.progress import Console
from ratchet.train.batches import Course, global_batches
from ratchet.tune.dry_run import describe_forecast, describe_open
from ratchet.tune.forecast import Count, Forecast, forecast, foreseen_steps

ROWS = 100


def plan_of(stages: dict[str, Any], sources: int = 3, **more: Any) -> Plan:
    data = {f"s{n}": {"generate": {"kind": "arithmetic", "rows": ROWS, "seed": n}} for n in range(sources)}
    return Plan.model_validate({"name": "p", "model": {"path": "m"}, "data": data, "stages": stages} | more)


def stepwise(order: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "dpop", "data": list(order), "steps": {"by": "source"}} | more


def every_order(sources: int, **more: Any) -> list[tuple[str, Plan]]:
    names = [f"s{n}" for n in range(sources)]
    plans = [plan_of({"align": stepwise(order, **more)}, sources) for order in itertools.permutations(names)]
    return [(f"t{n}", plan) for n, plan in enumerate(plans)]


@pytest.mark.parametrize("sources", [2, 3, 4, 5])
def test_all_orders_of_the_sources_train_each_prefix_once(sources: int) -> None:
    found = forecast(every_order(sources))
    prefixes = sum(math.factorial(sources) // math.factorial(sources - k) for k in range(1, sources + 1))
    assert found.stages == Count(math.factorial(sources) * sources, prefixes)
    assert found.passes == found.stages
    assert prefixes == {2: 4, 3: 15, 4: 64, 5: 325}[sources]
    assert found.pairs == Count(found.stages.unshared * 95, prefixes * 95), "a twentieth is held out"
    assert found.reference_pairs == Count(found.stages.unshared * 100, prefixes * 100), "and is scored as well"


def test_a_stage_before_the_orders_is_one_stage() -> None:
    warm = {"kind": "sft", "data": ["s0"]}
    trials = [
        ("t", plan_of({"warm": warm, "align": stepwise(order, after="warm")}))
        for order in itertools.permutations(["s0", "s1", "s2"])
    ]
    found = forecast(trials)
    assert found.stages == Count(6 * 4, 15 + 1)
    assert found.passes == Count(18, 15)


def test_loss_settings_share_one_reference_pass() -> None:
    grid = itertools.product((0.1, 0.3, 1.0), (5, 50), (1e-6, 1e-5))
    keys = ("beta", "penalty", "learning_rate")
    stages = [{"kind": "dpop", "data": ["s0"], **dict(zip(keys, point, strict=True))} for point in grid]
    found = forecast([("t", plan_of({"align": stage})) for stage in stages])
    assert (found.stages, found.passes) == (Count(12, 12), Count(12, 1))
    assert found.reference_pairs == Count(1200, 100)


def test_a_loss_without_a_reference_has_no_pass() -> None:
    steps = {"by": "source"}
    found = forecast([("t", plan_of({"align": {"kind": "cpo", "data": ["s0", "s1", "s2"], "steps": steps}}))])
    assert (found.stages, found.passes, found.reference_pairs) == (Count(3, 3), Count(0, 0), Count(0, 0))


def test_a_reference_in_two_precisions_is_two_passes_and_two_stages() -> None:
    stages = [
        {"kind": "dpo", "data": ["s0"], "reference": {"path": "o", "dtype": one}} for one in ("float32", "bfloat16")
    ]
    found = forecast([("t", plan_of({"align": stage})) for stage in stages])
    assert (found.stages, found.passes) == (Count(2, 2), Count(2, 2))


def test_a_trial_by_itself_makes_no_pass_twice() -> None:
    stages = {"one": {"kind": "dpo", "data": ["s0"]}, "two": {"kind": "dpop", "data": ["s0"]}}
    assert forecast([("t", plan_of(stages))]).passes == Count(1, 1)


def test_an_order_that_a_model_decides_is_shared_where_all_else_is_equal_and_counted_as_at_most() -> None:
    hard = [stepwise(["s0", "s1", "s2"], steps={"by": "source", "order": "easy_to_hard"}, beta=b) for b in (0.1, 0.3)]
    trials = [("t", plan_of({"align": stage})) for stage in hard]
    alone = forecast(trials)
    assert alone.stages == Count(6, 6)
    assert alone.passes == Count(6, 5), "the first step's reference is the start model for both"
    assert forecast([*trials, *trials]).stages == Count(12, 6)
    assert forecast([*trials[:1], *every_order(3)]).stages == Count(21, 18), "though it will be one of these"
    assert alone.undecided == ("align",)
    assert "≤ 6" in describe_forecast(
        alone
    ) and "at most: models decide the order of chunks of align" in describe_forecast(alone)


@pytest.mark.parametrize("order", ["random", "listed"])
def test_an_order_that_needs_no_model_is_known(order: str) -> None:
    steps = {"by": "source", "order": order}
    plan = plan_of({"align": stepwise(["s0", "s1", "s2"], steps=steps, seed=5)})
    known = order_chunks(order, ["s0", "s1", "s2"], {}, 5)
    listed = plan_of({"align": stepwise(known, seed=5)})
    assert forecast([("t", plan), ("u", listed)]).stages == Count(6, 3)
    assert not forecast([("t", plan)]).undecided


WAYS: list[dict[str, Any]] = [{}, {"order": "random"}, {"target": "start"}]
CHOICES: dict[str, list[Any]] = {
    "kind": ["dpo", "dpop"],
    "data": [{"s0": 1.0, "s1": 1.0}, {"s1": 1.0, "s0": 1.0}, {"s0": 0.5, "s1": 1.0}],
    "beta": [0.1, 0.3],
    "seed": [0, 1],
    "max_length": [64, 128],
    "after": [None, "warm"],
    "reference": [None, "base", *({"path": "other", "dtype": dtype} for dtype in ("float32", "bfloat16"))],
    "steps": [None, *({"by": "source"} | one for one in WAYS), *({"by": "count", "count": 2} | one for one in WAYS)],
}


@st.composite
def plans_alike(draw: Any) -> list[Plan]:
    """Draw a plan, and others that each differ from it in one key."""
    first = {key: draw(st.sampled_from(values)) for key, values in CHOICES.items()}
    every = [first | {key: value} for key, values in CHOICES.items() for value in values]
    rates = [1e-5] * len(every) + [2e-5]
    return [
        plan_of(
            {
                "warm": {"kind": "sft", "data": ["s0"], "learning_rate": rate},
                "align": stage,
                "blend": {"kind": "merge", "of": ["align", "base"]},
            }
        )
        for stage, rate in zip([*every, first], rates, strict=True)
    ]


def real_identities(plan: Plan) -> list[str]:
    """What the pipeline knows the steps by, with made-up tokens and orders worked out as it does."""
    run = Run(plan, Layout(Path("nowhere")), Console(), False, None)
    run.models[BASE] = Model(BASE, Path("m"), "base", "base", "float32")
    named = getattr(plan.stages["align"], "reference", None)
    if isinstance(named, ModelSpec):
        run.external[named.model_dump_json()] = Model("other", Path("other"), "other", "other", named.dtype)
    for stage in (plan.stages["warm"], plan.stages["align"]):
        for source in stage.shares():  # type: ignore[union-attr]
            key = (source, stage.max_length, stage.overlong)  # type: ignore[union-attr]
            run.tokens[key] = Tokens(source, "-".join(map(str, key)), Path("x"))
    stage: Any = plan.stages["align"]
    chunks, rows = chunk_names(stage), None
    if stage.steps and stage.steps.by == "source":
        chunks = order_chunks(stage.steps.order, chunks, {}, stage.seed)
    elif stage.steps:
        # Rows count through the sources in their order, so that what they hold stands in their number here.
        taken = str([*stage.shares().items(), stage.max_length, stage.seed if min(stage.shares().values()) < 1 else 0])
        first = int(fingerprint({"taken": taken})[:6], 16)
        cut = split_rows(stage.steps.order, 20, 2, None, stage.seed)
        rows = tuple(tuple((first + part).tolist()) for part in cut)
    run.orders["align"] = Order(tuple(chunks), (), rows)
    found = []
    for step in all_steps(plan, {"align": chunks}):
        identity = fingerprint(step_identity(plan, step, Contents(run)))
        run.models[step.name] = Model(step.name, Path("x"), identity, identity, "float32")
        found.append(identity)
    return found


@pytest.mark.heavy
@settings(max_examples=examples(8))
@given(plans_alike())
def test_steps_are_equal_where_the_pipeline_s_identities_are(plans: list[Plan]) -> None:
    mine = [step.id for plan in plans for step in foreseen_steps(plan, Sizes())]
    theirs = [identity for plan in plans for identity in real_identities(plan)]
    assert [mine.index(one) for one in mine] == [theirs.index(one) for one in theirs]


@pytest.mark.parametrize(
    ("rows", "batch", "epochs", "limit"), [(22, 8, 2, None), (22, 8, 2, 5), (7, 32, 3, 2), (9, 3, 1, 9)]
)
def test_the_pairs_of_a_step_are_those_that_its_batches_hold(rows: int, batch: int, epochs: int, limit: Any) -> None:
    stage: Any = plan_of(
        {"s": {"kind": "dpo", "data": ["s0"], "batch": batch, "epochs": epochs, "max_steps": limit}}
    ).stages["s"]
    course = Course(rows, batch, epochs, 0, limit)
    assert pairs_seen(rows, stage) == sum(len(one.rows) for one in global_batches(course))


def test_cut_chunks_part_the_shares_of_the_union() -> None:
    steps = {"by": "count", "count": 3}
    plan = plan_of({"align": {"kind": "dpo", "data": {"s0": 1.0, "s1": 0.5}, "steps": steps, "epochs": 2}})
    foreseen = list(foreseen_steps(plan, Sizes()))
    assert [step.pairs for step in foreseen] == [96, 96, 94], "143 pairs in three parts, twice"
    asked = 95 // 3 + 5 + 95 // 2 // 3 + 5
    assert [sum(step.passes.values()) for step in foreseen] == [asked] * 3, "a part of each share, and held out"


def store(root: Path, plan: Plan, name: str, tokenised: bool, train: int, heldout: int) -> None:
    layout, pairs = Layout(root.resolve()), Sizes().identity(plan, name)
    counts = {"train": train, "heldout": heldout}
    write_record(layout.pairs(pairs), Record("pairs", pairs, {}, counts, "", 0.0))
    if tokenised:
        known = {"pairs": pairs, "max_length": 1024, "overlong": "drop"}
        counts = {"train": train - 1, "heldout": heldout - 1}
        write_record(layout.tokens("f"), Record("tokens", "f", known, counts, "", 0.0))


def test_sizes_come_from_the_store_where_it_has_them_and_the_rest_is_said_to_be_guessed(tmp_path: Path) -> None:
    plan = plan_of({"s": {"kind": "dpo", "data": ["s0", "s1", "s2"]}}, cluster={"storage": str(tmp_path)})
    store(tmp_path, plan, "s0", True, 50, 7)
    store(tmp_path, plan, "s1", False, 40, 5)
    found = forecast([("t", plan)])
    assert found.pairs.shared == 49 + 40 + 95
    assert found.reference_pairs.shared == 49 + 6 + 40 + 5 + 100
    assert found.sources == {"s0": "counted", "s1": "before length", "s2": "estimated"}
    notes = describe_forecast(found).splitlines()[5:]
    assert [note.partition(":")[0] for note in notes] == ["s1", "s2"]
    flip(Layout(tmp_path).tokens("f") / "record.json", 40)  # damaged records count for nothing, and end nothing
    assert forecast([("t", plan)]).sources == {"s0": "before length", "s1": "before length", "s2": "estimated"}
    flip(Layout(tmp_path).pairs(Sizes().identity(plan, "s0")) / "record.json", 40)
    assert forecast([("t", plan)]).sources["s0"] == "estimated"


def test_the_tables_say_what_is_saved() -> None:
    made = Forecast(24, Count(96, 64), Count(9600, 6400), Count(96, 64), Count(10_000, 0), (), {"a": "counted"})
    assert describe_forecast(made) == (
        "24 trials                unshared   shared   saved\n"
        "stages                         96       64     33%\n"
        "pairs trained               9,600    6,400     33%\n"
        "reference passes               96       64     33%\n"
        "reference pairs scored     10,000        0    100%\n"
    )
    lines = describe_open(made, 3, 2.5).splitlines()
    assert lines[1].split() == ["stages", "96", "288"]
    assert lines[-1] == "points are chosen as the sweep goes, for 3 trials or 2.5 hours: what they share is known then"


def test_a_grid_of_hundreds_looks_at_each_source_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large files must not be read once a trial."""
    digested: list[Any] = []

    def counted(spec: Any, system: Any) -> dict[str, Any]:
        digested.append(spec)
        return pairs_identity(spec, system)

    monkeypatch.setattr("ratchet.pipeline.sizes.pairs_identity", counted)
    plans = [("t", plan_of({"align": stepwise(["s0", "s1", "s2"], beta=0.1 + n / 9000)})) for n in range(300)]
    assert forecast(plans).passes == Count(900, 601)
    assert len(digested) == 3
