"""A model that a plan, a suite or a command names, as a run knows it. All of them come from here, so that all agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.model.folder import digest_code, digest_model
from ratchet.model.load import model_folder
from ratchet.pairs.chat import chat_template_of, handed_of
from ratchet.pairs.tokenizer import digest_tokenizer, load_tokenizer
from ratchet.plan.model import ModelSpec
from ratchet.reference.jobs import TRAINER, Adapter, EngineChoice, ScoringModel
from ratchet.store.fingerprint import fingerprint

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
        "weights": model_of("read", spec, folder).identity,
        "tokenizer": digest_tokenizer(folder),
        "chat_template": tokenizer.chat_template,
        **handed_of(tokenizer),
        "dtype": spec.dtype,
    }
