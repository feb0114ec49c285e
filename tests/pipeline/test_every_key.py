"""Every key that a plan may have changes what its steps are known by, or stands in a list with the reason.

The keys come from the schema: a new one fails here until somebody has decided.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from raised import raises
from ratchet.pipeline.sizes import Sizes
from ratchet.plan.cluster import Cluster
from ratchet.plan.data import Source
from ratchet.plan.load import plan_of as plan_of_document
from ratchet.plan.model import ModelSpec
from ratchet.plan.reading import parse
from ratchet.plan.schema import Plan, ReferenceScores, Track
from ratchet.plan.stage_kinds import STAGE_KINDS
from ratchet.tune.forecast import foreseen_steps

Key = tuple[str, ...]
COMMIT = "0" * 40
GUARD = "stops a run that goes wrong; it changes no number of one that does not"
ON_DISK = "what is kept on the disk meanwhile decides no number"
DECIDES_NOTHING: dict[str, str] = {
    "stages.*.first_loss": GUARD,
    "stages.*.checkpoint.keep": ON_DISK,
    "data.max_bad_share": GUARD,
    "data.max_overlong_share": GUARD,
    "reference.sample": GUARD,
    "reference.otherwise": "says what to do where engines disagree; scores carry the engine that made them",
}
"""Keys that are in no identity, and why. Besides them all of `cluster` and `track`: where it runs, and who watches."""
THE_PLANS_MODEL_ALONE = (
    *("scratch", "chat_template", "named_template", "template_arguments", "date", "system", "system_turns"),
)
"""Keys that a plan is refused for that gives them to another model than its own."""

CONTEXT: dict[str, dict[str, Any]] = {
    "lora": {"lora": {}},
    "steps": {"steps": {"by": "source", "order": "easy_to_hard"}},
    "steps.count": {"steps": {"by": "count", "count": 2}},
    "steps.base": {"steps": {"by": "source", "order": "easy_to_hard", "base": {"path": "other"}}},
    "checkpoint.every": {"checkpoint": {"publish": "best"}},
    "reference": {"reference": {"path": "other"}},
    "weights": {"weights": [1.0, 1.0]},
    "config": {"path": "sets", "config": "a"},
    "few_shot": {"build": "arithmetic_corruption"},
    "mix": {"mix": {"weights": {"a": 1.0, "b": 1.0}}},
    "hub": {"path": None, "hub": {"name": "owner/rows", "revision": COMMIT}},
    "generate": {"path": None, "generate": {"kind": "arithmetic"}},
    "system": {"system": "Be brief."},
    "scratch": {"path": None, "scratch": {"tokenizer_from": ["a"]}},
    "name": {"path": None, "name": "owner/model", "revision": COMMIT},
    "quantisation": {"engine": "vllm"},
    "columns": {"columns": {name: {"value": name} for name in ("prompt", "chosen", "rejected")}},
}
"""What stands beside a key, so that it has an effect; the longest prefix counts."""
CONTEXT |= {
    f"{at}name": {at.split(".")[0]: inner}
    for at, inner in {
        "reference.": {"name": "owner/model", "revision": COMMIT},
        "steps.base.": {"by": "source", "order": "easy_to_hard", "base": {"name": "owner/model", "revision": COMMIT}},
    }.items()
}
for names in (
    ("instruction", "chosen", "rejected", "score_chosen", "score_rejected"),
    ("messages",),
    ("prompt", "completion", "reasoning"),
    ("prompt", "responses", "scores"),
    ("question", "choices", "answer"),
    ("prompt", "output_1", "output_2", "preference"),
):
    for name in {*names} - {"prompt", "chosen", "rejected"}:
        CONTEXT[f"columns.{name}"] = {"columns": {one: {"value": one} for one in names}}
for one in ("column", "first", "second", "tie"):
    verdict = {"column": "better", "first": [1], "second": [2]}
    CONTEXT[f"columns.preference.{one}"] = {
        "columns": {**CONTEXT["columns.preference"]["columns"], "preference": verdict}
    }
for one in ("revision", "trust_remote_code"):
    CONTEXT |= {f"{at}{one}": CONTEXT[f"{at}name"] for at in ("", "reference.", "steps.base.")}

OTHERS: dict[str, list[Any]] = {
    "data": [{"a": 0.5, "b": 1.0}],
    "after": ["warm"],
    "start": ["warm"],
    "reference": ["warm", {"path": "third"}],
    "of": [["align", "base"]],
    "weights": [[1.0, 3.0], {"a": 1.0, "b": 3.0}],
    "mix": [None],
    "betas": [[0.8, 0.9]],
    "router_loss": [0.5],
    "steps": [None, {"by": "count", "count": 2}],
    "base": [None, {"path": "third"}],
    "lora": [None, {}],
    "checkpoint": [{"publish": "best"}],
    "hub": [{"name": "owner/more", "revision": COMMIT}],
    "generate": [{"kind": "arithmetic", "rows": 7}],
    "where": [["rating > 3"]],
    "columns": [{"messages": "said"}],
    "scratch": [{"tokenizer_from": ["a"], "layers": 2}],
    "tokenizer_from": [["b"]],
    "template_arguments": [{"thinking": False}],
    "revision": ["1" * 40],
    "name": ["owner/another"],
    "date": ["2025-01-01"],
    "deepspeed": [{"zero": 1}],
    "overrides": [{"zero_optimization": {"reduce_bucket_size": 5}}],
    "ray": [{"num_cpus": 5}],
    "wandb": [{"project": "p"}],
    "tags": [["t"]],
    "path": ["other.jsonl"],
}
"""Other values of keys, by their last name, that no general candidate gives."""
CANDIDATES: list[Any] = [True, False, 1, 2, 3, 16, 64, 300, 0.25, 0.75, 5.0, "x", ["x"]]


def keys_of(schema: type[BaseModel], at: Key = ()) -> Iterator[Key]:
    """Yield every key of a schema, those of nested parts below their own."""
    for name, field in schema.model_fields.items():
        yield (*at, name)
        for part in parts(field.annotation):
            yield from keys_of(part, (*at, name))


def parts(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in {typing.Union, types.UnionType, typing.Annotated}:
        for one in typing.get_args(annotation):
            yield from parts(one)


def literals(annotation: Any) -> Iterator[Any]:
    if typing.get_origin(annotation) is typing.Literal:
        yield from typing.get_args(annotation)
    for one in typing.get_args(annotation) if typing.get_origin(annotation) is not typing.Literal else ():
        yield from literals(one)


def context(key: Key) -> dict[str, Any]:
    """Return what stands beside a key in its part of the plan."""
    for end in range(len(key), 0, -1):
        if (found := CONTEXT.get(".".join(key[:end]))) is not None:
            return dict(found)
    return {}


def with_key(part: dict[str, Any], key: Key, value: Any) -> dict[str, Any]:
    if len(key) == 1:
        return part | {key[0]: value}
    return part | {key[0]: with_key(part.get(key[0]) or {}, key[1:], value)}


STAGES = {
    "warm": {"kind": "sft", "data": ["b"]},
    "align": {"kind": "cpo", "data": ["a", "b"]},
}


def plan_of(place: str, part: dict[str, Any], root: Path) -> Plan:
    """Return a plan with one part of it given: the model, the source `a`, the stage `it`, or another key."""
    document: dict[str, Any] = {
        "name": "p",
        "model": {"path": "m"},
        "data": {name: {"path": str(root / f"{name}.jsonl")} for name in "ab"},
        "stages": {**STAGES, "it": {"kind": "dpo", "data": ["a", "b"]}},
        "cluster": {"storage": str(root / "out")},
    }
    clean = {key: value for key, value in part.items() if value is not None or key in {"clip", "after"}}
    if place == "stages":
        document["stages"]["it"] = clean
    elif place == "data":
        document["data"]["a"] = clean
    else:
        document[place] = clean
    return Plan.model_validate(document)


def ids(plan: Plan, place: str) -> list[str]:
    """Return what a plan's steps are known by; of a key of a source what its pairs are, which tokens are made from."""
    return [Sizes().identity(plan, "a")] if place == "data" else [step.id for step in foreseen_steps(plan, Sizes())]


def first_other(place: str, part: dict[str, Any], key: Key, schema: type[BaseModel], root: Path) -> Plan:
    """Return the plan with another value of a key. Raises AssertionError where no candidate is one."""
    field, at = schema.model_fields[key[0]], schema
    for name in key[1:]:
        at = next(one for one in parts(field.annotation) if name in one.model_fields)
        field = at.model_fields[name]
    now = plan_of(place, part, root)
    for value in [*OTHERS.get(key[-1], []), *literals(field.annotation), *CANDIDATES]:
        try:
            plan = plan_of(place, with_key(part, key, value), root)
        except ValidationError:
            continue
        if plan != now:
            return plan
    raise AssertionError(f"no other value of {place}.{'.'.join(key)} is known: give one in OTHERS")


def cases() -> Iterator[Any]:
    for kind, row in STAGE_KINDS.items():
        for key in keys_of(row.settings):
            of_another = key[0] == "reference" or key[:2] == ("steps", "base")
            if key not in {("kind",), ("steps", "by")} and not (of_another and {*key} & {*THE_PLANS_MODEL_ALONE}):
                yield pytest.param("stages", kind, key, row.settings, id=f"{kind}.{'.'.join(key)}")
    for place, schema in {"model": ModelSpec, "data": Source, "reference": ReferenceScores}.items():
        for key in keys_of(schema):
            yield pytest.param(place, "", key, schema, id=f"{place}.{'.'.join(key)}")
    for place, schema in {"cluster": Cluster, "track": Track}.items():
        for key in keys_of(schema):
            yield pytest.param(place, "", key, schema, id=f"{place}.{'.'.join(key)}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for name in ("a", "b", "other"):
        row = {"prompt": name, "chosen": "yes", "rejected": "no"}
        (folder / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n")
    for name in ("a", "x"):
        (folder / "sets" / name).mkdir(parents=True)
        (folder / "sets" / name / "train.jsonl").write_text(f'{{"prompt": "{name}"}}\n')
    return folder


def start(place: str, kind: str, key: Key, root: Path) -> dict[str, Any]:
    """Return the part of a plan that a key stands in, without the key."""
    if place == "stages":
        return {"kind": kind, "of": ["warm", "align"]} if kind == "merge" else {"kind": kind, "data": ["a", "b"]}
    if place == "data":
        return {"path": str(root / "a.jsonl")}
    if place == "cluster":
        gpus = {"gpus_per_worker": 1.0} if key[0] == "tensor_parallel" else {}
        return {"storage": str(root / "out")} | gpus | ({"deepspeed": {"zero": 3}} if key[0] == "deepspeed" else {})
    if place == "track":
        return {"wandb": {"project": "q"}}
    return {"path": "m"} if place == "model" else {}


@pytest.mark.parametrize(("place", "kind", "key", "schema"), list(cases()))
def test_a_key_changes_the_identity_or_stands_in_the_list(
    place: str, kind: str, key: Key, schema: type[BaseModel], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)  # so that another path is that of a file
    named = f"{place}.{'*.' if kind else ''}{'.'.join(key)}"
    part = start(place, kind, key, root) | context(key)
    before, after = plan_of(place, part, root), first_other(place, part, key, schema, root)
    silent = place in {"cluster", "track"} or any(
        named == one or named.startswith(f"{one}.") for one in DECIDES_NOTHING
    )
    old, new = ids(before, place), ids(after, place)
    if silent:
        assert old == new, f"{named} is in the identity: take it from the list"
    else:
        assert old != new, f"{named} changes no identity: say why in DECIDES_NOTHING"
    if place == "model":
        assert not {*old} & {*new}, f"{named} leaves some step as it was"


@pytest.mark.parametrize("key", THE_PLANS_MODEL_ALONE)
@pytest.mark.parametrize("at", [("reference",), ("steps", "base")])
def test_another_model_has_no_key_of_how_texts_are_rendered_or_models_made(at: Key, key: str, root: Path) -> None:
    values = {
        "template_arguments": {"thinking": False},
        "date": "2025-01-01",
        "system_turns": "refuse",
        "scratch": {"tokenizer_from": ["a"]},
    }
    stage = with_key({"kind": "dpo", "data": ["a", "b"]}, (*at, key), values.get(key, "plain"))
    document = {"name": "p", "model": {"path": "m"}, "data": {"a": {"path": "a"}, "b": {"path": "b"}}}
    with raises("plan", f"{'.'.join(at)}.{key}"):
        plan_of_document(parse(yaml.safe_dump({**document, "stages": {"it": stage}}), "plan.yaml"))
