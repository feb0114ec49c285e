"""A model that a plan, a suite or a command names, as a run knows it. All of them come from here, so that all agree."""

from __future__ import annotations

from pathlib import Path

from ratchet.model.digest import digest_code, digest_model
from ratchet.pipeline.context import Model, TrustedCode
from ratchet.plan.model import ModelSpec
from ratchet.store.fingerprint import fingerprint


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
