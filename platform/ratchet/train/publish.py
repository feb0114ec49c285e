"""From the trained weights to the step's model folder: tried before the first step, proved to agree after the last.

Legend: _B pairs.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratchet.documents.passport import Reach, reach_in_words
from ratchet.errors import ModelError, StorageError
from ratchet.model import memory, noise
from ratchet.model.export import reload_check, save_model, score_plain, try_saving
from ratchet.model.folder import card_usage, digest_model
from ratchet.model.forward import SideScores, score
from ratchet.model.load import DTYPES
from ratchet.model.noise import Noise
from ratchet.store.codec import to_values
from ratchet.store.files import folder_aside, free_bytes, remove_leftovers
from ratchet.train.communicate import Communicator, agree
from ratchet.train.effect import Sample, effect_of
from ratchet.train.engine import TrainingEngine
from ratchet.train.gathered import Gathered, gather_plain, merge_trained
from ratchet.train.library import library_faults
from ratchet.train.masters import WRAPPED, opened, rounds, write_masters
from ratchet.train.spec import MODEL, TrainSpec

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
    weights = engine.weights()
    asked = rounds(spec.dtype) and (spec.keep_masters or spec.stage.lora is not None)
    exact = engine.float32_weights() if asked else None

    def gathered() -> Gathered | None:
        with library_faults(spec.model):
            return None if weights is None else gather_plain(spec, weights, sample, engine.device)

    plain, rounding = agree(communicator, gathered), Noise()
    off, allowed = _difference(spec, rounding, trained, plain.scores) if plain else (0.0, 0.0)
    # Measuring takes two more passes a pair, so it waits until the scores differ by more than is always allowed.
    if communicator.gather(off > allowed)[0]:
        some = sample.pairs[:_MEASURED]
        rounding = noise.measure_noise(engine, some, trained, engine.device, chosen_only=spec.supervised)

    def write() -> Published:
        if plain is None:
            return Published({}, None)
        with library_faults(spec.model):
            return _write(spec, plain, exact or {}, sample, (trained, rounding), step)

    found = agree(communicator, write)
    return Published(communicator.gather(found.facts)[0], found.model)


def _write(
    spec: TrainSpec,
    plain: Gathered,
    exact: dict[str, Tensor],
    sample: Sample,
    scored: tuple[SideScores, Noise],
    step: int,
) -> Published:
    folder, pairs, model, device = Path(spec.folder), sample.pairs, plain.model, plain.device
    off, allowed = _check_gathered(spec, plain, *scored)
    kept: dict[str, Tensor] = {}
    if spec.stage.lora is not None:
        with opened(spec.masters) as read:
            model = merge_trained(spec, model, exact, read, kept if spec.keep_masters else None)
    else:
        kept = {name.removeprefix(WRAPPED): master for name, master in exact.items()}
    masters = write_masters(folder, kept, model) if spec.keep_masters and rounds(spec.dtype) else None
    final = folder / MODEL
    remove_leftovers(final)
    # Without adapters the published weights are the trained ones to the bit: two ways to score them lose nothing.
    trained = published = scored[0]
    if spec.stage.lora is not None:
        published = score_plain(model, pairs, device, chosen_only=spec.supervised)
    with folder_aside(final) as aside:
        save_model(model, Path(spec.model), aside, _card(spec, step, plain.reach), chat_template=spec.chat_template)
        # Every byte is compared. So one pair tells whether the settings beside them are the model's.
        short = min(pairs, key=lambda pair: len(pair.prompt) + len(pair.chosen) + len(pair.rejected))
        reload_check(aside, model, [short], spec.dtype, device=device, trust_remote_code=spec.trust_remote_code)
        weights_digest = digest_model(aside)
    seen = {"step": step, "difference_nats": off, "allowed_nats": allowed, "pairs": len(pairs)}
    told = {WEIGHTS: weights_digest, **({"reach": to_values(plain.reach)} if plain.reach else {})}
    effect = effect_of(spec, sample, trained, published, plain.start)
    return Published({**seen, **told, "effect": effect, **({"masters": masters} if masters else {})}, model)


def _check_gathered(spec: TrainSpec, plain: Gathered, trained: SideScores, rounding: Noise) -> tuple[float, float]:
    """Return how far off a model scores, and what rounding explains, in nats. Raises ModelError beyond that."""
    off, allowed = _difference(spec, rounding, trained, plain.scores)
    # Quantised weights are not those of the plain model; and rounding may turn a choice of experts.
    exact = (spec.stage.lora is None or spec.stage.lora.quantise is None) and not noise.routes(plain.model.config)
    if not off <= (allowed if exact else math.inf):
        raise ModelError(
            f"gathered weights score {off:.3g} nats otherwise than in training; rounding explains {allowed:.2g}",
            where=f"step {spec.step}",
            fix="please report this with the cluster's deepspeed settings",
            code="model.unlike-trained",
        )
    return off, allowed


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
