"""How much work a sweep is, without doing any of it: stages, pairs and reference passes, each once or for every trial.

Every step of every trial gets the identity that a run composes (`pipeline.graph.recipe`), from what decides its inputs
in place of their content. Steps of one identity are one stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ratchet.pipeline.graph import (
    BASE,
    Step,
    chunk_names,
    chunking,
    heirs,
    needs_difficulty,
    planned_steps,
    reference_reads,
    scored_reference,
    stepwise,
)
from ratchet.pipeline.sizes import Known, Sizes, pairs_read, pairs_seen, step_rows
from ratchet.plan.model import ModelSpec
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import trains
from ratchet.plan.stages import Stage
from ratchet.plan.training import TrainingStage
from ratchet.reference.partition import order_chunks
from ratchet.store.fingerprint import fingerprint

Trials = Sequence[tuple[str, Plan]]
_RENDERING = {"chat_template", "named_template", "template_arguments", "date", "system_turns"}
"""Keys of a model that decide how texts become tokens."""


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
    """One step of a trial: its identity, the pairs that it trains, and the pairs of each reference pass it needs.

    Trials share what has the same `home`: one that leaves float32 masters for a later step is made for itself.
    """

    id: str
    home: str
    pairs: int
    passes: Mapping[str, int]


def forecast(trials: Trials, sizes: Sizes | None = None) -> Forecast:
    """Return the work of `trials`, each a trial's id and its plan. Raises DataError where a file of a source is absent.

    `sizes` may be given to share what is known of sources between calls.
    """
    known = sizes or Sizes()
    stages: dict[str, int] = {}
    passes: dict[str, int] = {}
    asked, pairs, wanted, reference_pairs = 0, 0, 0, 0
    undecided: dict[str, None] = {}
    for _, plan in trials:
        own: dict[str, int] = {}  # a run by itself makes no pass twice
        for step in foreseen_steps(plan, known):
            asked, pairs = asked + 1, pairs + step.pairs
            stages[step.home] = step.pairs
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


def foreseen_steps(plan: Plan, sizes: Sizes) -> Iterator[Planned]:
    """Yield the steps of one plan in the order they run."""
    names, left = Foreseen(plan, sizes), heirs(plan)
    for planned in planned_steps(plan, names, lambda name: _order(plan.stages[name])):
        step, known = planned.step, str(planned.id)
        home = f"{known} leaves" if step.name in left else known
        if not trains(step.settings):
            yield Planned(known, home, 0, {})
            continue
        found = {source: sizes.of(plan, source, step.settings) for source in step.chunk.shares}
        pairs = pairs_seen(step_rows(step, {source: one.train for source, one in found.items()}), step.settings)
        asked: dict[str, int] = {}
        for source, split in reference_reads(step):
            asked[source] = asked.get(source, 0) + pairs_read(step, found, source, split)
        # By its identity, as two sources of a plan may be of the same pairs: then it is one pass.
        passes = {_pass(plan, step, names, source): read for source, read in asked.items()}
        yield Planned(known, home, pairs, passes)


class Foreseen:
    """What the inputs of a plan's steps are known by before anything is made: by what decides their content.

    `made` has the identities of the steps so far, by their names.
    """

    def __init__(self, plan: Plan, sizes: Sizes) -> None:
        self.plan, self.sizes = plan, sizes
        self.made: dict[str, str] = {}
        self._tokens: dict[tuple[str, int, str], str] = {}
        self.made[BASE] = self.model(plan.model)

    def knows(self, step: Step) -> bool:
        """Whether all inputs of a step are known: what decides them always is."""
        return True

    def masters(self, step: Step, identity: Mapping[str, Any]) -> Mapping[str, str]:
        """Return nothing: which masters a step starts from follows from the identity of its start model."""
        return {}

    def model(self, which: str | ModelSpec) -> str:
        """Return a step's identity; of a model that no stage makes, what it is, wherever its weights come from."""
        if isinstance(which, str):
            return self.made[which]
        spec = which.model_dump(
            mode="json", include={"name", "revision", "path", "scratch", "trust_remote_code"}, exclude_none=True
        )
        read = which.scratch.tokenizer_from if which.scratch else ()
        return fingerprint({"spec": spec, "read": [self.sizes.identity(self.plan, source) for source in read]})

    def tokens(self, source: str, stage: TrainingStage) -> str:
        """Return what decides a source's tokens; the tokenizer is that of the plan's model."""
        key = (source, stage.max_length, stage.overlong)
        if key not in self._tokens:
            rendering = self.plan.model.model_dump(mode="json", include=_RENDERING)
            pairs, policy = self.sizes.identity(self.plan, source), [stage.max_length, stage.overlong]
            self._tokens[key] = fingerprint(
                {"pairs": pairs, "tokenizer": self.made[BASE], "rendering": rendering, "policy": policy}
            )
        return self._tokens[key]

    def rows(self, step: Step) -> str | None:
        """Return what decides which pairs a chunk holds, beside its sources: nothing where it is its sources whole.

        Where a model decides the order, chunks are named as they are listed.
        """
        stage, steps = step.settings, stepwise(step.settings)
        if not trains(stage) or steps is None or (steps.by == "source" and not needs_difficulty(stage)):
            return None
        part = [step.chunk.part, step.chunk.parts]
        return fingerprint({"part": part, **chunking(self.plan, step.stage, self)})


def _pass(plan: Plan, step: Step, names: Foreseen, source: str) -> str:
    """Return what decides a step's reference pass over one of its sources."""
    assert trains(step.settings)  # noqa: S101  the caller looked
    pairs = {"tokens": names.tokens(source, step.settings), "rows": names.rows(step)}
    return fingerprint({**scored_reference(plan, step, names), **pairs})


def _unknown_order(stage: Stage) -> bool:
    steps = stepwise(stage)
    return steps is not None and steps.by == "source" and needs_difficulty(stage)


def _order(stage: Stage) -> list[str]:
    """The chunks in the order they are trained, as far as that is known: as listed, where a model decides."""
    steps, chunks = stepwise(stage), chunk_names(stage)
    if not trains(stage) or steps is None or steps.by == "count" or needs_difficulty(stage):
        return chunks
    return order_chunks(steps.order, chunks, {}, stage.seed)
