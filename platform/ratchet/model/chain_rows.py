"""The rows of keys, values and queries that one chain of a token tree uses: taken out, and added back.

Tensors are (1, H, T, D): _B is 1, _H heads, _T rows, _D a head's size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ratchet.model.tree import Chain


def seen_rows(rows_BHTD: Tensor, chain: Chain) -> Tensor:
    """The rows that a chain sees: its ancestors', then its own."""
    # A thousand of these in a step: `narrow` costs half of what an index does.
    own = rows_BHTD.narrow(2, chain.start, chain.stop - chain.start)
    if not chain.ancestors:
        return own
    return torch.cat([*(rows_BHTD.narrow(2, first, stop - first) for first, stop in chain.ancestors), own], 2)


def led_rows(own_BHTD: Tensor, chain: Chain) -> Tensor:
    """A chain's own rows below its `lead`, of zeros: their gradient is 0, so they add nothing to any other."""
    return nn.functional.pad(own_BHTD, (0, 0, chain.lead, 0)) if chain.lead else own_BHTD


def own_rows(rows_BHTD: Tensor, chain: Chain) -> Tensor:
    """A chain's own rows without those that `led_rows` put before them."""
    return rows_BHTD.narrow(2, chain.lead, chain.stop - chain.start) if chain.lead else rows_BHTD


def add_seen_rows(sums_BHTD: Tensor, rows_BHTD: Tensor, chain: Chain) -> None:
    """Add rows in the order of `seen_rows` where they came from."""
    at = 0
    for first, stop in (*chain.ancestors, (chain.start, chain.stop)):
        # In place: `+=` on an index would copy the sum onto itself.
        sums_BHTD.narrow(2, first, stop - first).add_(rows_BHTD.narrow(2, at, stop - first))
        at += stop - first


def rows_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros of a (1, H, T, D) tensor's shape, laid out by rows as the layers around it are."""
    batch, heads, rows, size = tensor.shape
    return torch.zeros(batch, rows, heads, size, dtype=dtype or tensor.dtype, device=tensor.device).transpose(1, 2)
