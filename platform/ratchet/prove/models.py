"""The models of the plain trainer: transformers' own, loaded without the trainer's code, and their need of memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ratchet.errors import ModelError
from ratchet.model import memory
from ratchet.model.parts import class_for
from ratchet.pairs.lean import lean_transformers
from ratchet.pairs.trust import load_config
from ratchet.pipeline.sizes import stored_parameters
from ratchet.prove.case import ProvedStep, Weights
from ratchet.prove.oracle import Pair, PlainTrainer, Scores, adapt, answer_logp

_GB = 1e9
_WIDTH = {"float32": 4, "bfloat16": 2}
_EXACT_STATE, _ROUNDED_STATE = 5 * 8, 4 * 4
"""Bytes for each trained weight beside the model: gradient, its sum, the optimiser's weight and its two moments in
float64; in the other run all but the first in float32."""
_SEEN = 4 + 1 + 8
"""Bytes for each trained weight that the comparison holds: where it began, whether it tells, a copy for the sums."""
_PASS = 1.2
"""Activations of one sequence, and what lies beside these."""
_OTHER_ATTENTION = "eager"
"""The kernel by which the rounded run scores its reference, and rejected answers: what two sides have in common would
cancel where one kernel computes both, while in the trainer's passes it is rounded in two ways."""


def load_plain_model(folder: Path, dtype: str, attention: str | None = None) -> Any:
    """Return a folder's causal language model in `dtype`, without dropout; no code of the folder runs."""
    lean_transformers()
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = load_config(folder)
    model = class_for(config).from_pretrained(
        str(folder),
        config=config,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        **({} if attention is None else {"attn_implementation": attention}),
    )
    return model.eval()


def exactly(folder: Path, dtype: str) -> Any:
    """Return the model that computes in float64 with the weights that `dtype` leaves of a folder's."""
    # Loaded in `dtype` first, whose rounding of the weights the trainer begins with too.
    return load_plain_model(folder, dtype).double()


@torch.no_grad()
def scores(model: Any, pairs: Iterable[Pair]) -> Scores:
    """Return each pair's summed log-probabilities of chosen and rejected answer under a reference, nats."""
    found: Scores = {}
    for pair in pairs:
        sides = zip((pair.chosen, pair.rejected), pair.moved, strict=True)
        chosen, rejected = (float(answer_logp(model, pair.prompt, side)) + moved for side, moved in sides)
        found[pair.pair_id] = (chosen, rejected)
    return found


def references(case: ProvedStep, pairs: Iterable[Pair]) -> tuple[Scores, Scores]:
    """Return the reference's log-probabilities in float64 and in the plan's precision; none where the loss has none."""
    if case.reference is None:
        return {}, {}
    known = list(pairs)
    exact = scores(exactly(case.reference, case.reference_dtype), known)
    return exact, scores(load_plain_model(case.reference, case.reference_dtype, _OTHER_ATTENTION), known)


def trainers(case: ProvedStep, begun: Weights) -> tuple[PlainTrainer, PlainTrainer]:
    """Return the plain trainer in float64 and the one in the plan's precision, neither of which has begun.

    Adapters start as the trainer drew them: `begun` are its first weights. All weights start as the folder has them,
    or as the step before left them in float32 beside it.
    """
    exact, rounded = exactly(case.model, case.dtype), load_plain_model(case.model, case.dtype)
    if case.recipe.adapters is not None:
        for model in (exact, rounded):
            adapt(model, case.recipe.adapters)
        start = {name: begun[name] for name in begun.names}
        seen = dict.fromkeys(start, torch.float32)
    else:
        carried = {} if case.masters is None else load_file(case.masters)
        weights = dict(rounded.named_parameters())
        start = {name: carried.get(name, weight.detach().clone()) for name, weight in weights.items()}
        seen = {name: weight.dtype for name, weight in weights.items()}
    return (
        PlainTrainer(case.recipe, exact, start, torch.float64, seen),
        PlainTrainer(case.recipe, rounded, start, torch.float32, seen, _OTHER_ATTENTION),
    )


def bytes_needed(case: ProvedStep) -> int:
    """Return about how many bytes the plain runs of a case hold at their peak."""
    weights = stored_parameters(case.model)
    width = _WIDTH[case.dtype]
    state = _EXACT_STATE + _ROUNDED_STATE + width + _SEEN
    training = weights * (8 + width + (0 if case.recipe.adapters else state))
    scoring = 0 if case.reference is None else stored_parameters(case.reference) * (8 + _WIDTH[case.reference_dtype])
    return int(_PASS * max(training, scoring))


def check_memory(case: ProvedStep) -> str:
    """Return in words what the plain runs hold. Raises ModelError where that does not fit into free memory."""
    need, free = bytes_needed(case), memory.available(torch.device("cpu"))
    if need > free:
        raise ModelError(
            f"a plain float64 run takes about {need / _GB:.1f} GB of memory, and {free / _GB:.1f} GB are free",
            where=f"step {case.name}",
            fix="prove the plan on a larger machine, with adapters (lora), or with a smaller model of the family",
            code="model.no-memory",
        )
    return f"about {need / _GB:.2g} GB of {free / _GB:.3g} GB free"
