"""What is scored, under which model, by which engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from ratchet.model.tree import Sharing

EngineName = Literal["trainer", "vllm"]


@dataclasses.dataclass(frozen=True)
class EngineChoice:
    """Who computes scores: the trainer's own forward pass, or vLLM.

    `version` is that of a foreign engine, and `quantisation` its way to hold the weights; both are
    part of what scores are known by. `tensor_parallel` GPUs hold one engine together.
    """

    name: EngineName = "trainer"
    version: str | None = None
    quantisation: str | None = None
    tensor_parallel: int = 1

    @property
    def label(self) -> str:
        """The engine in words, for people and fingerprints."""
        parts = [self.name, self.version, f"on {self.tensor_parallel} GPUs" if self.tensor_parallel > 1 else None]
        return " ".join(part for part in parts if part)

    @property
    def foreign(self) -> bool:
        """Whether the scores are not the trainer's own."""
        return self.name != "trainer"


TRAINER = EngineChoice()


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A low-rank adapter in peft's layout, and the model folder that it was trained on."""

    folder: Path
    base: Path
    rank: int
    targets: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ScoringModel:
    """The model that scores: its folder, and what of it decides the numbers.

    `code` is the digest of the code that comes with it, where that may run.
    `adapter` is set where the model is another one with an adapter: an engine that holds that one
    already need not load the whole.
    """

    folder: Path
    weights: str
    dtype: str
    quantise: str | None = None
    code: str | None = None
    adapter: Adapter | None = None

    @property
    def trust_remote_code(self) -> bool:
        """Whether code that comes with the model may run."""
        return self.code is not None


@dataclasses.dataclass(frozen=True)
class ScoreJob:
    """Rows of one split of a token folder; `rows` of None is all of them."""

    tokens_fp: str
    tokens_folder: Path
    split: str
    rows: tuple[int, ...] | None = None

    @property
    def file(self) -> Path:
        """The table that holds the rows."""
        return self.tokens_folder / f"{self.split}.arrow"


@dataclasses.dataclass(frozen=True)
class Passes:
    """How pairs are laid out: tokens that a forward pass computes (None: found by trying), and which are shared."""

    token_budget: int | None = None
    sharing: Sharing = "auto"


@dataclasses.dataclass(frozen=True)
class Scores:
    """Where a job's scores lie; `reused` where nothing had to be computed."""

    folder: Path
    fingerprint: str
    pairs: int
    seconds: float
    reused: bool
