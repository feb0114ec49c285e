"""Everything a training worker needs to know, as plain data that crosses process borders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.plan.cluster import Cluster
from ratchet.plan.stage_kinds import stage_kind
from ratchet.plan.training import TrainingStage
from ratchet.reference.models import Passes, ScoreJob
from ratchet.store.layout import Layout

_PATH_LISTS = ("tokens", "references", "heldout_tokens", "heldout_references", "pair_files")
WHOLE = 4_000_000
"""Parameters up to which a model is rehearsed as it is, and not by a clone."""
MODEL, ADAPTER = "model", "adapter"
"""Folders of a step in which its model is published."""
_PATHS = ("folder", "model", "masters", "rows", "stop_file", "lease")


@dataclasses.dataclass(frozen=True)
class Owed:
    """What the model of a step is asked for as soon as it is there: jobs for the trainer's engine, and their store.

    `actors` processes would score them in a usual pass. `code` is the digest of the code that comes with the model,
    where that may run.
    """

    layout: Layout
    jobs: tuple[ScoreJob, ...]
    passes: Passes
    actors: int
    code: str | None = None


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """One training step: the plan's own stage and cluster, what it reads, and where it writes.

    Every worker must see the paths alike. `package` is what adds the kind of loss, with its version, where it is not
    Ratchet itself. `rows` names a .npy file of int64 indexes into the table
    of `tokens` and `shares`, where a step trains on a part of it, and `rows_sha256` is its digest.
    `references` are the folders that hold the reference's log-probabilities, joined by pair id;
    a kind that reads none may have none. `pair_files` are the tables of pairs, which name the rows
    that pairs come from, for errors. `starts_at_reference` says that policy and reference are the
    same weights at step 1, so that every log-ratio must be 0 there. `chat_template` is the text of
    the template that the plan gave in place of the tokenizer's own, to go along with the model.
    `masters` is the file of the start model's float32 masters and `masters_digest` its SHA-256; with `keep_masters`
    the step leaves its own behind, for those that start from it. `options` are the settings that decide its numbers,
    and `recipe` further rows, for the model card. `owed` are scores that its workers make with the model that they
    published. `store` is where a rehearsal is kept; without one it is made each time.
    `lease` is the folder of the driver's lease on the run and
    `generation` what it took: workers of a driver that another one has displaced do not begin.
    """

    step: str
    stage: TrainingStage
    folder: str
    model: str
    tokens: tuple[str, ...]
    shares: tuple[float, ...]
    cluster: Cluster
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    package: str | None = None
    dtype: str = "float32"
    trust_remote_code: bool = False
    chat_template: str | None = None
    masters: str | None = None
    masters_digest: str | None = None
    keep_masters: bool = False
    rows: str | None = None
    rows_sha256: str | None = None
    references: tuple[str, ...] = ()
    heldout_tokens: tuple[str, ...] = ()
    heldout_references: tuple[str, ...] = ()
    pair_files: tuple[str, ...] = ()
    heldout_rows: int = 256
    starts_at_reference: bool = False
    reference_noise: float = 0.0
    track: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recipe: Mapping[str, str] = dataclasses.field(default_factory=dict)
    owed: Owed | None = None
    store: Layout | None = None
    stop_file: str | None = None
    lease: str | None = None
    generation: int = 0

    @property
    def token_budget(self) -> int | None:
        """Tokens that one forward pass of one worker computes; None where they are found by trying."""
        asked = self.cluster.token_budget
        return asked if isinstance(asked, int) else None

    @property
    def gradient_checkpointing(self) -> bool | None:
        """Whether activations are recomputed; None: where a pass of the longest pairs would not fit otherwise."""
        asked = self.cluster.gradient_checkpointing
        return asked if isinstance(asked, bool) else None

    @property
    def supervised(self) -> bool:
        """Whether the loss is over answer tokens rather than over pairs."""
        return stage_kind(self.stage.kind).supervised

    def absolute(self) -> TrainSpec:
        """Return the spec with absolute paths: workers do not run in the driver's folder."""

        def here(path: str | None) -> str | None:
            return None if path is None else str(Path(path).absolute())

        changed: dict[str, Any] = {key: here(getattr(self, key)) for key in _PATHS}
        changed |= {key: tuple(map(here, getattr(self, key))) for key in _PATH_LISTS}
        return dataclasses.replace(self, **changed)
