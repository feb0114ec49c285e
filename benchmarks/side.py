"""What a measured side can be asked for. A side holds one model, one optimiser and one set of pairs.

All sides get the same pairs in the same order, the same weights, AdamW with the same settings and the
same global batches. `rows` are indexes into the pairs; a global batch is one call of `step`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from benchmarks.models import Device, Precision, Sizes, build, sizes
from benchmarks.rows import rows_of
from benchmarks.shapes import SHAPES
from ratchet.pairs.pair import TokenisedPair

BETA: Final = 0.1
LEARNING_RATE: Final = 1e-6
BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-8
CLIP: Final = 1.0

Rows = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Task:
    """What all sides of a comparison share.

    `micro` is in pairs of one forward pass. `rounded` weights are float32 numbers that bfloat16 can hold, so
    that a float32 gradient is of the very weights that bfloat16 sides have.
    """

    shape: str
    model: str
    vocab: int
    precision: Precision
    pairs: int
    micro: int = 8
    seed: int = 0
    threads: int = 2
    device: Device = "cpu"
    rounded: bool = False
    rows: str = ""

    def draw(self) -> list[TokenisedPair]:
        """Return the pairs: those of the token file `rows` where there is one, else made-up ones of the shape.

        Raises ValueError where the file has too few.
        """
        if self.rows:
            return rows_of(Path(self.rows), self.pairs, self.seed)
        return SHAPES[self.shape](self.pairs, self.vocab, self.seed)

    @property
    def sizes(self) -> Sizes:
        """The model's."""
        return sizes(self.model, self.vocab)

    def build(self) -> LlamaForCausalLM:
        """Return the model, with the weights that every side begins with."""
        model = build(self.sizes, self.precision, self.device)
        return model.to(torch.bfloat16).to(torch.float32) if self.rounded else model

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON types."""
        return dataclasses.asdict(self)


class Side(Protocol):
    """One of the things compared. `score` must have seen rows before `step` or `gradients` get them."""

    logps_N2: npt.NDArray[np.float64]
    """The reference's summed log-probabilities of chosen and rejected answers, as far as scored; nats."""

    def score(self, rows: Rows) -> None:
        """Compute the reference's log-probabilities of `rows` with the weights as they are."""

    def step(self, rows: Rows) -> float:
        """Make one optimiser step over `rows`; return the mean loss before it."""

    def gradients(self, rows: Rows) -> tuple[float, dict[str, Tensor]]:
        """Return the mean loss over `rows` and its gradient by parameter name, float32, and update nothing."""

    def tokens(self, rows: Rows) -> int:
        """Return the tokens that a step over `rows` sends through the layers, padding included."""

    def own_bytes(self) -> int:
        """Return the bytes of weights, gradients and optimiser state."""


def micro_batches(rows: Rows, micro: int) -> list[list[int]]:
    """Return `rows` in order, `micro` at a time."""
    return [list(rows[start : start + micro]) for start in range(0, len(rows), micro)]


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors hold; one that stands twice counts once."""
    distinct = {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors}
    return sum(distinct.values())
