"""A changed plan or file is refused by keys and in words, before Ray; a step of which nothing is kept is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import RunError
from ratchet.pairs.flow import pairs_identity
from ratchet.pipeline.changes import changed_in_plan, identity_in, in_words, is_kept, refuse_changed, weights_in_words
from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import Step, all_steps, options
from ratchet.pipeline.runner import run_plan
from ratchet.pipeline.state import plan_state
from ratchet.pipeline.step_folder import IDENTITY
from ratchet.plan.load import plan_of
from ratchet.plan.reading import parse
from ratchet.plan.stage_kinds import trains
from ratchet.store.files import write_sealed
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.record import Record, write_record
from ratchet.track.progress import Console

PLAN = """\
name: mine
model: {scratch: {tokenizer_from: [prefs]}}
data:
  prefs: {path: prefs.jsonl}
  more: {path: [a.jsonl, b.jsonl], held_out: 0.1}
stages:
  warm: {kind: sft, data: [prefs], max_length: 64}
  align: {kind: dpo, after: warm, data: {prefs: 1.0, more: 0.5}, epochs: 3, max_length: 64}
  parts: {kind: dpo, after: warm, data: [prefs, more], steps: {by: source, order: listed}, max_length: 64}
  blend: {kind: merge, of: [warm, align]}
cluster: {storage: out}
"""


def a_run(text: str = PLAN) -> Run:
    return Run(plan_of(parse(text, "plan.yaml")), Layout(Path("out").resolve()), Console(), False, None)


def made(kind: str, identity: dict[str, Any]) -> Record:
    return Record(kind, fingerprint(identity), identity, {"train": 1, "heldout": 0}, "2026-01-01T00:00:00Z", 1.0)


def tokens_of(run: Run, source: str, length: int) -> str:
    """Return the fingerprint of a source's tokens, which are then in the store."""
    pairs = fingerprint(pairs_identity(run.plan.data[source], None))
    identity = {"pairs": pairs, "tokenizer": "t", "max_length": length, "overlong": "drop"}
    write(run.layout.tokens(fingerprint(identity)), made("tokens", identity))
    return fingerprint(identity)


def identity_of(run: Run, step: Step) -> dict[str, Any]:
    """Return what a step is made from, as far as the plan and its files tell."""
    stage = step.settings
    identity = {"kind": step.kind, "options": options(stage), "dtype": run.plan.model.dtype}
    if not trains(stage):
        return identity | {"of": ["w", "a"]}
    data = {name: (tokens_of(run, name, stage.max_length), share) for name, share in step.chunk.shares.items()}
    return identity | {"data": {name: {"tokens": one, "share": share} for name, (one, share) in data.items()}}


@pytest.fixture(autouse=True)
def _made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run folder as PLAN leaves it, as far as what its steps were made from: each step is finished."""
    monkeypatch.chdir(tmp_path)
    for name in ("prefs", "a", "b"):
        Path(f"{name}.jsonl").write_text(json.dumps({"prompt": name, "chosen": "yes", "rejected": "no"}) + "\n")
    run = a_run()
    for source in run.plan.data.values():
        pairs = pairs_identity(source, None)
        write(run.layout.pairs(fingerprint(pairs)), made("pairs", pairs))
    for step in all_steps(run.plan, {}):
        folder, identity = run.layout.step("mine", step.name), identity_of(run, step)
        write(folder, made("step", identity))
        write_sealed(folder / IDENTITY, identity)


def write(folder: Path, record: Record) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, record)


def test_nothing_changed() -> None:
    assert changed_in_plan(a_run()) == {}
    refuse_changed(a_run())


EDITS: list[tuple[str, str, list[str], list[str]]] = [
    ("epochs: 3", "epochs: 5", ["align"], ["stages.align.epochs: 3 → 5"]),
    ("more: 0.5", "more: 0.25", ["align"], ["stages.align.data.more: 0.5 → 0.25"]),
    ("kind: sft", "kind: dpo", ["warm"], ["stages.warm.kind: sft → dpo"]),
    (", more: 0.5", "", ["align"], ["stages.align.data: more is not named any more"]),
    (
        "{kind: sft, data: [prefs], max_length: 64",
        "{kind: sft, data: [prefs, more], max_length: 32",
        ["warm"],
        ["stages.warm.data: more is new", "stages.warm.max_length: 64 → 32"],
    ),
    ("held_out: 0.1", "held_out: 0.2", ["align", "parts.2"], ["data.more.held_out: 0.1 → 0.2"]),
    (
        "[a.jsonl, b.jsonl]",
        "[a.jsonl]",
        ["align", "parts.2"],
        ["data.more: b.jsonl is not among its files any more"],
    ),
    (
        "of: [warm, align]",
        "of: [warm, align], weights: [1, 2]",
        ["blend"],
        ["stages.blend.weights: None → [1.0, 2.0]"],
    ),
    ("[a.jsonl, b.jsonl]", "[b.jsonl, a.jsonl]", ["align", "parts.2"], ["data.more: its pairs changed"]),
]
"""What is changed in PLAN, the steps that this makes others, and in which words it is told."""


@pytest.mark.parametrize(("old", "new", "steps", "words"), EDITS)
def test_a_changed_plan_is_told_by_its_keys(old: str, new: str, steps: list[str], words: list[str]) -> None:
    assert old in PLAN
    assert changed_in_plan(a_run(PLAN.replace(old, new))) == dict.fromkeys(steps, words)


@pytest.mark.parametrize(("old", "new", "steps", "words"), EDITS)
def test_a_step_about_to_be_made_is_told_in_the_same_words(
    old: str, new: str, steps: list[str], words: list[str]
) -> None:
    run = a_run(PLAN.replace(old, new))
    found = {}
    for step in all_steps(run.plan, {}):
        before = identity_in(run.layout.step("mine", step.name))
        assert before is not None
        if told := in_words(run, step, before, identity_of(run, step)):
            found[step.name] = told
    assert found == dict.fromkeys(steps, words)


def test_of_the_models_precision_every_step_is_told() -> None:
    found = changed_in_plan(a_run(PLAN.replace("model: {", "model: {dtype: bfloat16, ")))
    assert list(found) == ["warm", "align", "parts.1", "parts.2", "blend"]
    assert all(words == ["model.dtype: float32 → bfloat16"] for words in found.values())


def test_a_changed_file_is_told_by_its_source_and_name_also_by_show() -> None:
    Path("b.jsonl").write_text(json.dumps({"prompt": "b", "chosen": "no", "rejected": "yes"}) + "\n")
    words = ["data.more: b.jsonl changed"]
    assert changed_in_plan(a_run()) == {"align": words, "parts.2": words}
    _, states = plan_state(a_run().plan)
    assert {one.step.name: one.why for one in states if one.status == "changed"} == {}, "their start is not there"
    Path("prefs.jsonl").write_text(Path("b.jsonl").read_text())
    _, states = plan_state(a_run().plan)
    changed = {one.step.name: one.why for one in states if one.status == "changed"}
    assert changed == {"warm": "data.prefs: prefs.jsonl changed"}


def test_a_run_is_refused_before_ray_and_told_how_to_train_further(capsys: pytest.CaptureFixture[str]) -> None:
    Path("prefs.jsonl").write_text("{}\n")
    with pytest.raises(RunError) as raised:
        run_plan(plan_of(parse(PLAN.replace("epochs: 3", "epochs: 5"), "plan.yaml")), PLAN)
    assert "step align was made from something else: stages.align.epochs: 3 → 5; data.prefs: prefs.jsonl changed" in (
        raised.value.what
    )
    assert raised.value.what.startswith("step warm was made from something else: data.prefs: prefs.jsonl changed\n")
    assert "add a stage with `after:`" in raised.value.fix
    assert "Ray" not in capsys.readouterr().err


def test_a_step_of_which_nothing_is_kept_refuses_nothing() -> None:
    run = a_run(PLAN.replace("epochs: 3", "epochs: 5"))
    folder = run.layout.step("mine", "align")
    (folder / "record.json").unlink()
    (folder / "checkpoints/step-000001").mkdir(parents=True)  # one that was never committed
    assert not is_kept(folder)
    assert changed_in_plan(run) == {}


def test_a_damaged_step_is_left_to_who_makes_it_again() -> None:
    run = a_run(PLAN.replace("epochs: 3", "epochs: 5"))
    (run.layout.step("mine", "align") / "record.json").write_text("{")
    assert changed_in_plan(run) == {}


def test_what_only_models_tell_is_in_words_too() -> None:
    run = a_run()
    step = next(one for one in all_steps(run.plan, {}) if one.name == "align")
    before = {"start": "m", "reference": {"model": "m", "dtype": "float32"}, "rows": None, "version": 1, "data": {}}
    now = {"start": "n", "reference": {"model": "n", "dtype": "bfloat16"}, "rows": "r", "version": 2, "data": {}}
    assert in_words(run, step, before, now) == [
        "reference.dtype: 'float32' → 'bfloat16'",
        "stages.align.reference: its reference model is another one",
        "the rows of its chunk are others",
        "its start model warm is another one",
        "it was made by another version of Ratchet",
    ]
    assert weights_in_words(step, {"start": "x"}, {"start": "y"}) == ["its start model warm has other weights now"]
    old, new = (
        {"pairs": "gone", "tokenizer": tokenizer, "max_length": length, "overlong": "drop"}
        for tokenizer, length in (("t", 64), ("u", 32))
    )
    for identity in (old, new):
        write(run.layout.tokens(fingerprint(identity)), made("tokens", identity))
    data = [{"data": {"prefs": {"tokens": fingerprint(one), "share": 1.0}}} for one in (old, new)]
    assert in_words(run, step, *data) == [
        "data.prefs: its files or settings changed",
        "stages.align.max_length: 64 → 32",
        "model: its tokenizer changed, by which prefs becomes tokens",
    ]
