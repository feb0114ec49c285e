"""From the trained weights to the step's model folder: tried before the first step, proved to agree after the last.

Legend: _B pairs.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratchet.documents.events import Event, write_event
from ratchet.documents.passport import Reach, reach_in_words
from ratchet.errors import ModelError, StorageError
from ratchet.model import memory, noise
from ratchet.model.export import reload_check, save_model, score_plain, try_saving
from ratchet.model.folder import card_usage, digest_model
from ratchet.model.forward import SideScores, score
from ratchet.model.load import DTYPES, load_model
from ratchet.model.noise import Noise
from ratchet.pairs.pair import TokenisedPair
from ratchet.plan.training import Lora
from ratchet.store.codec import to_values
from ratchet.store.files import folder_aside, free_bytes, remove_leftovers
from ratchet.train.communicate import Communicator, agree
from ratchet.train.effect import Sample, effect_of
from ratchet.train.engine import TrainingEngine
from ratchet.train.library import library_faults
from ratchet.train.masters import WRAPPED, Read, opened, rounds, write_masters
from ratchet.train.spec import ADAPTER, MODEL, TrainSpec

_log = logging.getLogger(__name__)
_MEASURED = 4
"""Pairs by which the engine's own rounding is measured."""
WEIGHTS = "weights"
"""The key under which publishing gives the digest of the model folder."""
ROOM = 1.05
"""Free space that publishing asks for, in sizes of what it writes: disks and file systems keep a little back."""


def try_publishing(spec: TrainSpec, model: Any) -> None:
    """Try to publish a plain model as it was loaded, but for its weights. Raises ModelError, StorageError."""
    try_saving(model, Path(spec.model), trust_remote_code=spec.trust_remote_code, chat_template=spec.chat_template)
    masters = 4 if spec.keep_masters and rounds(spec.dtype) else 0
    size = sum(weight.numel() * (weight.element_size() + masters) for weight in model.parameters())
    check_room(Path(spec.folder), size)


def check_room(folder: Path, size: int) -> None:
    """Raise StorageError where the disk has no room for what publishing will write, `size` bytes."""
    if (room := free_bytes(folder)) < ROOM * size:
        raise StorageError(
            f"{_amount(room)} free, and publishing will ask for {_amount(ROOM * size)}",
            where=str(folder),
            fix="free some space, or set cluster.storage to a larger disk, and run again",
            code="storage.no-room",
        )


def _amount(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


@dataclasses.dataclass(frozen=True)
class Published:
    """What publishing found (the largest difference seen and what rounding explains, in nats, and the effect kept), and
    on worker 0 the model as it was saved.
    """

    facts: dict[str, Any]
    model: Any


def publish_model(
    spec: TrainSpec, engine: TrainingEngine, sample: Sample, communicator: Communicator, step: int
) -> Published:
    """Write the engine's weights as `<step folder>/model`, LoRA merged (the adapter alone beside it).

    The weights are gathered on worker 0 and put into a plain model, which must score a few pairs as
    the engine does (adapters before they are merged, up to the rounding that the engine itself shows), and as
    the saved folder does (to the bit, as all its bytes are compared). Raises ModelError, StorageError.
    """
    engine.train(False)
    memory.trim(engine.device)
    with torch.no_grad():
        trained = score(engine, sample.pairs, engine.device, chosen_only=spec.supervised)
    some = sample.pairs[:_MEASURED]
    rounding = noise.measure_noise(engine, some, trained, engine.device, chosen_only=spec.supervised)
    weights = engine.weights()
    asked = rounds(spec.dtype) and (spec.keep_masters or spec.stage.lora is not None)
    exact = engine.float32_weights() if asked else None

    def write() -> Published:
        if weights is None:
            return Published({}, None)
        with library_faults(spec.model):
            return _write(spec, weights, exact or {}, sample, (trained, rounding), engine.device, step)

    found = agree(communicator, write)
    return Published(communicator.gather(found.facts)[0], found.model)


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


def _write(
    spec: TrainSpec,
    weights: dict[str, Tensor],
    exact: dict[str, Tensor],
    sample: Sample,
    scored: tuple[SideScores, Noise],
    device: torch.device,
    step: int,
) -> Published:
    folder, pairs = Path(spec.folder), sample.pairs
    model = load_model(Path(spec.model), spec.dtype, trust_remote_code=spec.trust_remote_code)
    # Without a reference, what a step gained is told against its start: scored now, as adapters change the model.
    apart = spec.stage.lora is not None and sample.reference_2B is None
    start = score_plain(model, pairs, device, chosen_only=spec.supervised) if apart else None
    kept: dict[str, Tensor] = {}
    reach: Reach | None = None
    if spec.stage.lora is not None:
        model = _adapted(spec, model, weights)
        reach = adapters_reach(model)
        off, allowed = _check_gathered(spec, model, pairs, device, *scored)
        with opened(spec.masters) as read:
            model = _merged(spec, model, exact, read, kept if spec.keep_masters else None)
    else:
        _fill(model, weights)
        off, allowed = _check_gathered(spec, model, pairs, device, *scored)
        kept = {name.removeprefix(WRAPPED): master for name, master in exact.items()}
    masters = write_masters(folder, kept, model) if spec.keep_masters and rounds(spec.dtype) else None
    final = folder / MODEL
    remove_leftovers(final)
    # Without adapters the published weights are the trained ones to the bit: two ways to score them lose nothing.
    trained = published = scored[0]
    if spec.stage.lora is not None:
        published = score_plain(model, pairs, device, chosen_only=spec.supervised)
    with folder_aside(final) as aside:
        save_model(model, Path(spec.model), aside, _card(spec, step, reach), chat_template=spec.chat_template)
        # Every byte is compared. So one pair tells whether the settings beside them are the model's.
        short = min(pairs, key=lambda pair: len(pair.prompt) + len(pair.chosen) + len(pair.rejected))
        reload_check(aside, model, [short], spec.dtype, device=device, trust_remote_code=spec.trust_remote_code)
        weights_digest = digest_model(aside)
    seen = {"step": step, "difference_nats": off, "allowed_nats": allowed, "pairs": len(pairs)}
    told = {WEIGHTS: weights_digest, **({"reach": to_values(reach)} if reach else {})}
    effect = effect_of(spec, sample, trained, published, start)
    return Published({**seen, **told, "effect": effect, **({"masters": masters} if masters else {})}, model)


def _check_gathered(
    spec: TrainSpec,
    model: Any,
    pairs: Sequence[TokenisedPair],
    device: torch.device,
    trained: SideScores,
    rounding: Noise,
) -> tuple[float, float]:
    """Return how far off `model` scores, and what rounding explains, in nats. Raises ModelError beyond that."""
    off, allowed = _difference(spec, rounding, trained, score_plain(model, pairs, device, chosen_only=spec.supervised))
    # Quantised weights are not those of the plain model; and rounding may turn a choice of experts.
    exact = (spec.stage.lora is None or spec.stage.lora.quantise is None) and not noise.routes(model.config)
    if not off <= (allowed if exact else math.inf):
        raise ModelError(
            f"gathered weights score {off:.3g} nats otherwise than in training; rounding explains {allowed:.2g}",
            where=f"step {spec.step}",
            fix="please report this with the cluster's deepspeed settings",
            code="model.unlike-trained",
        )
    return off, allowed


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


def _merged(spec: TrainSpec, model: Any, exact: dict[str, Tensor], read: Read, kept: dict[str, Tensor] | None) -> Any:
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


def _difference(spec: TrainSpec, rounding: Noise, trained: SideScores, expected: SideScores) -> tuple[float, float]:
    """The largest difference of a score, and what rounding may explain, in nats."""
    off, allowed = 0.0, 0.0
    sides = [(trained.chosen_B, expected.chosen_B, expected.chosen_tokens_B)]
    if not spec.supervised:
        sides.append((trained.rejected_B, expected.rejected_B, expected.rejected_tokens_B))
    for theirs_B, ours_B, tokens_B in sides:
        off = max(off, float((theirs_B.cpu().double() - ours_B.double()).abs().max()))
        allowed = max(allowed, float(rounding.allowed(DTYPES[spec.dtype], tokens_B, ours_B).max()))
    return off, allowed


def _card(spec: TrainSpec, step: int, reach: Reach | None) -> str:
    """The model card: what made this model."""
    adapters = "none"
    if spec.stage.lora is not None and reach is not None:
        adapters = f"LoRA of rank {spec.stage.lora.rank}, merged; on {reach_in_words(reach)}"
    rows = {
        "kind": spec.stage.kind,
        **{key: value for key, value in spec.options.items() if isinstance(value, str | int | float)},
        "batch": spec.stage.batch,
        "optimiser steps": step,
        "learning rate": f"{spec.stage.learning_rate:g} ({spec.stage.schedule})",
        "precision": spec.dtype,
        **spec.recipe,
        "adapters": adapters,
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    head = f"# {spec.step}\n\nMade by Ratchet, training step `{spec.step}`."
    usage = card_usage(trust_remote_code=spec.trust_remote_code)
    return f"{head}\n\n| setting | value |\n|---|---|\n{table}\n{usage}"
