"""What a model and a step are known by: whatever decides the numbers is in it, whichever command asks."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ratchet
from harness_example import SPEC
from hub_cache import COMMIT, cached, use_cache
from nightly import examples
from raised import raises
from ratchet.evaluate.suites import task_identity
from ratchet.evaluate.task_run import Inputs, task_run
from ratchet.model.folder import digest_code, digest_model
from ratchet.model.scratch import make_scratch
from ratchet.pairs.flow import SourcePairs
from ratchet.pairs.token_flow import PairTokens
from ratchet.pairs.tokens import Policy
from ratchet.pipeline import reference_passes, state
from ratchet.pipeline.context import Order, Run, Tokens
from ratchet.pipeline.graph import BASE, Step, all_steps, chunk_names, step_identity
from ratchet.pipeline.prepare import base_model, check_external_models
from ratchet.pipeline.reference_passes import Gate
from ratchet.pipeline.step_folder import IDENTITY, write_step_record
from ratchet.pipeline.step_inputs import Contents, input_weights
from ratchet.pipeline.steps import known_model, refuse_other_start
from ratchet.plan.model import ModelSpec
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import trains
from ratchet.plan.tasks import Preference
from ratchet.reference.models import TRAINER, ScoreJob, model_of
from ratchet.reference.score import scored_pairs
from ratchet.store.files import write_sealed
from ratchet.store.fingerprint import changed_keys, fingerprint
from ratchet.store.layout import Layout, layout_at
from ratchet.store.made import Artefact
from ratchet.store.record import Record, write_record
from ratchet.track.progress import Console
from tests.house.rules import nodes_of
from token_pairs import TEXTS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    make_scratch(SPEC, TEXTS, folder)
    return folder


@pytest.fixture
def trusted(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a hub model that comes with code."""
    use_cache(monkeypatch, tmp_path / "hub")
    folder = cached(tmp_path / "hub", "owner/coded", made)
    (folder / "modeling_own.py").write_text("KNOWN = 1\n")
    return folder


TRUSTED = {"name": "owner/coded", "revision": COMMIT, "trust_remote_code": True}
PAIRS = {"a": {"generate": {"kind": "arithmetic"}, "build": "arithmetic_corruption"}}


def run_of(model: dict[str, Any], stages: dict[str, Any], root: Path) -> Run:
    document = {"name": "p", "model": model, "data": PAIRS, "stages": stages, "cluster": {"storage": str(root)}}
    run = Run(Plan.model_validate(document), Layout(root), Console(), False, None)
    run.pairs["a"] = ("pairs", root)
    for stage in run.plan.stages.values():
        run.tokens[("a", stage.max_length, stage.overlong)] = Tokens("a", "tokens", root)  # type: ignore[union-attr]
    return run


def identity(model: dict[str, Any], stage: dict[str, Any], root: Path) -> dict[str, Any]:
    run = run_of(model, {"align": {"data": ["a"], "max_length": 64, **stage}}, root)
    run.models[BASE] = base_model(run)
    check_external_models(run)
    return known_by(run, all_steps(run.plan, {})[0])


def known_by(run: Run, step: Step) -> dict[str, Any]:
    return step_identity(run.plan, step, Contents(run))


def test_the_precision_of_an_external_reference_is_in_a_step_s_identity(made: Path, tmp_path: Path) -> None:
    model = {"path": str(made)}
    half, whole = (
        identity(model, {"kind": "dpo", "reference": {"path": str(made), "dtype": dtype}}, tmp_path)
        for dtype in ("bfloat16", "float32")
    )
    assert changed_keys(whole, half) == ["reference.dtype: 'float32' → 'bfloat16'"]
    own = identity(model, {"kind": "dpo"}, tmp_path)
    assert own == whole, "the same weights in the same precision are the same reference, wherever they are named"


@pytest.mark.parametrize("order", [None, "listed", "random"])
def test_a_changed_start_model_is_refused_before_anything_is_scored(
    made: Path, tmp_path: Path, order: str | None
) -> None:
    """Where the order of chunks is not known yet, nobody can tell what a step's folder should hold."""
    steps = {"steps": {"by": "source", "order": order}} if order else {}
    run = run_of({"path": str(made)}, {"align": {"kind": "dpo", "data": ["a"], "max_length": 64, **steps}}, tmp_path)
    run.models[BASE] = base_model(run)
    refuse_other_start(run)  # nothing is there
    identity, folder = (
        known_by(run, all_steps(run.plan, {})[0]),
        run.layout.step("p", all_steps(run.plan, {})[0].name),
    )
    write_sealed(folder / IDENTITY, identity)
    run.models[BASE] = dataclasses.replace(run.models[BASE], identity="another", weights="another")
    refuse_other_start(run)  # of a step that was begun and saved nothing
    write_record(folder, Record("step", fingerprint(identity), identity, {}, "2026-01-01T00:00:00Z", 1.0))
    known = raises("run.other-plan", "start model base")
    with known if order != "random" else contextlib.nullcontext():
        refuse_other_start(run)


def test_show_fetches_and_hashes_no_reference_for_a_step_whose_tokens_are_not_made(made: Path, tmp_path: Path) -> None:
    """A hub model may be large, and the machine that asks may have no network."""
    reference = {"name": "owner/none", "revision": COMMIT}
    stage = {"kind": "dpo", "data": ["a"], "max_length": 64, "reference": reference}
    run = run_of({"path": str(made)}, {"align": stage}, tmp_path)
    run.models[BASE] = base_model(run)
    run.tokens.clear()
    assert [one.id for one in state.known_steps(run)] == [None]


def test_show_and_run_know_a_model_with_code_of_its_own_alike(trusted: Path, tmp_path: Path) -> None:
    stages = {"plain": {"kind": "dpo", "data": ["a"], "max_length": 64}}
    ran, shown = (run_of(TRUSTED, stages, tmp_path) for _ in range(2))
    ran.models[BASE] = base_model(ran)
    state.find_base(shown)
    assert ran.models[BASE] == shown.models[BASE]
    assert ran.models[BASE].identity != ran.models[BASE].weights == digest_model(trusted)
    assert digest_code(trusted) in ran.warnings[0]


def test_other_code_is_another_model_for_steps_scores_judges_and_references(trusted: Path, made: Path) -> None:
    spec = ModelSpec.model_validate(TRUSTED)
    task = Preference.model_validate({"kind": "preference", "data": PAIRS["a"], "reference": TRUSTED})
    job = ScoreJob("tokens", made, "train")

    def known() -> list[str]:
        model = model_of("m", spec, trusted)
        read = task_identity(task, task_run(task.kind).reads("t", task, Inputs(None, made, None)), gpu=False)
        return [model.identity, fingerprint(scored_pairs(model.scoring(), job, TRAINER).identity), fingerprint(read)]

    before = known()
    (trusted / "modeling_own.py").write_text("KNOWN = 2\n")
    after = known()
    assert all(left != right for left, right in zip(before, after, strict=True))


def test_models_come_from_one_function() -> None:
    """A second place that makes a Model is a second opinion of what a model is known by."""
    root = Path(ratchet.__file__).parent
    makers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Model"
    }
    assert makers == {"reference/models.py", "pipeline/steps.py"}, "from a spec, and from a finished step's record"


def test_a_loss_without_a_reference_opens_no_gate(made: Path, tmp_path: Path) -> None:

    run = run_of({"path": str(made)}, {"align": {"kind": "cpo", "data": ["a"], "max_length": 64}}, tmp_path)
    run.foreign = reference_passes.EngineChoice("vllm", "0")
    run.models[BASE] = base_model(run)
    assert reference_passes.gate_of(run, "align", run.models[BASE]) == Gate(TRAINER, None)
    (step,) = all_steps(run.plan, {})
    assert step.reference is None and known_by(run, step)["reference"] is None


def test_one_model_in_two_precisions_goes_through_the_gate_twice(made: Path, tmp_path: Path) -> None:

    run = run_of({"path": str(made)}, {"align": {"kind": "dpo", "data": ["a"], "max_length": 64}}, tmp_path)
    run.foreign = reference_passes.EngineChoice("vllm", "0")
    models = [model_of("m", ModelSpec(path=str(made), dtype=dtype), made) for dtype in ("float32", "bfloat16")]
    gates = [Gate(TRAINER, None), Gate(run.foreign, None)]
    for model, gate in zip(models, gates, strict=True):
        run.gates["align", model.identity, model.dtype] = gate
    assert [reference_passes.gate_of(run, "align", model) for model in models] == gates


@st.composite
def documents(draw: Any) -> dict[str, Any]:
    """Draw a plan of four stages; OTHER stands for the folder of its models."""
    align: dict[str, Any] = {
        "kind": draw(st.sampled_from(["dpo", "dpop", "ipo", "cpo"])),
        "data": draw(st.sampled_from([["a", "b"], {"b": 1.0, "a": 1.0}, {"a": 0.5, "b": 1.0}])),
        "steps": draw(st.sampled_from([None, {"by": "source"}, {"by": "count", "count": 2}])),
        "after": draw(st.sampled_from([None, "warm"])),
        "seed": draw(st.sampled_from([0, 1])),
        "max_length": draw(st.sampled_from([32, 64])),
    }
    if align["kind"] != "cpo":
        other = {"path": "OTHER", "dtype": draw(st.sampled_from(["float32", "bfloat16"]))}
        align["reference"] = draw(st.sampled_from([None, "base", "warm", other]))
    stages = {
        "warm": {"kind": "sft", "data": ["a"], "max_length": 64},
        "align": {key: value for key, value in align.items() if value is not None},
        "blend": {"kind": "merge", "of": draw(st.sampled_from([["align", "base"], ["warm", "align"]]))},
        "last": {"kind": "dpo", "data": ["b"], "after": "blend", "max_length": 64},
    }
    dtype = draw(st.sampled_from(["float32", "bfloat16"]))
    return {"name": "p", "model": {"path": "OTHER", "dtype": dtype}, "data": SOURCES, "stages": stages}


SOURCES = {name: {**PAIRS["a"], "seed": seed} for seed, name in enumerate("ab")}


def planned(document: dict[str, Any], made: Path, root: Path) -> Plan:
    text = json.dumps({**document, "cluster": {"storage": str(root)}}).replace("OTHER", str(made))
    return Plan.model_validate(json.loads(text))


def put(layout: Layout, artefact: Artefact) -> str:
    """Write the record of an artefact as one who made it leaves it."""
    digest, counts = fingerprint(artefact.identity), {"train": 40, "heldout": 4, "tokens_train": 900}
    write_record(layout.made(artefact.kind, digest), Record(artefact.kind, digest, artefact.identity, counts, "", 1.0))
    return digest


def as_a_run_leaves_it(plan: Plan) -> None:
    """Write the records that a run of a plan writes, with the identities that it composes, and train nothing."""
    run = Run(plan, layout_at(plan.cluster.storage), Console(), False, None)
    run.models[BASE] = base_model(run)
    check_external_models(run)
    for name, source in plan.data.items():
        pairs = put(run.layout, SourcePairs(name, source, None))
        run.pairs[name] = (pairs, run.layout.pairs(pairs))
    for stage in plan.stages.values():
        for name in stage.shares() if trains(stage) else ():
            policy = Policy(stage.max_length, stage.overlong)  # type: ignore[union-attr]
            tokens = put(run.layout, PairTokens(run.pairs[name][1], run.pairs[name][0], base(run), policy, None))
            run.tokens[name, policy.max_length, policy.overlong] = Tokens(name, tokens, run.layout.tokens(tokens))
    chunks = chunk_names(plan.stages["align"])
    rows = ((0, 2, 4), (1, 3)) if chunks[:1] == ["part 1"] else None
    run.orders["align"] = Order(tuple(chunks), (), rows)
    write_sealed(run.layout.order("p", "align"), dataclasses.asdict(run.orders["align"]))
    for step in all_steps(plan, {}):
        identity, folder = known_by(run, step), run.layout.step("p", step.name)
        write_sealed(folder / IDENTITY, identity)
        inputs, known = input_weights(run, step, identity), fingerprint(identity)
        record = Record("step", known, identity, {}, "2026-01-01T00:00:00Z", 1.0, inputs, {"weights": known})
        write_step_record(folder, record)
        run.models[step.name] = known_model(run, step, record)


def base(run: Run) -> Path:
    return run.models[BASE].folder


@pytest.mark.heavy
@settings(max_examples=examples(8))
@given(document=documents())
def test_show_knows_every_step_that_a_run_has_made(made: Path, document: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as root:
        plan = planned(document, made, Path(root))
        as_a_run_leaves_it(plan)
        _, steps = state.plan_state(plan)
        assert [(one.step.name, one.status, one.why[:3]) for one in steps] == [
            (step.name, "done", "on ") for step in all_steps(plan, {})
        ]
        document["stages"]["warm"]["seed"] = 7
        _, steps = state.plan_state(planned(document, made, Path(root)))
        assert {one.step.name: one.status for one in steps}["warm"] == "changed"
