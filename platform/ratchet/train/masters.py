"""Float32 masters: what a step gained, carried to the steps that start from it.

Below float32 the optimiser works on float32 copies of the weights, and only their rounding is published. A step that
starts from the rounded model alone has lost most of a small update; so the masters lie beside the model

    <step folder>/masters/masters.safetensors      float32, by the plain model's names; SHA-256 in the step's record

as long as a later step of the plan starts from it. Names that are absent there are as published. The forward pass and
the reference see the rounded model: masters round to it, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratchet.errors import CorruptError, ModelError
from ratchet.model.forward import PairScorer
from ratchet.model.load import DTYPES
from ratchet.reference.models import MASTERS, MASTERS_FILE
from ratchet.store.files import folder_aside, remove_leftovers
from ratchet.store.fingerprint import digest_file
from ratchet.train.engine import TrainingEngine
from ratchet.train.spec import TrainSpec

WRAPPED = "model."
"""PairScorer's name for the model inside it."""

Read = Callable[[str], Tensor | None]
"""The master of a weight of the plain model by its name, float32, on the CPU; None where it has none."""


@contextlib.contextmanager
def opened(path: str | None) -> Iterator[Read]:
    """Yield the way to the masters in a file; without a file there are none."""
    if path is None:
        yield lambda name: None
        return
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        yield lambda name: file.get_tensor(name) if name in names else None


def check_masters(spec: TrainSpec, scorer: PairScorer, *, first: bool) -> None:
    """Hold masters against the digest of the record (the `first` worker) and against the model that was loaded.

    Every worker looks whether they round to its weights. Raises CorruptError.
    """
    if spec.masters is None:
        return
    if first and digest_file(Path(spec.masters)) != spec.masters_digest:
        raise _damaged(spec, "its bytes are not those that were written")
    if spec.stage.lora is not None:  # they are merged into when the step is published
        return
    with opened(spec.masters) as read:
        for name, weight in scorer.named_parameters():
            master = read(name.removeprefix(WRAPPED))
            if master is not None and not torch.equal(master.to(weight.dtype), weight.cpu()):
                raise _damaged(spec, f"{name.removeprefix(WRAPPED)} does not round to the published weight")


def carry(spec: TrainSpec, engine: TrainingEngine) -> None:
    """Give the engine the masters of the start model, where there are some and all weights are trained."""
    if spec.masters is not None and spec.stage.lora is None:
        with opened(spec.masters) as read:
            engine.carry(lambda name: read(name.removeprefix(WRAPPED)))


def write_masters(folder: Path, masters: Mapping[str, Tensor], model: Any) -> dict[str, Any]:
    """Write masters into a step's `folder`, and return their digest and size.

    Raises ModelError unless each rounds to the weight of the plain `model` that is published; StorageError.
    """
    from safetensors.torch import save_file

    published = model.state_dict()
    for name, master in masters.items():
        if not torch.equal(master.to(published[name].dtype), published[name]):
            raise ModelError(
                f"the float32 master of {name} does not round to the published weight",
                where=str(folder),
                fix="please report this with the cluster's deepspeed settings",
            )
    final = folder / MASTERS
    remove_leftovers(final)
    with folder_aside(final) as aside:
        save_file({name: master.contiguous() for name, master in masters.items()}, aside / MASTERS_FILE)
        (aside / MASTERS_FILE).chmod(0o644)
    return {"sha256": digest_file(final / MASTERS_FILE), "bytes": (final / MASTERS_FILE).stat().st_size}


def rounds(dtype: str) -> bool:
    """Whether weights in `dtype` are a rounding of float32 masters."""
    return torch.finfo(DTYPES[dtype]).bits < torch.finfo(torch.float32).bits


def _damaged(spec: TrainSpec, what: str) -> CorruptError:
    return CorruptError(
        f"the float32 masters that step {spec.step} starts from are damaged: {what}",
        where=str(spec.masters),
        fix="run with --fresh to make the steps again",
        code="corrupt.masters",
    )
