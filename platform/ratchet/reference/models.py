"""Models as a run knows them, and what is scored: which pairs, under which model, by which engine.

Every model that a plan, a suite or a command names comes from here, so that all agree on what it is known by.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ratchet.errors import CorruptError
from ratchet.model.folder import digest_code, digest_model, model_folder
from ratchet.model.tree import Sharing
from ratchet.pairs.chat import chat_template_of, handed_of
from ratchet.pairs.tokenizer import digest_tokenizer, load_tokenizer
from ratchet.plan.model import ModelSpec
from ratchet.store.fingerprint import fingerprint

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
    """Where a job's scores lie; `reused` where nothing had to be computed.

    `seconds` of work on all processes; `start_seconds` for the pass's processes to begin and end, None where the record
    was written before records said so. `in_training`: the workers that trained the model scored, which took no start.
    """

    folder: Path
    fingerprint: str
    pairs: int
    seconds: float
    start_seconds: float | None
    reused: bool
    in_training: bool = False


MASTERS, MASTERS_FILE = "masters", "masters.safetensors"


@dataclasses.dataclass(frozen=True)
class TrustedCode:
    """Code of a hub model that a plan lets run: `revision` is a commit, `digest` is over the code's files."""

    model: str
    revision: str
    digest: str

    def __str__(self) -> str:
        return f"code that comes with {self.model} was run: revision {self.revision}, digest {self.digest}"


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the run. `identity` is the recipe it follows from; `weights` is what came out.

    `masters` is the digest of the float32 masters that a step left beside it, whether they are still there or not.
    """

    name: str
    folder: Path
    identity: str
    weights: str
    dtype: str
    trained_on: frozenset[str] = frozenset()
    code: TrustedCode | None = None
    adapter: Adapter | None = None
    masters: str | None = None

    @property
    def masters_file(self) -> Path:
        """Where the masters lie as long as a step needs them (`train.masters`)."""
        return self.folder.parent / MASTERS / MASTERS_FILE

    @property
    def trust_remote_code(self) -> bool:
        """Whether code that comes with the model may run."""
        return self.code is not None

    def scoring(self, engine: EngineChoice = TRAINER, quantise: str | None = None) -> ScoringModel:
        """Return the model as `reference.score` takes it; the trainer's engine has no use for the adapter alone."""
        adapter = self.adapter if engine.foreign else None
        code = None if self.code is None else self.code.digest
        return ScoringModel(self.folder, self.weights, self.dtype, quantise, code, adapter)


def model_of(name: str, spec: ModelSpec, folder: Path) -> Model:
    """Return the model that `spec` names, whose files lie in `folder`. Raises ModelError, CorruptError.

    Its identity is that of its weights, and of the code that comes with it where `spec` lets that run.
    """
    weights, code = digest_model(folder), trusted_code(spec, folder)
    identity = weights if code is None else fingerprint({"weights": weights, "code": code.digest})
    return Model(name, folder, identity, weights, spec.dtype, code=code)


def trusted_code(spec: ModelSpec, folder: Path) -> TrustedCode | None:
    """Return the code in `folder` that `spec` lets run, or None where it lets none."""
    if not spec.trust_remote_code:
        return None
    return TrustedCode(str(spec.name), str(spec.revision), digest_code(folder))


def model_content(spec: ModelSpec | None) -> Mapping[str, Any] | None:
    """Return what a model that a task reads is known by: weights, code, tokenizer, template and precision."""
    if spec is None:
        return None
    folder = model_folder(spec)
    tokenizer = load_tokenizer(folder, chat_template_of(spec))
    return {
        # The name is nothing that it is known by.
        "weights": model_of("read", spec, folder).identity,
        "tokenizer": digest_tokenizer(folder),
        "chat_template": tokenizer.chat_template,
        **handed_of(tokenizer),
        "dtype": spec.dtype,
    }


_NOT_SERVED = {"lm_head", "embed_tokens", "wte"}
"""vLLM's prompt log-probabilities leave an adapter on the head or the embeddings out (its issue 51594)."""


def read_adapter(folder: Path, base: Path) -> Adapter:
    """Return the adapter in `folder`, in peft's layout, trained on the model in `base`. Raises CorruptError."""
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return Adapter(folder, base, int(config["r"]), tuple(sorted(config["target_modules"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"not the settings of an adapter: {error}",
            where=str(path),
            fix="delete its step's folder to make it again",
            code="corrupt.adapter",
        ) from error


def servable(adapter: Adapter) -> bool:
    """Whether vLLM gives right numbers for a model with this adapter."""
    return bool(adapter.targets) and not _NOT_SERVED & set(adapter.targets)


@dataclasses.dataclass(frozen=True)
class ScoredPairs:
    """The scores of some rows of a token folder's split under a model; `rows` of None is all.

    They are made block by block in their place, so that a kill costs one block; the record is written last.
    `code` is the digest of the code that came with the model and ran; most models have none.
    """

    tokens: str
    split: str
    rows: tuple[int, ...] | None
    weights: str
    dtype: str
    quantise: str | None
    engine: str
    code: str | None = None
    kind: ClassVar[str] = "logps"

    @property
    def what(self) -> str:
        return f"scores of the {self.split} pairs of {self.tokens} under {self.weights}"

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        # Little-endian on any machine: the digest names a folder that machines share.
        some = hashlib.sha256(np.asarray(self.rows or (), dtype="<i8").tobytes()).hexdigest()[:20]
        return {
            "kind": self.kind,
            "version": 1,
            "tokens": self.tokens,
            "split": self.split,
            "rows": _ALL if self.rows is None else some,
            "weights": self.weights,
            "dtype": self.dtype,
            "quantise": self.quantise,
            "engine": self.engine,
            **({} if self.code is None else {"code": self.code}),
        }


_ALL = "all"
"""The rows of an identity that has the whole split."""


def of_whole_split(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity of the scores of a whole split, of which those of `identity` may be a part."""
    return {**identity, "rows": _ALL}


def covers_split(identity: Mapping[str, Any], split: str) -> bool:
    """Whether scores are those of all pairs of a split."""
    return (identity["split"], identity["rows"]) == (split, _ALL)


def pass_of(identity: Mapping[str, Any]) -> str:
    """Name the pass that some scores are of: one model, in one precision, over one source, whichever rows."""
    return fingerprint({key: value for key, value in identity.items() if key not in {"split", "rows"}})
