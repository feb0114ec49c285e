"""What the parts of a plan say of each other: names, order, batches, suites.

`contradictions` looks at plain values, so that it finds what is wrong here even where other keys are
wrong too; a key that cannot be read is left to `explain`. The other functions answer for a Plan
that is known to be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ratchet.plan.base import NAME_PATTERN
from ratchet.plan.cluster import Cluster
from ratchet.plan.document import Document, KeyPath, Problem
from ratchet.plan.model import ModelSpec
from ratchet.plan.outline import suggest
from ratchet.plan.reading import in_yaml
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import STAGE_KINDS, may_train, reads_reference, trains
from ratchet.plan.stages import Stage

BASE = "base"
_NAMING = ("after", "start", "reference")
_RENDERED = "has no effect here: texts are rendered once, with the plan's model; set model.{} instead"
_ONLY_THE_PLANS = {
    "scratch": "only the plan's model can be made from scratch: give name or path",
    "chat_template": _RENDERED.format("chat_template"),
    "named_template": _RENDERED.format("named_template"),
    "template_arguments": _RENDERED.format("template_arguments"),
    "date": _RENDERED.format("date"),
    "system": _RENDERED.format("system"),
    "system_turns": _RENDERED.format("system_turns"),
}
"""Keys that a model has only as the plan's, and what to say of them elsewhere."""


def stage_order(plan: Plan) -> list[str]:
    """Return the stages in the order they run: each after those it names, else as the file lists them."""
    waiting = {name: _needs(stage) - {BASE} for name, stage in plan.stages.items()}
    order: dict[str, None] = {}
    while waiting:
        ready = next(name for name, needs in waiting.items() if needs <= order.keys())
        del waiting[ready]
        order[ready] = None
    return list(order)


def start_of(plan: Plan, stage: str) -> str:
    """Return where a training stage's weights begin: a stage, or `base`. Raises ValueError for a merge."""
    spec = plan.stages[stage]
    if not trains(spec):
        raise ValueError(f"{stage} is a merge: it starts from several models")
    return spec.start or spec.after or BASE


def reference_of(plan: Plan, stage: str) -> str | ModelSpec:
    """Return what a stage refers to: a stage, `base`, or another model. Raises ValueError for kinds that do not."""
    spec = plan.stages[stage]
    if not reads_reference(spec):
        raise ValueError(f"{stage} is of kind {spec.kind}: it has no reference")
    return spec.reference or start_of(plan, stage)


def contradictions(document: Document) -> list[Problem]:
    """Return what the parts of a plan say wrongly of each other, suites apart."""
    data = document.data
    stages = {name: stage for name, stage in _mapping(data, "stages").items() if isinstance(stage, dict)}
    cluster = _mapping(data, "cluster")
    problems = [*_stage_names(document, stages), *_cycles(document, stages)]
    if isinstance(data.get("data"), dict):
        problems += _source_names(document, stages)
    if _no_gpu(cluster) and _mapping(data, "model").get("dtype") == "float16":
        what = "training in float16 needs a GPU, and cluster.gpus_per_worker is 0: use bfloat16 or float32"
        problems.append(document.problem(("model", "dtype"), what))
    for name, stage in stages.items():
        if may_train(stage):
            path = ("stages", name)
            problems += [*_stepwise(document, path, stage)]
            problems += [*_quantised(document, path, stage, cluster), *_other_models(document, path, stage)]
            problems += [*_redivided(document, path, stage, cluster), *_added_up(document, path, stage)]
    return problems


def _needs(stage: Stage) -> set[str]:
    named = [getattr(stage, key, None) for key in _NAMING] + list(getattr(stage, "of", ()))
    return {name for name in named if isinstance(name, str)}


def _mapping(value: Any, *keys: str) -> dict[str, Any]:
    """Return the mapping under `keys`, or an empty one where it is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _named(value: Any, path: KeyPath) -> Iterator[tuple[str, KeyPath]]:
    """Yield the names in one name, a list of names or a mapping by name, each with its path."""
    pairs = [(value, path)]
    if isinstance(value, dict):
        pairs = [(name, (*path, name)) for name in value]
    elif isinstance(value, list):
        pairs = [(name, (*path, n)) for n, name in enumerate(value)]
    for name, at in pairs:
        if isinstance(name, str) and re.match(NAME_PATTERN, name):  # else `explain` has said so
            yield name, at


def _targets(name: str, stage: Mapping[str, Any]) -> Iterator[tuple[str, KeyPath]]:
    for key in (*_NAMING, "of"):
        if isinstance(stage.get(key), list if key == "of" else str):
            yield from _named(stage[key], ("stages", name, key))


def _stage_names(document: Document, stages: Mapping[str, Any]) -> Iterator[Problem]:
    known = list(_mapping(document.data, "stages"))
    if BASE in known:
        yield document.problem(("stages", BASE), "the name base is taken by the plan's start model: choose another")
    for name, stage in stages.items():
        for target, path in _targets(name, stage):
            if target == BASE and "after" in path:
                yield document.problem(path, "base is no stage: leave `after` out, or write `start: base`")
            elif target not in known and target != BASE:
                yield document.problem(path, f"no stage is named {target}{suggest(target, [*known, BASE])}")
        yield from _twice(document, _named(stage.get("of"), ("stages", name, "of")))


def _source_names(document: Document, stages: Mapping[str, Any]) -> Iterator[Problem]:
    lists: list[tuple[Any, KeyPath]] = [(stage.get("data"), ("stages", name, "data")) for name, stage in stages.items()]
    scratch = _mapping(document.data, "model", "scratch")
    lists.append((scratch.get("tokenizer_from"), ("model", "scratch", "tokenizer_from")))
    known = list(document.data["data"])
    for value, path in lists:
        if not isinstance(value, list | dict):
            continue
        yield from _twice(document, _named(value, path))
        for name, at in _named(value, path):
            if name not in known:
                yield document.problem(at, f"no source is named {name}{suggest(name, known)}")


def _twice(document: Document, names: Iterator[tuple[str, KeyPath]]) -> Iterator[Problem]:
    seen: set[str] = set()
    for name, path in names:
        if name in seen:
            yield document.problem(path, f"{name} is listed twice")
        seen.add(name)


def _cycles(document: Document, stages: Mapping[str, Any]) -> Iterator[Problem]:
    """Take away stages that can run until none can; what is left goes in circles, or waits for one."""
    paths = {name: dict(_targets(name, stage)) for name, stage in stages.items()}
    left = {name: [target for target in found if target in paths] for name, found in paths.items()}
    while True:
        while ready := [name for name, needs in left.items() if not any(need in left for need in needs)]:
            for name in ready:
                del left[name]
        if not left:
            return
        # What is left waits for something that is left too, so a walk along it must come back to a name.
        walk = [next(iter(left))]
        while walk.count(walk[-1]) == 1:
            walk.append(next(need for need in left[walk[-1]] if need in left))
        circle = walk[walk.index(walk[-1]) : -1]
        # Begin with the stage that the file has first, whichever name the walk began with.
        first = min(range(len(circle)), key=lambda n: list(stages).index(circle[n]))
        circle = [*circle[first:], *circle[: first + 1]]
        yield document.problem(paths[circle[0]][circle[1]], f"goes in a circle: {' → '.join(circle)}")
        # Its stages are taken away, so that another circle behind it is found as well.
        for name in circle[1:]:
            del left[name]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _stepwise(document: Document, path: KeyPath, stage: Mapping[str, Any]) -> Iterator[Problem]:
    steps, data = stage.get("steps"), stage.get("data")
    if not isinstance(steps, dict) or not isinstance(data, list | dict):
        return
    if steps.get("by", "source") == "source" and len(data) == 1:
        at = (*path, "steps", "by") if "by" in steps else (*path, "steps")
        yield document.problem(at, "steps by source need at least 2 sources, and `data` names 1; did you mean count?")


def _quantised(
    document: Document, path: KeyPath, stage: Mapping[str, Any], cluster: Mapping[str, Any]
) -> Iterator[Problem]:
    if _mapping(stage, "lora").get("quantise") is None:
        return
    at = (*path, "lora", "quantise")
    if _no_gpu(cluster):
        yield document.problem(at, "needs a GPU, and cluster.gpus_per_worker is 0: set that, or leave `quantise` out")
    if _mapping(cluster, "deepspeed").get("zero") == 3:
        yield document.problem(at, "quantised weights cannot be divided: set cluster.deepspeed.zero to 0, 1 or 2")


def _redivided(
    document: Document, path: KeyPath, stage: Mapping[str, Any], cluster: Mapping[str, Any]
) -> Iterator[Problem]:
    """Yield what cannot go on with another number of workers: DeepSpeed redivides no checkpoint of adapters."""
    workers, zero = cluster.get("workers"), _mapping(cluster, "deepspeed").get("zero", 0)
    # DeepSpeed keeps the adapters' optimiser state in a layout of one number of workers.
    if isinstance(stage.get("lora"), dict) and _is_range(workers) and zero != 0:
        what = f"adapters divided by ZeRO stay with one number of workers, and cluster.workers is {in_yaml(workers)}"
        yield document.problem((*path, "lora"), f"{what}: set cluster.deepspeed.zero to 0, or give one number")


def _added_up(document: Document, path: KeyPath, stage: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield gradients that would be added up in a precision below the model's."""
    dtype = _mapping(document.data, "model").get("dtype", ModelSpec.model_fields["dtype"].default)
    if stage.get("gradients") == "bfloat16" and dtype in {"float32", "float16"}:
        what = f"bfloat16 goes with model.dtype: bfloat16, and that is {dtype}: leave `gradients` out"
        yield document.problem((*path, "gradients"), what)


def _is_range(workers: Any) -> bool:
    return isinstance(workers, list) and len(workers) == 2 and all(map(_whole, workers)) and workers[0] < workers[1]


def _no_gpu(cluster: Mapping[str, Any]) -> bool:
    """Whether workers surely have no GPU; where a key of the cluster is misspelt, it may have said otherwise."""
    gpus = cluster.get("gpus_per_worker", Cluster.model_fields["gpus_per_worker"].default)
    # `True` equals 1 and `False` 0 in Python: a bool here is a slip of its own.
    return cluster.keys() <= Cluster.model_fields.keys() and not isinstance(gpus, bool) and gpus == 0


def _other_models(document: Document, path: KeyPath, stage: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what models other than the plan's cannot say."""
    row = STAGE_KINDS.get(str(stage.get("kind")))
    for keys in (("reference",), ("steps", "base")):
        if row is not None and keys[0] not in row.settings.model_fields:
            continue  # `explain` has said that it has no such key
        spec = _mapping(stage, *keys)
        for key, what in _ONLY_THE_PLANS.items():
            if spec.get(key) is not None:
                yield document.problem((*path, *keys, key), what)
