"""What a step of a run is made from: models, tokens and rows by their content, and float32 masters.

Masters go from step to step: here is who leaves them, who starts from them, and when they go.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ratchet.errors import CorruptError
from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import BASE, Step, built_on, final_model, heirs, stepwise
from ratchet.pipeline.prepare import external_model, reference_model, source_tokens
from ratchet.pipeline.step_folder import IDENTITY, masters_of, step_faults
from ratchet.plan.model import ModelSpec
from ratchet.plan.stage_kinds import trains
from ratchet.plan.training import TrainingStage
from ratchet.store.files import read_sealed, storage_errors
from ratchet.store.fingerprint import fingerprint
from ratchet.store.record import NAME, Record, legible_record

KEY = "masters"
"""The key of a step's identity and inputs that says from which masters it starts."""
_log = logging.getLogger(__name__)


class Contents:
    """What the inputs of a run's steps are known by: their content. A step that is not made is known by its identity.

    Nothing is made to find out; a model that is named outside the stages must be there.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.made: dict[str, str] = {}
        self._heirs = heirs(run.plan)

    def knows(self, step: Step) -> bool:
        """Whether all inputs of a step are known: its models, its sources, and which of their rows it trains on."""
        run, models = self.run, set(built_on(self.run.plan, step))
        if not models <= {*run.models, *self.made} or BASE not in run.models:
            return False
        # Masters are content, and no recipe of a start model that is not made says what they will be.
        carries = trains(step.settings) and step.name in self._heirs.get(step.start, ())
        if carries and not models <= run.models.keys():
            return False
        if not step.chunk.shares.keys() <= run.pairs.keys() or not _ordered(run, step):
            return False
        # A model that is named outside the plan is hashed whole, or fetched: only a run that comes so far does that.
        reference, stage = step.reference, step.settings
        return not (
            isinstance(reference, ModelSpec)
            and trains(stage)
            and reference.model_dump_json() not in run.external
            and any((name, stage.max_length, stage.overlong) not in run.tokens for name in step.chunk.shares)
        )

    def model(self, which: str | ModelSpec) -> str:
        """Return the identity of a model."""
        if isinstance(which, ModelSpec):
            return external_model(self.run, which).identity
        return self.run.models[which].identity if which in self.run.models else self.made[which]

    def tokens(self, source: str, stage: TrainingStage) -> str:
        """Return the fingerprint of a source's tokens, which need not be there."""
        known = self.run.tokens.get((source, stage.max_length, stage.overlong))
        return known.fingerprint if known else fingerprint(source_tokens(self.run, source, stage).identity)

    def rows(self, step: Step) -> str | None:
        """Return a digest of the rows of a step's chunk, or None where it takes its sources' shares whole."""
        rows = self.run.rows_of(step)
        return None if rows is None else fingerprint({"rows": list(rows)})

    def masters(self, step: Step, identity: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the float32 masters that a step starts from, if its start model left any."""
        return carried(self.run, step, identity) if step.start in self.run.models else {}


def _ordered(run: Run, step: Step) -> bool:
    """Whether it is decided which of its sources' rows a step trains on."""
    steps = stepwise(step.settings)
    return steps is None or step.stage in run.orders or (steps.by, steps.order) == ("source", "listed")


def left_by(record: Record) -> str | None:
    """Return the digest of the masters that a finished step left, or None where no step needed any."""
    masters = masters_of(record)
    return None if masters is None else str(masters["sha256"])


def leaves(run: Run, step: Step) -> bool:
    """Whether a step leaves masters behind: some later step of the plan starts from it."""
    return step.name in heirs(run.plan)


def input_weights(run: Run, step: Step, identity: Mapping[str, Any]) -> dict[str, str]:
    """Return the content digests of the models that a step builds on, by role, and of the masters that it carries."""
    if not trains(step.settings):
        return {name: run.models[final_model(run.plan, name)].weights for name in step.settings.of}
    found = {"start": run.models[step.start].weights}
    if step.reference is not None:
        found["reference"] = reference_model(run, step).weights
    return found | {key: identity[key] for key in (KEY,) if key in identity}


def carried(run: Run, step: Step, identity: Mapping[str, Any]) -> dict[str, str]:
    """Return the masters that a step starts from, as its identity has them; empty where it starts from rounded weights.

    A step that is begun goes on as it began. Another has them where they are there, or where it was made with them for
    another run. Masters go once no step of the plan needs them; a stage that is added later starts without.
    """
    digest = run.models[step.start].masters if trains(step.settings) else None
    if digest is None:
        return {}
    found = {KEY: digest}
    begun = None if run.fresh else begun_as(run.layout.step(run.plan.name, step.name))
    if begun is not None:
        return found if begun.get(KEY) else {}
    made = run.layout.made_step(home_key(run, step, {**identity, **found}))
    return found if run.models[step.start].masters_file.exists() or (made / NAME).exists() else {}


def begun_as(folder: Path) -> Mapping[str, Any] | None:
    """Return the identity with which a step was begun, by its record where its own file is damaged; else None."""
    try:
        return read_sealed(folder / IDENTITY, "run with --fresh")
    except CorruptError:
        record = legible_record(folder)
        return None if record is None else record.identity


def wanted_again(run: Run, name: str) -> bool:
    """Whether a finished step must be made again for its masters: they went, and a step that began with them is damaged
    or was cut short.
    """
    folder = run.layout.step(run.plan.name, name)
    record = legible_record(folder)
    if record is None or left_by(record) is None or (folder / KEY).exists():
        return False
    return any(_lacks(run, heir) for heir in heirs(run.plan).get(name, []))


def _lacks(run: Run, name: str) -> bool:
    folder = run.layout.step(run.plan.name, name)
    begun = begun_as(folder)
    if begun is None or KEY not in begun:
        return False
    # In a chain too: a step that is made again for its own heirs needs the masters of its start.
    return not (folder / NAME).exists() or bool(step_faults(folder)) or wanted_again(run, name)


def home_key(run: Run, step: Step, identity: Mapping[str, Any]) -> str:
    """Return the name under which trials share a step; one that leaves masters is another than one that does not."""
    leaving = {"leaves": KEY} if leaves(run, step) else {}
    return fingerprint({"recipe": identity, "inputs": input_weights(run, step, identity), **leaving})


@dataclasses.dataclass(frozen=True)
class RunStep:
    """A step whose inputs are there. It is made in its place, so that its checkpoints outlive a kill.

    It has a name in its run folder. Trials share it by `home`, which also has the weights of its inputs: one recipe
    may have come out with other weights elsewhere.
    """

    run: Run
    step: Step
    identity: Mapping[str, Any]
    kind: ClassVar[str] = "step"

    @property
    def what(self) -> str:
        return f"step {self.step.name} of {self.run.plan.name}"

    @property
    def folder(self) -> Path:
        """The step in its run folder; of a trial's it is a link to its home."""
        return self.run.layout.step(self.run.plan.name, self.step.name)

    @functools.cached_property
    def home(self) -> Path:
        """Where it lies in the store when a trial made it."""
        return self.run.layout.made_step(home_key(self.run, self.step, self.identity))

    @property
    def place(self) -> Path:
        """Where this run makes it."""
        return self.home if self.run.trial else self.folder


def tell_of_rounding(run: Run, step: Step, identity: Mapping[str, Any]) -> None:
    """Warn where a step starts from the rounded weights of another, whose masters are not there."""
    start = step.start
    if KEY in identity or start == BASE or step.name not in heirs(run.plan).get(start, []):
        return
    _log.warning(
        "%s starts from the rounded weights of %s: float32 masters are kept only while a step of the plan needs them. "
        "What %s gained below the precision of %s is lost; run with --fresh to carry it on",
        step.name,
        start,
        start,
        run.plan.model.dtype,
    )


def drop_masters(run: Run, step: Step) -> None:
    """Remove the masters that `step` started from, once all steps that need them are made.

    Those of steps that trials share stay: further trials may start from them.
    """
    folder = run.layout.step(run.plan.name, step.start)
    waiting = {*heirs(run.plan).get(step.start, [])} - {*run.models, step.name}
    if run.trial is None and not waiting and not folder.is_symlink() and (folder / KEY).exists():
        with storage_errors(folder):
            shutil.rmtree(folder / KEY)
