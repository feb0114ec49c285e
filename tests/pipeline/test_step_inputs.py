"""Who leaves float32 masters, who starts from them, when they go, and what is said where they are gone."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from bits import flip
from raised import raises
from ratchet.model.folder import digest_model
from ratchet.model.scratch import make_scratch
from ratchet.pipeline.context import Run, Tokens
from ratchet.pipeline.graph import BASE, Step, all_steps, heirs, step_identity
from ratchet.pipeline.step_folder import IDENTITY, clear_step, write_step_record
from ratchet.pipeline.step_inputs import (
    KEY,
    Contents,
    drop_masters,
    input_weights,
    left_by,
    tell_of_rounding,
    wanted_again,
)
from ratchet.pipeline.training import _masters, train_spec
from ratchet.plan.model import Scratch
from ratchet.plan.schema import Plan
from ratchet.reference.models import Model
from ratchet.store.files import write_sealed
from ratchet.store.layout import Layout
from ratchet.store.record import NAME, Record, write_record
from ratchet.track.progress import Console

PAIRS = {"a": {"generate": {"kind": "arithmetic"}, "build": "arithmetic_corruption"}}
STAGES: dict[str, Any] = {
    "warm": {"kind": "sft", "data": ["a"], "max_length": 64},
    "align": {"kind": "dpo", "after": "warm", "data": ["a"], "max_length": 64, "steps": {"by": "count", "count": 3}},
    "other": {"kind": "dpo", "after": "warm", "data": ["a"], "max_length": 64},
    "blend": {"kind": "merge", "of": ["align", "other"]},
    "last": {"kind": "dpo", "after": "blend", "data": ["a"], "max_length": 64},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    spec = Scratch(tokenizer_from=("a",), vocab_size=300, hidden_size=16, layers=1, heads=2, key_value_heads=1)
    make_scratch(spec, ["12 + 30 = 42"] * 9, folder)
    return folder


def run_of(base: Path, root: Path, dtype: str = "bfloat16", stages: dict[str, Any] | None = None) -> Run:
    model = {"path": str(base), "dtype": dtype}
    document = {"name": "p", "model": model, "data": PAIRS, "stages": stages or STAGES}
    run = Run(Plan.model_validate(document), Layout(root), Console(), False, None)
    for stage in run.plan.stages.values():
        if stage.kind != "merge":
            run.tokens[("a", stage.max_length, stage.overlong)] = Tokens("a", "tokens", root)
    weights = digest_model(base)
    run.models[BASE] = Model(BASE, base, weights, weights, dtype)
    return run


def make(run: Run, name: str, masters: str | None = "digest") -> Model:
    """A finished step, as far as those that start from it look."""
    folder = run.layout.step("p", name)
    run.models[name] = model = dataclasses.replace(
        run.models[BASE], name=name, folder=folder / "model", identity=f"recipe-{name}", masters=masters
    )
    if masters is not None:
        model.masters_file.parent.mkdir(parents=True)
        model.masters_file.write_bytes(b"masters")
    return model


def known_by(run: Run, one: Step) -> dict[str, Any]:
    return step_identity(run.plan, one, Contents(run))


def step(run: Run, name: str) -> Step:
    return next(one for one in all_steps(run.plan, {}) if one.name == name)


def test_steps_that_others_start_from_leave_masters(base: Path, tmp_path: Path) -> None:
    found = heirs(run_of(base, tmp_path).plan)
    assert found == {"warm": ["align.1", "other"], "align.1": ["align.2"], "align.2": ["align.3"]}
    assert heirs(run_of(base, tmp_path, "float32").plan) == {}
    target = {**STAGES["align"], "steps": {"by": "count", "count": 3, "target": "start"}}
    alone = {"warm": STAGES["warm"], "align": target}
    assert heirs(run_of(base, tmp_path, stages=alone).plan) == {"warm": ["align.1", "align.2", "align.3"]}
    first = {"align": {**STAGES["other"], "after": None}}
    assert heirs(run_of(base, tmp_path, stages=first).plan) == {}


def test_masters_are_part_of_what_a_step_is(base: Path, tmp_path: Path) -> None:
    run = run_of(base, tmp_path)
    assert KEY not in known_by(run, step(run, "warm"))
    make(run, "warm")
    identity = known_by(run, step(run, "other"))
    assert identity[KEY] == "digest" == input_weights(run, step(run, "other"), identity)[KEY]
    assert _masters(run, step(run, "other"), carries=True) == {
        "masters": str(tmp_path / "runs/p/steps/warm/masters/masters.safetensors"),
        "masters_digest": "digest",
        "keep_masters": False,
    }
    run.models["warm"] = dataclasses.replace(run.models["warm"], masters="of other data")
    assert known_by(run, step(run, "other"))[KEY] == "of other data"
    make(run, "blend", masters=None)
    assert KEY not in known_by(run, step(run, "last"))


def test_masters_go_when_the_last_that_needs_them_is_made(base: Path, tmp_path: Path) -> None:
    run = run_of(base, tmp_path)
    warm, file = step(run, "warm"), make(run, "warm").masters_file
    drop_masters(run, warm)
    for name in ("align.1", "align.2", "align.3"):
        make(run, name, masters=None)
        drop_masters(run, step(run, name))
        assert file.exists()
    made = known_by(run, step(run, "other"))
    drop_masters(run, step(run, "other"))
    assert not file.parent.exists() and file.parent.parent.exists()
    write_sealed(run.layout.step("p", "other") / IDENTITY, made)  # as it stands since it was begun
    assert known_by(run, step(run, "other")) == made


def test_a_stage_that_comes_later_starts_from_rounded_weights_and_says_so(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(base, tmp_path)
    make(run, "warm").masters_file.unlink()
    other = step(run, "other")
    identity = known_by(run, other)
    assert KEY not in identity
    with caplog.at_level(logging.WARNING):
        tell_of_rounding(run, other, identity)
    assert "other starts from the rounded weights of warm" in caplog.text and "--fresh" in caplog.text
    write_sealed(run.layout.step("p", "other") / IDENTITY, identity)
    run.models["warm"].masters_file.write_bytes(b"back again")
    assert known_by(run, other) == identity, "a step that is begun goes on as it began"
    run.fresh = True
    assert known_by(run, other)[KEY] == "digest"
    caplog.clear()
    tell_of_rounding(run, other, known_by(run, other))
    tell_of_rounding(run, step(run, "warm"), {})
    assert not caplog.text


def test_a_step_that_was_begun_with_masters_does_not_go_on_without(base: Path, tmp_path: Path) -> None:
    run = run_of(base, tmp_path)
    make(run, "warm")
    other = step(run, "other")
    write_sealed(run.layout.step("p", "other") / IDENTITY, known_by(run, other))
    run.models["warm"].masters_file.unlink()
    assert KEY in known_by(run, other)
    with raises("run.masters-gone", "warm"):
        _masters(run, other, carries=True)


@pytest.fixture
def done(base: Path, tmp_path: Path) -> Run:
    """A run that came to its end: all steps have a record, and no masters are left."""
    run = run_of(base, tmp_path)
    for name in ("warm", "align.1", "align.2", "align.3", "other"):
        folder = make(run, name).folder.parent
        shutil.rmtree(folder / KEY)
        identity = {"kind": "dpo"} if name == "warm" else {"kind": "dpo", KEY: "digest"}
        write_sealed(folder / IDENTITY, identity)
        left = {"sha256": hashlib.sha256(b"masters").hexdigest(), "bytes": 7}
        facts = {"training": {"published": {"masters": left}}}
        write_step_record(folder, Record("step", name, identity, {}, "", 0.0, facts=facts))
    return run


def wanted(run: Run) -> list[str]:
    return [name for name in ("warm", "align.1", "align.2", "align.3", "other") if wanted_again(run, name)]


def test_a_damaged_step_has_those_made_again_whose_masters_it_needs(done: Run, caplog: Any) -> None:
    """All back to the last whose start has masters, or needs none."""
    assert wanted(done) == []
    folder = done.layout.step("p", "align.3")
    flip(folder / IDENTITY, 20)
    assert wanted(done) == ["warm", "align.1", "align.2"]
    assert known_by(done, step(done, "align.3"))[KEY] == "digest", "the record says it too"
    kept = done.models["align.1"].masters_file
    kept.parent.mkdir()
    kept.write_bytes(b"masters")
    assert wanted(done) == ["align.2"]
    clear_step(done.layout.step("p", "align.2"), done.layout.damaged, wanted=True)
    assert not done.layout.step("p", "align.2").exists()
    assert "is needed again" in caplog.text and "masters, which are gone" in caplog.text


def test_a_step_that_was_cut_short_wants_its_masters_and_one_without_any_does_not(done: Run) -> None:
    (done.layout.step("p", "other") / NAME).unlink()
    assert wanted(done) == ["warm"]
    write_sealed(done.layout.step("p", "other") / IDENTITY, {"kind": "dpo"})
    assert wanted(done) == []


def test_a_step_that_a_sweep_made_with_masters_is_found_after_they_went(base: Path, tmp_path: Path) -> None:
    from ratchet.pipeline.step_inputs import home_key

    run = run_of(base, tmp_path)
    make(run, "warm")
    other = step(run, "other")
    identity = known_by(run, other)
    home = run.layout.made_step(home_key(run, other, identity))
    run.models["warm"].masters_file.unlink()
    assert KEY not in known_by(run, other)
    home.mkdir(parents=True)
    (home / NAME).write_text("{}")
    assert known_by(run, other) == identity


def test_shared_steps_keep_their_masters(base: Path, tmp_path: Path) -> None:
    run = run_of(base, tmp_path)
    file = make(run, "warm").masters_file
    store = tmp_path / "store/steps/x"
    store.parent.mkdir(parents=True)
    folder = run.layout.step("p", "warm")
    folder.rename(store)
    folder.symlink_to(store)
    for name in ("align.1", "other"):
        make(run, name, masters=None)
    drop_masters(run, step(run, "other"))
    assert file.exists()


def test_a_record_names_what_was_left() -> None:
    facts = {"training": {"published": {"masters": {"sha256": "abc", "bytes": 4}}}}
    assert left_by(Record("step", "x", {}, {}, "", 0.0, facts=facts)) == "abc"
    assert left_by(Record("step", "x", {}, {}, "", 0.0, facts={"training": {"published": {}}})) is None
    assert left_by(Record("step", "x", {}, {}, "", 0.0)) is None  # a merge


def test_a_stage_s_bound_of_its_first_loss_reaches_the_workers(base: Path, tmp_path: Path) -> None:
    kinds = {"plain": {"kind": "dpo"}, "wide": {"kind": "dpop", "first_loss": 0.7}, "squared": {"kind": "ipo"}}
    run = run_of(
        base, tmp_path, stages={name: {**STAGES["other"], "after": None, **kind} for name, kind in kinds.items()}
    )
    write_record(tmp_path, Record("tokens", "tokens", {}, {"train": 0, "heldout": 0}, "", 0.0))
    run.pairs["a"] = ("pairs", tmp_path)
    found = {}
    for name, stage in run.plan.stages.items():
        assert stage.kind not in {"sft", "merge"}
        tokens = list(run.tokens.values())
        spec = train_spec(run, step(run, name), stage, tokens, [], 0.0, "run")  # type: ignore[arg-type]
        found[name] = getattr(spec.stage, "first_loss", None)
    assert found == {"plain": 0.1, "wide": 0.7, "squared": None}, "IPO has no first loss to be held to"
