"""How much work a sweep is, without doing any of it: stages, pairs and reference passes, each once or for every trial.

Every step of every trial gets an identity from what decides it, as far as that is known before anything
runs: its options, its sources, and the identities of the models that it starts from and refers to. Steps of
one identity are one stage.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ratchet.pipeline.graph import (
    BASE,
    Step,
    chunk_names,
    final_model,
    needs_difficulty,
    options,
    steps_of,
    stepwise,
)
from ratchet.plan.model import ModelSpec
from ratchet.plan.references import stage_order, start_of
from ratchet.plan.schema import Plan
from ratchet.plan.stages import Merge, Stage, Steps, Training
from ratchet.reference.partition import order_chunks
from ratchet.store.fingerprint import fingerprint
from ratchet.tune.source_sizes import Known, Sizes

Trials = Sequence[tuple[str, Plan]]


@dataclasses.dataclass(frozen=True)
class Count:
    """A number of things to do: where no trial shares anything with another, and with each done once."""

    unshared: int
    shared: int

    @property
    def saved(self) -> float:
        """The share that need not be done, from 0 to 1."""
        return 1 - self.shared / self.unshared if self.unshared else 0.0


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The work of some trials.

    `stages` are models trained or merged, `pairs` pairs trained over all epochs. A reference pass is one model
    over one source (a chunk of it, where the union is cut), which `reference_pairs` counts, held-out ones too;
    scoring that only orders chunks or evaluates is in none. `undecided` names stages whose order is decided by a
    model: what they share is known when they run, so that shared counts are at most these. `sources` says how
    each source's size is known.
    """

    trials: int
    stages: Count
    pairs: Count
    passes: Count
    reference_pairs: Count
    undecided: tuple[str, ...]
    sources: Mapping[str, Known]


@dataclasses.dataclass(frozen=True)
class Planned:
    """One step of a trial: its identity, the pairs that it trains, and the pairs of each reference pass it needs."""

    id: str
    pairs: int
    passes: Mapping[str, int]


def forecast(trials: Trials, sizes: Sizes | None = None) -> Forecast:
    """Return the work of `trials`, each a trial's id and its plan. Raises DataError where a file of a source is absent.

    `sizes` may be given to share what is known of sources between calls.
    """
    known = sizes or Sizes()
    planner = _Planner(known)
    stages: dict[str, int] = {}
    passes: dict[str, int] = {}
    asked, pairs, wanted, reference_pairs = 0, 0, 0, 0
    undecided: dict[str, None] = {}
    for _, plan in trials:
        own: dict[str, int] = {}  # a run by itself makes no pass twice
        for step in planner.steps(plan):
            asked, pairs = asked + 1, pairs + step.pairs
            stages[step.id] = step.pairs
            own |= step.passes
        wanted, reference_pairs = wanted + len(own), reference_pairs + sum(own.values())
        passes |= own
        undecided |= dict.fromkeys(name for name, stage in plan.stages.items() if _unknown_order(stage))
    return Forecast(
        trials=len(trials),
        stages=Count(asked, len(stages)),
        pairs=Count(pairs, sum(stages.values())),
        passes=Count(wanted, len(passes)),
        reference_pairs=Count(reference_pairs, sum(passes.values())),
        undecided=tuple(undecided),
        sources=known.known,
    )


def planned_steps(plan: Plan, sizes: Sizes | None = None) -> list[Planned]:
    """Return the steps of one plan with their identities, in the order they run."""
    return list(_Planner(sizes or Sizes()).steps(plan))


def _unknown_order(stage: Stage) -> bool:
    steps = stepwise(stage)
    return steps is not None and steps.by == "source" and needs_difficulty(stage)


def _order(stage: Stage) -> list[str]:
    """The chunks in the order they are trained, as far as that is known: as listed, where a model decides."""
    steps, chunks = stepwise(stage), chunk_names(stage)
    if isinstance(stage, Merge) or steps is None or steps.by == "count" or needs_difficulty(stage):
        return chunks
    return order_chunks(steps.order, chunks, {}, stage.seed)


class _Planner:
    """Plans trial after trial; what trials have in common is worked out once."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._options: dict[str, str] = {}
        self._models: dict[str, str] = {}
        self._made: dict[str, list[tuple[str, Planned]]] = {}

    def steps(self, plan: Plan) -> Iterator[Planned]:
        """Yield the steps of a plan in the order they run."""
        ids = {BASE: self._model(plan, plan.model)}
        about = json.dumps([ids[BASE], plan.model.dtype, _rendering(plan), plan.reference.model_dump_json()])
        for name in stage_order(plan):
            for step, planned in self._stage(plan, name, ids, about):
                ids[step] = planned.id
                yield planned

    def _stage(self, plan: Plan, name: str, ids: Mapping[str, str], about: str) -> list[tuple[str, Planned]]:
        """Return the steps of a stage by their names; a stage of the same content, start and reference is kept."""
        stage = plan.stages[name]
        steps = steps_of(plan, name, _order(stage))
        shares = {} if isinstance(stage, Merge) else stage.shares()
        read = {source: self.sizes.identity(plan, source) for source in shares}
        of = stage.of if isinstance(stage, Merge) else ()
        built_on = [ids[final_model(plan, one)] for one in of] or [ids[steps[0].start]]
        named = steps[0].reference
        built_on += [self._model(plan, named)] if isinstance(named, ModelSpec) else [ids[named]] if named else []
        key = json.dumps([about, name, stage.model_dump_json(), read, built_on])
        if key not in self._made:
            mine, made = dict(ids), []
            for step in steps:
                planned = self._step(plan, step, mine, read)
                mine[step.name] = planned.id
                made.append((step.name, planned))
            self._made[key] = made
        return self._made[key]

    def _step(self, plan: Plan, step: Step, ids: Mapping[str, str], read: Mapping[str, str]) -> Planned:
        """Plan one step, as `pipeline.steps.step_identity` will know it."""
        stage = step.settings
        identity: dict[str, Any] = {
            "kind": step.kind,
            "options": self._options_of(stage),
            "dtype": plan.model.dtype,
        }
        if isinstance(stage, Merge):
            return Planned(fingerprint(identity | {"of": [ids[final_model(plan, one)] for one in stage.of]}), 0, {})
        reference, against = self._reference(plan, step, ids)
        tokens = {source: _tokens(plan, stage, ids[BASE], read[source]) for source in step.chunk.shares}
        start = ids[final_model(plan, start_of(plan, step.stage))]
        chunk = _chunk(plan, stage, step, start, read)
        data = {"tokens": tokens, "shares": dict(step.chunk.shares), "chunk": chunk}
        identity |= {"data": data, "start": ids[step.start], "reference": reference, "against": against}
        sizes = {source: self.sizes.of(plan, source, stage) for source in step.chunk.shares}
        rows = sum(int(step.chunk.shares[source] * one.train + 0.5) for source, one in sizes.items())
        rows = rows // step.chunk.parts + (step.chunk.part <= rows % step.chunk.parts)
        passes = {}
        for source, one in sizes.items() if reference else ():
            # A pass reads a source whole, whatever share of it is trained; a cut chunk's reads its part of the share.
            part = one.train if step.chunk.parts == 1 else int(step.chunk.shares[source] * one.train / step.chunk.parts)
            key = fingerprint({"model": reference, **against, "tokens": tokens[source], "chunk": chunk})
            passes[key] = part + one.heldout
        return Planned(fingerprint(identity), seen(rows, stage), passes)

    def _reference(self, plan: Plan, step: Step, ids: Mapping[str, str]) -> tuple[str | None, Mapping[str, Any]]:
        """Return a step's reference by its identity, and what else decides its scores."""
        named, stage = step.reference, step.settings
        if named is None or isinstance(stage, Merge):
            return None, {}
        held = stage.lora.quantise if stage.lora and named == step.start else None
        asked = plan.reference.model_dump(mode="json", include={"engine", "quantisation"})
        about = {"quantise": held, "engine": None if plan.reference.engine == "trainer" else asked}
        if isinstance(named, ModelSpec):
            return self._model(plan, named), about | {"dtype": named.dtype}
        return ids[named], about | {"dtype": plan.model.dtype}

    def _options_of(self, stage: Stage) -> str:
        text = stage.model_dump_json()
        if text not in self._options:
            self._options[text] = fingerprint(options(stage))
        return self._options[text]

    def _model(self, plan: Plan, spec: ModelSpec) -> str:
        """Return the identity of a model that no stage makes: what it is, wherever the weights will come from."""
        text = spec.model_dump_json(include={"name", "revision", "path", "scratch", "trust_remote_code"})
        read = spec.scratch.tokenizer_from if spec.scratch else ()
        key = json.dumps([text, [self.sizes.identity(plan, source) for source in read]])
        if key not in self._models:
            self._models[key] = fingerprint({"model": key})
        return self._models[key]


def _tokens(plan: Plan, stage: Training, base: str, source: str) -> dict[str, Any]:
    """What a source's tokens are made from; the tokenizer is the plan's model's."""
    policy = {"max_length": stage.max_length, "overlong": stage.overlong}
    return {"source": source, "tokenizer": base, "rendering": _rendering(plan), **policy}


def _rendering(plan: Plan) -> str:
    """What decides how conversations become text, beside the model's own template."""
    return plan.model.model_dump_json(include={"chat_template", "template_arguments", "date"})


def _chunk(plan: Plan, stage: Training, step: Step, start: str, read: Mapping[str, str]) -> dict[str, Any] | None:
    """What decides which pairs a chunk holds, beside its sources: nothing where it is its sources whole."""
    steps = stepwise(stage)
    if steps is None or (steps.by == "source" and not needs_difficulty(stage)):
        return None
    number = int(step.name.rpartition(".")[2])
    union = [[name, read[name], share] for name, share in stage.shares().items()]
    found: dict[str, Any] = {"number": number, "of": len(chunk_names(stage)), "order": steps.order, "union": union}
    if needs_difficulty(stage):
        found |= {"start": start} | _judged(plan, steps)
    if steps.order == "random" or min(stage.shares().values()) < 1:
        found |= {"seed": stage.seed}
    return found


def _judged(plan: Plan, steps: Steps) -> dict[str, Any]:
    base = steps.base.model_dump(mode="json") if steps.base else None
    asked = plan.reference.model_dump(mode="json", include={"engine", "quantisation"})
    return {"length_normalised": steps.length_normalised, "base": base, "engine": asked}


def seen(rows: int, stage: Training) -> int:
    """Return the pairs that a stage trains in all its epochs over `rows`, as far as `max_steps` lets it."""
    each = -(-rows // stage.batch)
    steps = min(stage.epochs * each, stage.max_steps or stage.epochs * each)
    return (steps // each) * rows + (steps % each) * stage.batch if rows else 0
