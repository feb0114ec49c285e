"""The model of a step as its workers train it, tried for all that its folder alone can tell."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch

from ratchet.model.forward import PairScorer
from ratchet.model.load import load_model, skeleton
from ratchet.model.states import carriers
from ratchet.train.gathered import add_adapters, round_adapters, try_adapters
from ratchet.train.publish import try_publishing
from ratchet.train.spec import TrainSpec

_log = logging.getLogger(__name__)


def build_scorer(spec: TrainSpec, device: torch.device, *, first: bool) -> PairScorer:
    """Return the model of a step, with adapters and recomputation as the spec asks, to run on `device`.

    The `first` worker, which will publish, tries that now. Raises ModelError, StorageError.
    """
    quantise = None if spec.stage.lora is None else spec.stage.lora.quantise
    model = load_model(Path(spec.model), spec.dtype, trust_remote_code=spec.trust_remote_code, quantise=quantise)
    if first:
        # Of quantised weights the plain model is published, so that is what is tried.
        try_publishing(
            spec, model if quantise is None else skeleton(Path(spec.model), spec.dtype, spec.trust_remote_code)
        )
    if spec.gradient_checkpointing:
        recompute_activations(model)
    if spec.stage.lora is not None:
        model = add_adapters(model, spec.stage.lora, spec.stage.seed)
        round_adapters(model, spec.dtype)
        if first and quantise is None:
            try_adapters(model)
    scorer = PairScorer(model, sharing=spec.cluster.sharing, device=device, router_loss=spec.stage.router_loss)
    if spec.cluster.deepspeed.zero == 3 and spec.cluster.workers != 1:
        call_alike(scorer)
    return scorer


def call_alike(scorer: PairScorer) -> None:
    """Lay out padded rows where layers carry a state, so that all workers call each module as often in a pass."""
    if scorer.packing.why_padded is not None or not carriers(scorer.causal):
        return
    why = "its layers carry a state and are called once for each fork, while ZeRO-3 asks all workers for as many calls"
    scorer.packing = dataclasses.replace(scorer.packing, longest=None, why_padded=why)
    _log.warning("%s shares no tokens: %s", type(scorer.causal).__name__, why)


def recompute_activations(model: Any) -> None:
    """Keep each layer's input alone for the backward pass, and compute the rest again."""
    # The reentrant kind wants an input with a gradient, which tokens have not, nor frozen embeddings.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
