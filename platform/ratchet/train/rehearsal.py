"""A rehearsal before the first step: all that a step will do with its model is done once, with a small one.

A model of few parameters is taken as it is. Of a large one a clone is made, with every kind of its layers. Workers load
it as they will load the real one, make an update of size 0 with the plan's engine, and publish. Nothing may have
changed then: every tensor comes back to the bit, and adapters score as they do once they are merged. So what would fail
at publishing fails here, by name, before a weight of the real model is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ratchet.errors import ModelError
from ratchet.model.check import text_settings
from ratchet.model.clone import write_clone
from ratchet.model.folder import config_identity, storage_of, stored_tensors
from ratchet.model.forward import score
from ratchet.pairs.pair import TokenisedPair
from ratchet.store.files import storage_errors
from ratchet.store.lease import SILENTLY
from ratchet.store.made import LeasedTurn, Made, Product, find, keep, lease_key, turn
from ratchet.store.record import versions
from ratchet.train.come_back import compare_changed, compare_merged, compare_published, compare_saved
from ratchet.train.communicate import Communicator, agree
from ratchet.train.effect import Sample
from ratchet.train.engine import MakeEngine, TrainingEngine
from ratchet.train.library import library_faults
from ratchet.train.publish import publish_model
from ratchet.train.scorer import build_scorer
from ratchet.train.spec import MODEL, WHOLE, TrainSpec

FOLDER = "rehearsal"
"""The folder of a step in which it is rehearsed; it goes at the end."""
VERSION = 2
_LIBRARIES = ("ratchet", "torch", "transformers", "peft", "deepspeed")
_PROMPT, _ANSWERS = 12, (5, 9, 3, 7)
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """A rehearsal of one kind of model, adapters, precision and engine: trials and stages of the same need one."""

    spec: TrainSpec
    device: str
    world: int
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kind = "rehearsals"
    what = "a rehearsal of publishing"

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides how it goes: no weight does. Raises ModelError."""
        spec, cluster, folder = self.spec, self.spec.cluster, Path(self.spec.model)
        names = "\n".join(f"{one.name} {one.shape}" for one in stored_tensors(folder).values())
        return {
            "version": VERSION,
            "versions": {name: versions().get(name) for name in _LIBRARIES},
            "settings": config_identity(folder),
            "tensors": hashlib.sha256(names.encode()).hexdigest()[:20],
            "storage": storage_of(folder),
            "trust_remote_code": spec.trust_remote_code,
            "dtype": spec.dtype,
            "gradients": spec.stage.gradients,
            "keep_masters": spec.keep_masters,
            "lora": None if spec.stage.lora is None else spec.stage.lora.model_dump(mode="json"),
            "deepspeed": cluster.deepspeed.model_dump(mode="json"),
            "several": self.world > 1,
            "device": self.device,
            "sharing": cluster.sharing,
            "gradient_checkpointing": spec.gradient_checkpointing is True,
        }

    def make(self, folder: Path, look: Callable[[], None]) -> Product:
        """Return what was seen; its record is all that is kept."""
        return Product(facts=self.facts, seconds=self.facts["seconds"])


def rehearse(
    spec: TrainSpec, communicator: Communicator, device: torch.device, make_engine: MakeEngine
) -> dict[str, Any]:
    """Rehearse a step, unless its store has the same rehearsal, and return what was seen, on all workers.

    Raises ModelError, StorageError, which name what would fail at publishing; alike on all workers.
    """
    artefact = Rehearsal(spec, device.type, communicator.world)
    with contextlib.ExitStack() as stack:
        mine = agree(communicator, lambda: _turn(artefact, stack) if communicator.rank == 0 else None)
        known = communicator.gather(dict(mine.found.record.facts) if mine and mine.found else None)[0]
        if known is not None:
            return {**known, "reused": True}
        clock = time.monotonic()
        with torch.random.fork_rng(devices=[]):  # classes draw where they are made
            seen = _rehearsed(spec, communicator, device, make_engine)
        facts = {**seen, "seconds": round(time.monotonic() - clock, 3)}
        agree(communicator, lambda: _keep(dataclasses.replace(artefact, facts=facts), mine))
        return {**communicator.gather(facts)[0], "reused": False}


def _turn(artefact: Rehearsal, stack: contextlib.ExitStack) -> LeasedTurn[Made | None] | None:
    layout = artefact.spec.store
    if layout is None:
        return None
    key = lease_key(artefact)
    look = lambda mine: find(layout, artefact)  # noqa: E731
    return stack.enter_context(turn(layout, look, lambda found: {} if found else {key: artefact.what}, SILENTLY))


def _keep(artefact: Rehearsal, mine: LeasedTurn[Made | None] | None) -> None:
    if mine is not None and artefact.spec.store is not None:
        keep(artefact.spec.store, artefact, list(mine.leases.values()))


def _rehearsed(
    spec: TrainSpec, communicator: Communicator, device: torch.device, make_engine: MakeEngine
) -> dict[str, Any]:
    folder, lead = Path(spec.folder) / FOLDER, communicator.rank == 0
    chosen = agree(communicator, lambda: _choose(spec, folder) if lead else None)
    model, about = communicator.gather(chosen)[0] or ("", {})
    if not model:
        return about
    small = dataclasses.replace(spec, folder=str(folder), model=model, masters=None, masters_digest=None, owed=None)
    try:
        with _by_name(spec):
            pairs = _pairs(Path(model))
            scorer = _agree(communicator, small, lambda: build_scorer(small, device, first=lead))
        # What fails in these two would fail in the first step as well, and as it is, for a debugger.
        engine = make_engine(small, scorer, device)
        update_by_nothing(engine, pairs)
        with _by_name(spec):
            _publish(small, engine, pairs, communicator)
            engine.release()
            tensors = _agree(communicator, small, lambda: compare_published(small, folder / MODEL) if lead else 0)
            if spec.stage.lora is None:  # adapters leave other weights as they are loaded
                _agree(communicator, small, lambda: compare_changed(small) if lead else None)
            else:
                _agree(communicator, small, lambda: compare_merged(small, pairs) if lead else None)
    finally:
        if lead:
            shutil.rmtree(folder, ignore_errors=True)
    return {**about, "tensors": tensors}


def _agree(communicator: Communicator, small: TrainSpec, action: Callable[[], T]) -> T:
    """Run `action` on every worker; what libraries raise in it is an error that all of them know."""

    def named() -> T:
        with library_faults(small.model):
            return action()

    return agree(communicator, named)


def _publish(small: TrainSpec, engine: TrainingEngine, pairs: list[TokenisedPair], communicator: Communicator) -> None:
    sample = Sample(pairs, torch.zeros(2, len(pairs)), "made-up pairs")
    try:
        publish_model(small, engine, sample, communicator, 0)
    except ModelError:
        # Where saving and loading alone are at fault, that names the tensor.
        _agree(communicator, small, lambda: compare_saved(small) if communicator.rank == 0 else None)
        raise


def _choose(spec: TrainSpec, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the folder of the model that is rehearsed with, "" where there is none, and what it is."""
    source = Path(spec.model)
    count = sum(math.prod(one.shape) for one in stored_tensors(source).values())
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if count <= WHOLE:
            return str(source), {"of": "the whole model", "parameters": count}
        made = write_clone(source, folder / "start", spec.dtype, trust_remote_code=spec.trust_remote_code)
    if made is None:
        _log.warning("%s: no small model of its kind can be made: publishing is tried by names and shapes", spec.model)
        return "", {"of": "names and shapes"}
    about = {"of": f"a clone with {made.layers} of {made.of} layers", "parameters": made.parameters}
    return str(folder / "start"), about


@contextlib.contextmanager
def _by_name(spec: TrainSpec) -> Iterator[None]:
    """Say of what fails that it was a rehearsal, and of which model."""
    try:
        yield
    except ModelError as error:
        raise ModelError(
            f"a rehearsal before the first step failed: {error.what}",
            where=error.where if error.where.startswith(("lora", "router_loss")) else spec.model,
            fix=error.fix,
            code=error.finer,
        ) from error


def _pairs(folder: Path) -> list[TokenisedPair]:
    """Return two made-up pairs with one prompt; their ids are those that any vocabulary has."""
    most = int(text_settings(folder)["vocab_size"])
    draw = np.random.default_rng(0).integers(min(10, most // 4), min(most - 4, 500), _PROMPT + sum(_ANSWERS))
    prompt, *answers, _ = np.split(draw.astype(np.int32), np.cumsum([_PROMPT, *_ANSWERS]))
    return [TokenisedPair(f"rehearsal-{k}", prompt, *answers[2 * k : 2 * k + 2]) for k in range(2)]


def update_by_nothing(engine: TrainingEngine, pairs: list[TokenisedPair]) -> None:
    """Make an update of size 0, with gradients of all that trains."""
    engine.train(True)
    sides = score(engine, pairs, engine.device)
    engine.backward((sides.rejected_B - sides.chosen_B).mean(), last=True)
    norm = engine.finish_gradient()
    engine.step(0.0, None if norm is None else float(norm))
