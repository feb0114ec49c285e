"""From a plan to the steps that make its models, and what decides each one. Pure: no file, no clock, no Ray.

A stage is one step, or T of them where it is stepwise: `align.1`, `align.2`, … Each step makes
one model under its own name; `base` is the plan's start model.

Every command takes the same steps from `planned_steps`, each with its identity. What differs is how much is known: a
run knows its inputs by their content, a forecast by what decides that content (`Names`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from ratchet.plan.model import ModelSpec
from ratchet.plan.references import reference_of, stage_order, start_of
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import reads_pairs, reads_reference, release_of, trains
from ratchet.plan.stages import Stage
from ratchet.plan.training import Steps, TrainingStage
from ratchet.store.fingerprint import fingerprint

BASE = "base"
NOT_IDENTITY = {
    "kind",
    "data",
    "after",
    "start",
    "reference",
    "steps",
    "checkpoint",
    "max_length",
    "overlong",
    "of",
    "skip_nonfinite",
    "mix",
    "router_loss",
    "first_loss",
}
"""Fields of a stage that enter an identity in another form (models and tokens by content), or not at all."""


DRAW_VERSION = 2
"""Of how the pairs of a share are drawn. Steps that draw some have it in their identity."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What one step trains on: sources with shares as the plan has them, or part `part` of `parts` of their union."""

    shares: Mapping[str, float]
    part: int = 1
    parts: int = 1

    @property
    def label(self) -> str:
        """The chunk in words, for people."""
        names = " + ".join(self.shares)
        return names if self.parts == 1 else f"{names}, part {self.part} of {self.parts}"


@dataclasses.dataclass(frozen=True)
class Step:
    """One model to make. `reference` is None where the kind has none (sft, cpo, merge)."""

    name: str
    stage: str
    kind: str
    chunk: Chunk
    start: str
    reference: str | ModelSpec | None
    settings: Stage


def stepwise(stage: Stage) -> Steps | None:
    """Return the stage's stepwise settings, where it has some."""
    return stage.steps if reads_pairs(stage) else None


def chunk_names(stage: Stage) -> list[str]:
    """Return the names of a stepwise stage's chunks as the plan lists them."""
    steps = stepwise(stage)
    if steps is None or not trains(stage):
        return []
    return list(stage.shares()) if steps.by == "source" else [f"part {n}" for n in range(1, (steps.count or 1) + 1)]


def needs_difficulty(stage: Stage) -> bool:
    """Whether the order of the chunks depends on what the start model prefers."""
    steps = stepwise(stage)
    return steps is not None and steps.order in {"easy_to_hard", "hard_to_easy"}


def final_model(plan: Plan, stage: str) -> str:
    """Return the name of the model that a stage (or `base`) ends with."""
    if stage == BASE:
        return BASE
    count = len(chunk_names(plan.stages[stage]))
    return f"{stage}.{count}" if count else stage


def steps_of(plan: Plan, name: str, order: Sequence[str]) -> list[Step]:
    """Return the steps of one stage; `order` names its chunks as they will be trained."""
    stage = plan.stages[name]
    if not trains(stage):
        # The first part of a merge is its start, as what its model is held against.
        return [Step(name, name, stage.kind, Chunk({}), final_model(plan, stage.of[0]), None, stage)]
    start = final_model(plan, start_of(plan, name))
    named = reference_of(plan, name) if reads_reference(stage) else None
    first = named if named is None or isinstance(named, ModelSpec) else final_model(plan, named)
    steps = stepwise(stage)
    if steps is None:
        return [Step(name, name, stage.kind, Chunk(stage.shares()), start, first, stage)]
    made = []
    for number, chunk in enumerate(order, 1):
        before = f"{name}.{number - 1}"
        made.append(
            Step(
                name=f"{name}.{number}",
                stage=name,
                kind=stage.kind,
                chunk=_chunk(steps, stage.shares(), chunk, number),
                start=start if number == 1 or steps.target == "start" else before,
                reference=None if named is None else first if number == 1 else before,
                settings=stage,
            )
        )
    return made


def _chunk(steps: Steps, shares: Mapping[str, float], name: str, number: int) -> Chunk:
    if steps.by == "source":
        return Chunk({name: shares[name]})
    return Chunk(shares, number, steps.count or 1)


def walk(plan: Plan, order_of: Callable[[str], Sequence[str]]) -> Iterator[Step]:
    """Yield every step in the order they run. `order_of` is asked for the chunks of a stage once that is reached."""
    for name in stage_order(plan):
        yield from steps_of(plan, name, order_of(name))


def all_steps(plan: Plan, orders: Mapping[str, Sequence[str]]) -> list[Step]:
    """Return every step in the order they run; a stage absent from `orders` is taken as listed."""
    return list(walk(plan, lambda name: orders.get(name, chunk_names(plan.stages[name]))))


def built_on(plan: Plan, step: Step) -> list[str]:
    """Return the plan's models that a step is made from: those that it averages, or its start and its reference."""
    if not trains(step.settings):
        return [final_model(plan, name) for name in step.settings.of]
    return list(dict.fromkeys([step.start, *([step.reference] if isinstance(step.reference, str) else [])]))


class Names(Protocol):
    """What the inputs of a plan's steps are known by. The other methods answer where `knows` says so."""

    made: dict[str, str]
    """What the steps so far are known by, by their names."""

    def knows(self, step: Step) -> bool:
        """Whether all inputs of a step are known."""

    def model(self, which: str | ModelSpec) -> str:
        """Return what a model of the plan, or one that it names elsewhere, is known by."""

    def tokens(self, source: str, stage: TrainingStage) -> str:
        """Return what the tokens of a source are known by, as a stage reads them."""

    def rows(self, step: Step) -> str | None:
        """Return what the rows of a step's chunk are known by, or None where it takes its sources' shares whole."""

    def masters(self, step: Step, identity: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the float32 masters that a step starts from, as its identity has them beside `identity`."""


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """A step and what decides its weights; None where some input is not known yet."""

    step: Step
    identity: Mapping[str, Any] | None

    @functools.cached_property
    def id(self) -> str | None:
        """What the step is known by."""
        return None if self.identity is None else fingerprint(self.identity)


def planned_steps(plan: Plan, names: Names, order_of: Callable[[str], Sequence[str]]) -> Iterator[PlannedStep]:
    """Yield every step in the order they run, each with its identity as `names` knows its inputs.

    An identity is composed when its step is asked for, so that a run may make each step before it takes the next.
    """
    for step in walk(plan, order_of):
        found = PlannedStep(step, step_identity(plan, step, names) if names.knows(step) else None)
        if found.id is not None:
            names.made[step.name] = found.id
        yield found


def step_identity(plan: Plan, step: Step, names: Names) -> dict[str, Any]:
    """Return what decides a step's weights. Its inputs must be known."""
    identity = recipe(plan, step, names)
    # Last, because the rest says where a step that was made with them would lie.
    return {**identity, **names.masters(step, identity)}


def recipe(plan: Plan, step: Step, names: Names) -> dict[str, Any]:
    """Return what decides a step's weights, apart from the float32 masters that it may start from."""
    stage = step.settings
    identity = {"kind": step.kind, "version": 2, "options": options(stage), "dtype": plan.model.dtype}
    identity |= {} if (release := release_of(step.kind)) is None else {"package": release}
    if not trains(stage):
        return identity | {"of": [names.model(one) for one in built_on(plan, step)]}
    return identity | {
        "data": {
            source: {"tokens": names.tokens(source, stage), "share": share}
            for source, share in step.chunk.shares.items()
        },
        **({"drawn": DRAW_VERSION} if stage.draws else {}),
        "rows": names.rows(step),
        "start": names.model(step.start),
        "reference": None
        if step.reference is None
        else {"model": names.model(step.reference), "dtype": reference_dtype(plan, step)},
        **scored_by(plan, step),
    }


def chunking(plan: Plan, name: str, names: Names) -> dict[str, Any]:
    """Return what decides the order of a stepwise stage's chunks and the rows that they hold, beside their number."""
    stage = plan.stages[name]
    steps = stepwise(stage)
    assert trains(stage) and steps is not None  # noqa: S101  the caller looked
    union = [[names.tokens(source, stage), share] for source, share in stage.shares().items()]
    found: dict[str, Any] = {"order": steps.order, "union": union}
    if needs_difficulty(stage):
        found |= {
            "start": names.model(final_model(plan, start_of(plan, name))),
            "length_normalised": steps.length_normalised,
            "base": steps.base and [names.model(steps.base), steps.base.dtype],
            "engine": plan.reference.model_dump(mode="json", include={"engine", "quantisation"}),
        }
    # Elsewhere the seed decides neither the order nor the rows.
    if steps.order == "random" or stage.draws:
        found |= {"seed": stage.seed}
    if stage.draws:
        found |= {"drawn": DRAW_VERSION, "mix": stage.mix and stage.mix.model_dump(mode="json")}
    return found


def reference_reads(step: Step) -> list[tuple[str, Literal["train", "heldout"]]]:
    """Return the source and the split of each pass over pairs that a step asks of its reference; none without one.

    A pass reads a source whole, whatever share of it is trained; of what a cut chunk trains on, the chunk's rows alone.
    """
    sources = step.chunk.shares if step.reference else ()
    return [(source, "train") for source in sources] + [(source, "heldout") for source in sources]


def scored_reference(plan: Plan, step: Step, names: Names) -> dict[str, Any]:
    """Return what decides the scores of a step's reference, apart from the pairs. The step must have one."""
    assert step.reference is not None  # noqa: S101  the caller looked
    return {
        "model": names.model(step.reference),
        "dtype": reference_dtype(plan, step),
        "quantise": quantised(step),
        **scored_by(plan, step),
    }


def reference_dtype(plan: Plan, step: Step) -> str:
    """Return the precision in which a step's reference is computed."""
    return step.reference.dtype if isinstance(step.reference, ModelSpec) else plan.model.dtype


def scored_by(plan: Plan, step: Step) -> dict[str, Any]:
    """Say which engine the plan asks for, where it may be another than the trainer's."""
    if step.reference is None or plan.reference.engine == "trainer":
        return {}
    return {"reference_engine": plan.reference.model_dump(mode="json", include={"engine", "quantisation"})}


def quantised(step: Step) -> str | None:
    """Return how a step's reference is held where it is the frozen weights of its own training (QLoRA)."""
    lora = step.settings.lora if trains(step.settings) else None
    return lora.quantise if lora and step.reference == step.start else None


def heirs(plan: Plan) -> dict[str, list[str]]:
    """Return the training steps that start from each training step, which carry its float32 masters on.

    None where weights are trained in float32, which is published whole.
    """
    steps = {step.name: step for step in all_steps(plan, {}) if trains(step.settings)}
    found: dict[str, list[str]] = {}
    for step in steps.values():
        if step.start in steps and plan.model.dtype != "float32":
            found.setdefault(step.start, []).append(step.name)
    return found


def options(stage: Stage) -> dict[str, Any]:
    """Return the settings of a stage that decide its numbers, apart from its data and models."""
    found = stage.model_dump(mode="json", exclude=NOT_IDENTITY)
    if trains(stage) and stage.checkpoint.publish == "best":
        # Which checkpoint is best depends on which there are.
        found |= {"publish": "best", "checkpoint_every": stage.checkpoint.every}
    # Named only where they are set, so that steps from before there were such keys keep their identity.
    late = stage.model_dump(mode="json", include={"skip_nonfinite", "mix", "router_loss"})
    return found | {key: value for key, value in late.items() if value and value != "off"}


def preference_sources(plan: Plan) -> list[str]:
    """Return the sources that preference stages train on, in the order of the plan."""
    used = {name for stage in plan.stages.values() if reads_pairs(stage) for name in stage.shares()}
    return [name for name in plan.data if name in used]
