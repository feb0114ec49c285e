"""The supervised loss: negative log-likelihood of answer tokens.

Legend: _B demonstrations.
"""

from __future__ import annotations

from torch import Tensor


def sft(logps_B: Tensor) -> Tensor:
    """Return the summed negative log-likelihood of each answer's tokens, shape (B,), in nats.

    Sums, not means: the loss of a step is their sum over the GLOBAL batch divided by the answer
    tokens of the GLOBAL batch, so that no way of dividing the batch changes it.
    """
    return -logps_B
