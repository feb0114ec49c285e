"""An estimate of the memory that the plain trainer takes."""

from __future__ import annotations

import torch

from ratchet.errors import ModelError
from ratchet.model import memory
from ratchet.pipeline.sizes import stored_parameters
from ratchet.prove.case import ProvedStep

_GB = 1e9
_WIDTH = {"float32": 4, "bfloat16": 2}
_EXACT_STATE, _ROUNDED_STATE = 5 * 8, 4 * 4
"""Bytes for each trained weight beside the model: gradient, its sum, the optimiser's weight and its two moments in
float64; in the other run all but the first in float32."""
_SEEN = 4 + 1 + 8
"""Bytes for each trained weight that the comparison holds: where it began, whether it tells, a copy for the sums."""
_PASS = 1.2
"""Activations of one sequence, and what lies beside these."""


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
        )
    return f"about {need / _GB:.2g} GB of {free / _GB:.3g} GB free"
