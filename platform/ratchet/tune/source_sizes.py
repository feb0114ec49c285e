"""How many pairs a source has: counted by the store where it was read before, else guessed from its files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ratchet.pairs.estimate import estimate_pairs
from ratchet.pairs.flow import pairs_identity
from ratchet.plan.data import Source
from ratchet.plan.model import is_commit
from ratchet.plan.schema import Plan
from ratchet.plan.stages import Training
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout, layout_at
from ratchet.store.record import Record
from ratchet.store.sound import legible_record

Known = Literal["counted", "before length", "estimated", "unknown"]
"""`counted`: as tokens in the store. `before length`: as pairs in the store, those that are too long for a stage not
taken out yet. `estimated`: never read, guessed from the size of its files. `unknown`: on the hub, counted as none."""
_WORST: tuple[Known, ...] = ("counted", "before length", "estimated", "unknown")


@dataclasses.dataclass(frozen=True)
class Size:
    """Pairs of a source to train on, and held out."""

    train: int
    heldout: int


class Sizes:
    """Sizes and identities of sources; each file is read once, however many plans name it."""

    def __init__(self) -> None:
        self._identities: dict[str, str] = {}
        self._sizes: dict[tuple[str, str, int, str], tuple[Size, Known]] = {}
        self._records: dict[Path, list[Record]] = {}
        self._known: dict[str, Known] = {}

    @property
    def known(self) -> Mapping[str, Known]:
        """How well each source's size is known that was asked for, by its name: the worst, where stages differ."""
        return dict(self._known)

    def identity(self, plan: Plan, source: str) -> str:
        """Return what a source's pairs are known by in the store. Raises DataError where a file is absent."""
        spec = plan.data[source]
        key = json.dumps([spec.model_dump_json(), plan.model.system])
        if key not in self._identities:
            unasked = spec.hub is not None and not is_commit(spec.hub.revision or "")
            self._identities[key] = fingerprint(
                {"unasked": key} if unasked else pairs_identity(spec, plan.model.system)
            )
        return self._identities[key]

    def of(self, plan: Plan, source: str, stage: Training) -> Size:
        """Return the pairs of a source as a stage reads it."""
        pairs = self.identity(plan, source)
        key = (plan.cluster.storage, pairs, stage.max_length, stage.overlong)
        if key not in self._sizes:
            layout = layout_at(plan.cluster.storage)
            self._sizes[key] = self._look(layout, pairs, stage) or _guess(plan.data[source])
        size, known = self._sizes[key]
        self._known[source] = max(known, self._known.get(source, known), key=_WORST.index)
        return size

    def _look(self, layout: Layout, pairs: str, stage: Training) -> tuple[Size, Known] | None:
        wanted = {"pairs": pairs, "max_length": stage.max_length, "overlong": stage.overlong}
        tokenised = {
            Size(record.counts["train"], record.counts["heldout"])
            for record in self._tokens(layout)
            if wanted.items() <= record.identity.items()
        }
        if len(tokenised) == 1:  # else tokenizers differ in what is too long, and nothing says which one it will be
            return tokenised.pop(), "counted"
        record = legible_record(layout.pairs(pairs))
        if record is None:
            return None
        return Size(record.counts["train"], record.counts["heldout"]), "before length"

    def _tokens(self, layout: Layout) -> list[Record]:
        folder = layout.tokens("-").parent
        if folder not in self._records:
            self._records[folder] = list(_records(folder))
        return self._records[folder]


def _records(folder: Path) -> Iterator[Record]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (record := legible_record(path)) is not None:
            yield record


def _guess(source: Source) -> tuple[Size, Known]:
    rows = estimate_pairs(source)
    held: Any = round(rows * source.held_out)
    return Size(rows - held, held), "unknown" if source.hub is not None else "estimated"
