"""Scores that the model of a step owes its run, made by the workers that trained it while they have it in memory.

The model is the one that publishing has made of the trained weights, adapters merged, and has held against the saved
folder to the bit. So the scores are those of the folder, whatever divided the weights in training. Leases, blocks,
proofs and records are those of every pass (`reference.score`). What is not scored here a usual pass scores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ratchet.errors import ModelError, RatchetError
from ratchet.reference.models import ScoringModel
from ratchet.reference.pool import BlockScorer, Item
from ratchet.reference.rate import TrainerRater
from ratchet.reference.score import score_by
from ratchet.store import warned
from ratchet.store.codec import to_values
from ratchet.store.files import write_json
from ratchet.store.lease import Wait
from ratchet.store.machine import has_ray, out_of_memory
from ratchet.track.progress import SCORING, ScoredSoFar
from ratchet.train import faults
from ratchet.train.loop import Parts
from ratchet.train.publish import WEIGHTS, Published
from ratchet.train.spec import MODEL, Owed, TrainSpec

_PAUSE_SECONDS = 0.5
"""How often it is written down how far scoring has come."""


class _Otherwise(Exception):  # noqa: N818  no error: a usual pass scores
    """Why these workers do not score, or no further."""


@dataclasses.dataclass(frozen=True)
class _Round:
    """Blocks that the workers score at the same time, one each by their ranks, in the pass named `run`."""

    models: list[ScoringModel]
    run: str
    items: list[Item]


def score_owed(spec: TrainSpec, parts: Parts, published: Published) -> dict[str, Any] | None:
    """Score what the step's model owes, and return what came of it, on all workers; None where it owes nothing.

    The answer has the `pairs` that were scored now, the `fingerprints` of their scores and, where a usual pass must
    score, the reason as `why_not`. The engine can do nothing afterwards.
    Errors of scoring are such a reason: the usual pass meets them again, once the step is recorded.
    """
    owed, told = spec.owed, parts.communicator.gather
    if owed is None or not owed.jobs:
        return None
    worker = _Worker(owed, parts, published.model)
    found: dict[str, Any] | None = None
    if parts.communicator.rank == 0:
        try:
            found = _Lead(spec, owed, worker, published.facts[WEIGHTS]).score()
        finally:
            told(None)  # it is over for the others too
    else:
        nothing: _Round | None = None
        while (some := told(nothing)[0]) is not None:
            worker.score(some)
    return told(found)[0]


class _Worker:
    """Scores one block of each round. Its engine goes before its model comes: the device need not hold both."""

    def __init__(self, owed: Owed, parts: Parts, model: Any) -> None:
        self.owed, self.parts, self.model = owed, parts, model
        self.rank, self.world = parts.communicator.rank, parts.communicator.world
        self._scorer: BlockScorer | None = None

    def score(self, some: _Round) -> list[tuple[dict[str, Any] | None, RatchetError | None]]:
        """Score this worker's block of a round; return what each worker says of its own, on all workers."""
        row: dict[str, Any] | None = None
        error: RatchetError | None = None
        try:
            if self.rank < len(some.items):
                faults.kill_if_due("score:kill", some.items[self.rank]["block"], self.rank)
                row = self._ready(some)(some.items[self.rank])
        except RatchetError as raised:
            error = raised
        except (RuntimeError, MemoryError) as raised:
            if not out_of_memory(f"{type(raised).__name__}: {raised}"):
                raise
            error = ModelError(f"out of memory: {str(raised).strip().splitlines()[0]}")
        return self.parts.communicator.gather((row, error))

    def _ready(self, some: _Round) -> BlockScorer:
        if self._scorer is None:
            self.parts.engine.release()
            device = self.parts.engine.device
            rater = TrainerRater(self.owed.passes, str(device), 1.0 if device.type == "cuda" else 1 / self.world)
            if self.model is not None:
                rater.hold(some.models[0], self.model)
            self._scorer = BlockScorer(lambda: rater, some.models, some.run, lambda: None, warned.destination())
            if has_ray():
                torch.set_num_threads(1)  # as each process of a pool has: sums over more threads round otherwise
        return self._scorer


class _Lead:
    """Worker 0's part: it has the pass's leases, hands out the blocks, and proves and records what came of them."""

    def __init__(self, spec: TrainSpec, owed: Owed, worker: _Worker, weights: str) -> None:
        self.spec, self.owed, self.worker, self.weights = spec, owed, worker, weights
        self.path = Path(spec.folder) / SCORING
        self._written = 0.0

    def score(self) -> dict[str, Any]:
        try:
            # Blocks that end their processes must not do so again and again, and the step with them.
            if self.path.exists():
                raise _Otherwise("workers that ended before had begun to")
            self._note(0, 0)
            folder, code = Path(self.spec.folder) / MODEL, self.owed.code
            model = ScoringModel(folder, self.weights, self.spec.dtype, code=code)
            work = [(model, job) for job in self.owed.jobs]
            wait = Wait(self._busy, self._look)
            scored = score_by(work, self.owed.layout, self._spread, on_pairs=self._note, wait=wait, in_training=True)
        except _Otherwise as otherwise:
            return {"pairs": 0, "fingerprints": [], "why_not": str(otherwise)}
        except RatchetError as error:
            return {"pairs": 0, "fingerprints": [], "why_not": error.what}
        fresh = [one for one in scored if not one.reused]
        return {
            "pairs": sum(one.pairs for one in fresh),
            "fingerprints": [one.fingerprint for one in fresh],
            "why_not": None,
        }

    @contextlib.contextmanager
    def _spread(self, models: list[ScoringModel], items: list[Item]) -> Iterator[Iterator[dict[str, Any]]]:
        world, wanted = self.worker.world, min(self.owed.actors, len(items))
        if wanted > world:
            raise _Otherwise(f"{wanted} processes may score (cluster.score_actors), and {world} trained")
        run = uuid.uuid4().hex
        rounds = (_Round(models, run, items[at : at + world]) for at in range(0, len(items), world))
        yield (row for one in rounds for row in self._round(one))

    def _round(self, some: _Round) -> list[dict[str, Any]]:
        self.worker.parts.communicator.gather(some)
        found = self.worker.score(some)
        for _, error in found:
            if error is not None:
                raise error
        return [row for row, _ in found if row is not None]

    def _note(self, done: int, total: int) -> None:
        """Write down how far scoring has come, for the driver; and that it was begun."""
        if not total or done == total or time.monotonic() - self._written >= _PAUSE_SECONDS:
            write_json(self.path, to_values(ScoredSoFar(done, total)))
            self._written = time.monotonic()

    def _look(self) -> None:
        notice = self.worker.parts.told()
        if notice is not None and notice.kind != "grow":
            raise _Otherwise(notice.why)

    @staticmethod
    def _busy(said: str) -> None:
        raise _Otherwise(said)  # the other workers wait, too: the driver can wait as long as it takes
