"""What training has made, gathered on worker 0 and put into a plain model: whole weights, or adapters."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratchet.documents.events import Event, write_event
from ratchet.documents.passport import Reach, reach_in_words
from ratchet.errors import ModelError
from ratchet.model.export import score_plain
from ratchet.model.forward import SideScores
from ratchet.model.load import DTYPES, load_model
from ratchet.plan.training import Lora
from ratchet.store.files import folder_aside, remove_leftovers
from ratchet.train.effect import Sample
from ratchet.train.masters import WRAPPED, Read
from ratchet.train.spec import ADAPTER, TrainSpec

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Gathered:
    """A plain model with the trained weights or adapters, on worker 0; its scores, and those of its start if asked."""

    model: Any
    scores: SideScores
    start: SideScores | None
    reach: Reach | None
    device: torch.device


def gather_plain(spec: TrainSpec, weights: dict[str, Tensor], sample: Sample, device: torch.device) -> Gathered:
    """Return the step's model with gathered weights, or with gathered adapters on it, scored. Raises ModelError."""
    model = load_model(Path(spec.model), spec.dtype, trust_remote_code=spec.trust_remote_code)
    # A step without a reference is compared with its start. That is scored here, as adapters will change the model.
    apart = spec.stage.lora is not None and sample.reference_2B is None
    start = score_plain(model, sample.pairs, device, chosen_only=spec.supervised) if apart else None
    reach: Reach | None = None
    if spec.stage.lora is not None:
        model = _adapted(spec, model, weights)
        reach = adapters_reach(model)
    else:
        _fill(model, weights)
    return Gathered(model, score_plain(model, sample.pairs, device, chosen_only=spec.supervised), start, reach, device)


def add_adapters(model: Any, settings: Lora, seed: int) -> Any:
    """Return `model` with the step's adapters on it. Raises ModelError."""
    from ratchet.model.lora import add_lora

    return add_lora(model, Lora.model_validate(vars(settings)), seed)


def round_adapters(model: Any, dtype: str) -> None:
    """Hold adapters in the model's precision, as DeepSpeed does: peft makes them in float32."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(DTYPES[dtype])


def try_adapters(model: Any) -> None:
    """Try to merge a model's adapters, before they are trained. Raises ModelError."""
    from ratchet.model.lora import try_merge

    try_merge(model)


def adapters_reach(model: Any) -> Reach:
    """Return what a model's adapters are on."""
    from ratchet.model.lora import reach_of

    return reach_of(model)


def say_reach(found: Reach, folder: Path) -> None:
    """Say what adapters are on: a warning where they leave out experts, or modules on which none fits, and else an
    event of the step. Raises StorageError.
    """
    said = f"adapters reach {reach_in_words(found)}"
    if found.experts or found.bypassed:
        _log.warning("%s", said)
    else:
        write_event(folder, Event(code="adapters-reach", what=said))


def _fill(model: Any, weights: dict[str, Tensor]) -> None:
    """Give a plain model gathered weights in place of its own; a name too many or too few is an error.

    What it was loaded with lies in files, of which nothing is read that way. Weights that an engine holds in one
    buffer are copied out of it.
    """
    named = {name.removeprefix(WRAPPED): _apart(tensor.cpu()) for name, tensor in weights.items()}
    absent, foreign = model.load_state_dict(named, strict=False, assign=True)
    tied = {name for name in absent if model.config.tie_word_embeddings and "lm_head" in name}
    if set(absent) - tied or foreign:
        raise ModelError(f"gathered weights do not fit the model: absent {absent[:3]}, foreign {foreign[:3]}")
    model.tie_weights()


def _apart(tensor: Tensor) -> Tensor:
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _adapted(spec: TrainSpec, plain: Any, weights: dict[str, Tensor]) -> Any:
    """Return the plain model with the trained adapters on it, in the precision in which they were trained."""
    assert spec.stage.lora is not None  # noqa: S101  the caller looked
    model = add_adapters(plain, spec.stage.lora, spec.stage.seed)
    _load_adapters(model, weights)
    round_adapters(model, spec.dtype)
    return model


def _load_adapters(model: Any, weights: dict[str, Tensor]) -> None:
    """Put gathered adapters into a model that has some; a name too many or too few is an error."""
    trained = {name.removeprefix(WRAPPED): tensor.cpu() for name, tensor in weights.items() if "lora_" in name}
    _, foreign = model.load_state_dict(trained, strict=False)
    wanted = {name for name, _ in model.named_parameters() if "lora_" in name}
    if foreign or wanted != set(trained):
        raise ModelError(f"gathered adapters do not fit: {len(wanted)} wanted, {len(trained)} found, {foreign[:3]}")


def merge_trained(
    spec: TrainSpec, model: Any, exact: dict[str, Tensor], read: Read, kept: dict[str, Tensor] | None
) -> Any:
    """Return the plain model with its trained adapters merged into it; write the adapters alone beside.

    Adapters are taken as `exact` has them, if it does. Sums are made in float32, over the start model's masters where
    `read` has some; they go into `kept`, if given.
    """
    from ratchet.model.lora import merge_lora, save_adapter

    if exact:
        round_adapters(model, "float32")
        _load_adapters(model, exact)
    folder = Path(spec.folder) / ADAPTER

    remove_leftovers(folder)
    with folder_aside(folder) as aside:
        save_adapter(model, aside)
    merged = merge_lora(model, read, kept)
    if kept is not None:  # what no adapter changed goes on as it came
        found = {name: read(name) for name in merged.state_dict() if name not in kept}
        kept.update({name: master for name, master in found.items() if master is not None})
    return merged
