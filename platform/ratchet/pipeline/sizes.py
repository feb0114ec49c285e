"""How many pairs a source and a step have: counted by the store where it was read before, else guessed from files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ratchet.errors import ModelError
from ratchet.pairs.estimate import estimate_pairs
from ratchet.pairs.flow import pairs_identity
from ratchet.pipeline.graph import Step
from ratchet.plan.data import Source, held_out_source
from ratchet.plan.model import is_commit
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import trains
from ratchet.plan.stages import Stage
from ratchet.plan.training import TrainingStage
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout, layout_at
from ratchet.store.record import Record, legible_record

Known = Literal["counted", "before length", "estimated", "unknown"]
"""`counted`: as tokens in the store. `before length`: as pairs in the store, with those that are too long for a stage.
`estimated`: never read, guessed from the size of its files. `unknown`: on the hub and not read, counted as none."""
_WORST: tuple[Known, ...] = ("counted", "before length", "estimated", "unknown")


@dataclasses.dataclass(frozen=True)
class SourceSize:
    """Pairs of a source to train on and held out, how well that is known, and the tokens to train on if counted."""

    train: int
    heldout: int
    known: Known
    tokens: int | None = dataclasses.field(default=None, compare=False)


class Sizes:
    """Sizes and identities of sources; each file is read once, however many plans name it."""

    def __init__(self) -> None:
        self._identities: dict[str, str] = {}
        self._guesses: dict[str, SourceSize] = {}
        self._sizes: dict[tuple[str, str, int, str], SourceSize] = {}
        self._records: dict[Path, list[Record]] = {}
        self._known: dict[str, Known] = {}

    @property
    def known(self) -> Mapping[str, Known]:
        """How well the size of each source is known that was asked for, by name: the worst, where stages differ."""
        return dict(self._known)

    def identity(self, plan: Plan, source: str) -> str:
        """Return what a source's pairs are known by in the store. Raises DataError where a file is absent.

        Of a source on the hub whose commit no run has found yet, it is a name that the store does not have.
        """
        spec = plan.data[source]
        key = json.dumps([spec.model_dump_json(), plan.model.system])
        if key not in self._identities:
            known = pairs_identity(spec, plan.model.system) if names_rows(spec) else {"unasked": key}
            self._identities[key] = fingerprint(known)
        return self._identities[key]

    def of(self, plan: Plan, source: str, stage: TrainingStage) -> SourceSize:
        """Return the size of a source as a stage reads it."""
        pairs = self.identity(plan, source)
        key = (plan.cluster.storage, pairs, stage.max_length, stage.overlong)
        if key not in self._sizes:
            layout = layout_at(plan.cluster.storage)
            self._sizes[key] = self._tokenised(layout, pairs, stage) or self.pairs(plan, source)
        size = self._sizes[key]
        self._known[source] = max(size.known, self._known.get(source, size.known), key=_WORST.index)
        return size

    def pairs(self, plan: Plan, source: str) -> SourceSize:
        """Return the size of a source with the pairs that are too long for a stage: guessed where it was never read."""
        layout = layout_at(plan.cluster.storage)
        stored = layout.pairs("-").parent.is_dir()
        record = legible_record(layout.pairs(self.identity(plan, source))) if stored else None
        if record is None:
            return self._guess(plan, source)
        return SourceSize(record.counts["train"], record.counts["heldout"], "before length")

    def _guess(self, plan: Plan, source: str) -> SourceSize:
        """Return about how many pairs a source has, by its first rows and the size of its files."""
        spec = plan.data[source]
        key = spec.model_dump_json()
        if key not in self._guesses:
            rows, own = estimate_pairs(spec), held_out_source(spec)
            shared: int = round(rows * spec.held_out_share)
            known: Known = "unknown" if spec.hub is not None else "estimated"
            self._guesses[key] = SourceSize(rows - shared, shared if own is None else estimate_pairs(own), known)
        return self._guesses[key]

    def tokens_folder(self, plan: Plan, source: str, stage: TrainingStage) -> Path | None:
        """Return the folder of a source's tokens as a stage reads them; None where there is none, or more than one."""
        layout = layout_at(plan.cluster.storage)
        if not self._tokens(layout):  # by what its content is known need not be asked then
            return None
        found = self._made(layout, self.identity(plan, source), stage)
        return layout.tokens(found[0].fingerprint) if len(found) == 1 else None

    def _tokenised(self, layout: Layout, pairs: str, stage: TrainingStage) -> SourceSize | None:
        found = {source_size(record) for record in self._made(layout, pairs, stage)}
        # Else tokenizers differ in what is too long, and nothing says which one it will be.
        return found.pop() if len(found) == 1 else None

    def _made(self, layout: Layout, pairs: str, stage: TrainingStage) -> list[Record]:
        wanted = {"pairs": pairs, "max_length": stage.max_length, "overlong": stage.overlong}
        return [record for record in self._tokens(layout) if wanted.items() <= record.identity.items()]

    def _tokens(self, layout: Layout) -> list[Record]:
        folder = layout.tokens("-").parent
        if folder not in self._records:
            found = map(legible_record, sorted(folder.iterdir()) if folder.is_dir() else ())
            self._records[folder] = [record for record in found if record is not None]
        return self._records[folder]


def names_rows(source: Source) -> bool:
    """Whether a source says which rows it means: one on the hub does once it names a commit."""
    return source.hub is None or is_commit(source.hub.revision or "")


def source_size(tokens: Record) -> SourceSize:
    """Return the size of a source from the record of its tokens."""
    counts = tokens.counts
    return SourceSize(counts["train"], counts["heldout"], "counted", counts.get("tokens_train"))


def step_rows(step: Step, train: Mapping[str, float]) -> int:
    """Return the pairs of a step's chunk, given the pairs of each of its sources to train on."""
    chunk = step.chunk
    rows = sum(source_rows(step, train).values())
    return rows // chunk.parts + (chunk.part <= rows % chunk.parts)


def source_rows(step: Step, train: Mapping[str, float]) -> dict[str, int]:
    """Return how many pairs of each source an epoch over a step's chunk, or the whole that it is cut from, has."""
    return {source: int(share * train[source] + 0.5) for source, share in chunk_shares(step, train).items()}


def chunk_shares(step: Step, train: Mapping[str, float]) -> dict[str, float]:
    """Return how often an epoch sees the pairs of each source of a step, given the pairs of each to train on."""
    if not trains(step.settings):
        return {}
    shares = step.settings.shares_of(train)
    return {source: shares[source] for source in step.chunk.shares}


def optimiser_steps(rows: int, stage: TrainingStage) -> int:
    """Return the optimiser steps of a stage over `rows` pairs."""
    steps = stage.epochs * -(-rows // stage.batch)
    return min(steps, stage.max_steps or steps)


def pairs_seen(rows: int, stage: TrainingStage) -> int:
    """Return the pairs that a stage trains in all its epochs over `rows`, as far as `max_steps` lets it."""
    each, steps = -(-rows // stage.batch), optimiser_steps(rows, stage)
    return (steps // each) * rows + (steps % each) * stage.batch if rows else 0


def pairs_read(step: Step, sizes: Mapping[str, SourceSize], source: str, split: Literal["train", "heldout"]) -> int:
    """Return the pairs that a pass of a step's reference over a source reads, as `reference_reads` has the passes."""
    size, chunk = sizes[source], step.chunk
    if split == "heldout":
        return size.heldout
    if chunk.parts == 1:
        return size.train
    share = chunk_shares(step, {name: one.train for name, one in sizes.items()})[source]
    return min(size.train, int(share * size.train / chunk.parts))  # copies are read once


def stored_parameters(folder: Path) -> int:
    """Return how many weights a folder's safetensors files hold, from their headers. Raises ModelError."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, OverflowError, MemoryError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError("its header cannot be read", where=str(path), fix="get the file again") from error
    return total


def weight_bytes(parameters: int, dtype: str) -> int:
    """Return the bytes of a model that is held and published in `dtype`, however its folder stores it."""
    return parameters * (4 if dtype == "float32" else 2)


def bytes_written(stage: Stage, weights: int, dtype: str, steps: int | None = None) -> int:
    """Return what a step of a stage writes at most, for a model of `weights` bytes in `dtype`: model and checkpoints.

    With fewer `steps` there are fewer checkpoints than are kept. Those of adapters are small, and count as nothing.
    """
    if not trains(stage) or stage.lora:
        return weights
    kept = stage.checkpoint.keep + 1  # one more while it is written
    if steps is not None:
        kept = min(kept, -(-steps // stage.checkpoint.every))
    # A checkpoint holds weights and Adam's two moments in float32, and a float32 master copy of narrower weights.
    return weights * (1 + (3 if dtype == "float32" else 7) * kept)
