"""`run`, `show` and the forecast of a sweep name the same steps: tried with 200 plans at random, training none."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightly import examples
from ratchet.model.scratch import make_scratch
from ratchet.pairs.flow import SourcePairs
from ratchet.pipeline.context import Order, Run, Tokens
from ratchet.pipeline.graph import BASE, all_steps, built_on, chunk_names, heirs, planned_steps
from ratchet.pipeline.order import order_of_stage
from ratchet.pipeline.prepare import source_tokens
from ratchet.pipeline.sizes import Sizes
from ratchet.pipeline.state import find_inputs, known_steps
from ratchet.pipeline.step_inputs import Contents
from ratchet.plan.model import ModelSpec, Scratch
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import trains
from ratchet.reference.models import model_of
from ratchet.reference.partition import order_chunks, split_rows
from ratchet.store.files import write_sealed
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import layout_at
from ratchet.store.made import keep_document
from ratchet.track.progress import Console
from ratchet.tune.forecast import foreseen_steps

SOURCE = {"generate": {"kind": "arithmetic"}, "build": "arithmetic_corruption"}
ROWS = 20
SMALL = Scratch(tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=1, heads=2, key_value_heads=1)
CHOICES: dict[str, list[Any]] = {
    "kind": ["dpo", "dpop", "ipo", "cpo", "simpo"],
    "data": [["a", "b"], ["b", "a"], {"a": 0.5, "b": 1.0}, {"b": 1.0, "a": 0.5}],
    "after": [None, "warm"],
    "beta": [0.1, 0.3],
    "seed": [0, 1],
    "epochs": [1, 2],
    "max_length": [32, 64],
    "overlong": ["drop", "trim_prompt"],
    "lora": [None, {}, {"rank": 4}],
    "learning_rate": [1e-5, 2e-5],
    "steps": [
        None,
        *({"by": "source", **way} for way in ({}, {"order": "random"}, {"target": "start"})),
        *({"by": "count", "count": 2, **way} for way in ({}, {"order": "random"}, {"target": "start"})),
    ],
}
KEYS = CHOICES | {
    "reference": [None, "base", "warm", *({"path": "OTHER", "dtype": one} for one in ("float32", "bfloat16"))],
    "dtype": ["float32", "bfloat16"],
    "rows": [1, 2],
    "rate": [1e-5, 2e-5],
    "of": [["align", "base"], ["warm", "align"]],
}


def drawn(number: int) -> dict[str, Any]:
    """Return a plan of four stages; one of an odd number differs in one key from the previous one.

    OTHER stands for the folder of its models.
    """
    draw = random.Random(number // 2)
    chosen = {key: draw.choice(values) for key, values in KEYS.items()}
    if number % 2:
        # Plans that are drawn alone differ in many keys at once, and would not notice that one of them is missing.
        key = draw.choice(list(KEYS))
        chosen[key] = draw.choice([value for value in KEYS[key] if value != chosen[key]])
    align = {key: chosen[key] for key in CHOICES}
    align["reference"] = chosen["reference"] if align["kind"] not in {"cpo", "simpo"} else None
    return {
        "name": f"p{number}",
        "model": {"path": "OTHER", "dtype": chosen["dtype"]},
        "data": {"a": SOURCE, "b": {**SOURCE, "seed": chosen["rows"]}},
        "stages": {
            "warm": {"kind": "sft", "data": ["a"], "max_length": 64, "learning_rate": chosen["rate"]},
            "align": {key: value for key, value in align.items() if value is not None},
            "blend": {"kind": "merge", "of": chosen["of"]},
            "last": {"kind": "dpo", "data": ["b"], "after": "blend", "max_length": 64},
        },
    }


def planned(number: int, model: Path, root: Path) -> Plan:
    text = json.dumps({**drawn(number), "cluster": {"storage": str(root)}}).replace("OTHER", str(model))
    return Plan.model_validate(json.loads(text))


def opened(plan: Plan, model: Path) -> Run:
    """Return a run that knows its models: what is looked at in them is not what is tried here."""
    run = Run(plan, layout_at(plan.cluster.storage), Console(), False, None)
    run.models[BASE] = model_of(BASE, plan.model, model)
    reference = getattr(plan.stages["align"], "reference", None)
    if isinstance(reference, ModelSpec):
        run.external[reference.model_dump_json()] = model_of("other", reference, model)
    return run


def order_of(run: Run) -> Order:
    """Return the order that a run decides. Rows of another union are given other numbers, so that they differ."""
    stage: Any = run.plan.stages["align"]
    steps, chunks = stage.steps, chunk_names(stage)
    if steps is None or steps.by == "source":
        return Order(tuple(order_chunks(steps.order, chunks, {}, stage.seed) if steps else chunks), ())
    union = [[source_tokens(run, name, stage).identity, share] for name, share in stage.shares().items()]
    taken = stage.seed if min(stage.shares().values()) < 1 else None
    first = int(fingerprint({"union": union, "taken": taken})[:6], 16)
    parts = split_rows(steps.order, ROWS, len(chunks), None, stage.seed)
    return Order(tuple(chunks), (), tuple(tuple((first + part).tolist()) for part in parts))


def run_ids(run: Run) -> Iterator[str]:
    """Yield what a run knows its steps by, each from what it made before; nothing is trained."""
    for name, source in run.plan.data.items():
        pairs = fingerprint(SourcePairs(name, source, None).identity)
        run.pairs[name] = (pairs, run.layout.pairs(pairs))
    for stage in run.plan.stages.values():
        for name in stage.shares() if trains(stage) else ():
            known = fingerprint(source_tokens(run, name, stage).identity)  # type: ignore[arg-type]
            run.tokens[name, stage.max_length, stage.overlong] = Tokens(name, known, run.layout.tokens(known))  # type: ignore[union-attr]
    run.orders["align"] = order_of(run)
    for one in planned_steps(run.plan, Contents(run), lambda name: run.orders[name].chunks if name == "align" else ()):
        assert one.identity is not None and one.id is not None
        run.models[one.step.name] = dataclasses.replace(run.models[BASE], name=one.step.name, identity=one.id)
        yield one.id


def shown_ids(plan: Plan, model: Path, order: Order, sizes: Sizes) -> Iterator[str | None]:
    """Yield what `show` knows the steps by where nothing is made but the order."""
    run = opened(plan, model)
    write_sealed(run.layout.order(plan.name, "align"), dataclasses.asdict(order))
    find_inputs(run, sizes)
    return (one.id for one in known_steps(run))


def ids_by_the_order_of(other: Run, plan: Plan, model: Path, sizes: Sizes) -> list[str | None]:
    """Return what `show` knows the steps of `align` by where the run folder has the order that another run decided."""
    run, order = opened(plan, model), order_of_stage(other, "align")
    assert order is not None
    keep_document(run.layout.order(plan.name, "align"), order, other.orders["align"])
    find_inputs(run, sizes)
    return [one.id for one in known_steps(run) if one.step.stage == "align"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    make_scratch(SMALL, ["12 + 30 = 42"] * 9, folder)
    return folder


def without_masters(plan: Plan) -> set[int]:
    """Return the numbers of the steps that start from masters, or from a step that does: nobody knows them unmade."""
    carried = {heir for names in heirs(plan).values() for heir in names}
    unseen: dict[str, int] = {}
    for number, step in enumerate(all_steps(plan, {})):
        if step.name in carried or unseen.keys() & {*built_on(plan, step)}:
            unseen[step.name] = number
    return {*unseen.values()}


@pytest.mark.heavy
def test_run_show_and_the_forecast_name_the_same_steps(model: Path, tmp_path: Path) -> None:
    """Of a forecast, which reads no model, steps are the same exactly where a run's are."""
    foreseen: dict[str, str] = {}
    made: dict[str, str] = {}
    sizes, taken = Sizes(), 0
    before: Run | None = None
    for number in range(examples(200)):
        plan = planned(number, model, tmp_path)
        run = opened(plan, model)
        ran = list(run_ids(run))
        unseen = without_masters(plan)
        shown = list(shown_ids(plan, model, run.orders["align"], sizes))
        foretold = [step.id for step in foreseen_steps(plan, sizes)]
        for step, (real, named, known) in enumerate(zip(ran, shown, foretold, strict=True)):
            at = f"plan {number}, step {step}"
            assert named == real or (named is None and step in unseen), f"{at}: show names another one"
            assert foreseen.setdefault(real, known) == known, f"{at}: the forecast names two where a run has one"
            assert made.setdefault(known, real) == real, f"{at}: the forecast names one where a run has two"
        if before is not None:
            named = [one for one in ids_by_the_order_of(before, plan, model, sizes) if one is not None]
            assert {*named} <= {*ran}, f"plan {number}: show goes by an order that was decided for another plan"
            taken += bool(named) and bool(run.orders["align"].rows)
        before = run
    assert len(made) > examples(200) and taken
