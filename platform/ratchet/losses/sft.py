"""The supervised loss: negative log-likelihood of answer tokens.

Legend: _S sequences.
"""

from __future__ import annotations

from torch import Tensor


def sft(logps_S: Tensor) -> Tensor:
    """Return the summed negative log-likelihood of a batch's answers, a scalar in nats.

    A sum, not a mean: the loss of a step is this sum over the GLOBAL batch divided by the answer
    tokens of the GLOBAL batch, so that no split of the batch changes it.
    """
    return -logps_S.sum()
