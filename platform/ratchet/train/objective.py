"""The loss of some rows, as training and the held-out check both compute it.

Legend: _N rows of the table, _B pairs of one micro-batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ratchet.losses.diagnostics import pair_metrics
from ratchet.losses.preference import PairLogps, preference_loss
from ratchet.losses.sft import sft
from ratchet.model.forward import SequenceBatch, SideScores, score
from ratchet.pairs.pair import TokenisedPair
from ratchet.train.batches import Rows
from ratchet.train.spec import TrainSpec

Scorer = Callable[[SequenceBatch], Tensor]


class Table(Protocol):
    """Tokenised pairs by row; `lengths_N3` counts the tokens of prompt, chosen and rejected."""

    pair_ids: list[str]
    lengths_N3: npt.NDArray[np.int32]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> TokenisedPair: ...


@dataclasses.dataclass(frozen=True)
class Reference:
    """The reference's summed log-probabilities of a table's rows, float64, shape (N,), nats."""

    chosen_N: npt.NDArray[np.float64]
    rejected_N: npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Data:
    """A table with its reference; `reference` is None where the loss has none."""

    table: Table
    reference: Reference | None


@dataclasses.dataclass(frozen=True)
class Scored:
    """`loss_B` with its gradient, each metric of each pair, and what they were computed from.

    `logps` is None for `sft`, whose `loss_B` is the summed negative log-likelihood of each answer.
    """

    loss_B: Tensor
    metrics: Mapping[str, Tensor]
    logps: PairLogps | None


def objective(spec: TrainSpec, scorer: Scorer, device: torch.device, data: Data, rows: Rows) -> Scored:
    """Return the losses of `rows`, not yet averaged over anything."""
    pairs = [data.table[int(row)] for row in rows]
    sides = score(scorer, pairs, device, chosen_only=spec.supervised)
    if spec.supervised:
        loss_B = sft(sides.chosen_B)
        return Scored(loss_B, {"loss": loss_B}, None)
    logps = _with_reference(sides, data.reference, rows)
    loss_B = preference_loss(spec.kind, logps, spec.options)
    metrics = pair_metrics(spec.kind, logps, loss_B, spec.beta)
    if data.reference is None:
        metrics = {name: value for name, value in metrics.items() if not name.endswith("_delta")}
    return Scored(loss_B, metrics, logps)


def normaliser(spec: TrainSpec, table: Table, rows: Rows) -> int:
    """Return what the losses of a global batch are divided by: its pairs, or its answer tokens (sft)."""
    return int(table.lengths_N3[rows, 1].sum()) if spec.supervised else len(rows)


def computed_tokens(spec: TrainSpec, table: Table, rows: Rows) -> int:
    """Return the positions that one forward pass over `rows` computes, padding included."""
    prompt_B, chosen_B, rejected_B = table.lengths_N3[rows].T.astype(np.int64)
    sides = [prompt_B + chosen_B] if spec.supervised else [prompt_B + chosen_B, prompt_B + rejected_B]
    return len(rows) * len(sides) * int(np.concatenate(sides).max())


def own_tokens(spec: TrainSpec, table: Table, rows: Rows) -> int:
    """Return the tokens of `rows` as they stand: prompt and answer of each side that is scored."""
    prompt, chosen, rejected = table.lengths_N3[rows].astype(np.int64).sum(0)
    return int(prompt + chosen) if spec.supervised else int(2 * prompt + chosen + rejected)


def _with_reference(sides: SideScores, reference: Reference | None, rows: Rows) -> PairLogps:
    """Without a reference every log-ratio is the policy's own log-probability (CPO's implicit reward)."""
    known = [np.zeros(len(rows)), np.zeros(len(rows))]
    if reference is not None:
        known = [reference.chosen_N[rows], reference.rejected_N[rows]]
    chosen_B, rejected_B = (torch.as_tensor(part).to(sides.chosen_B) for part in known)
    return PairLogps(
        policy_chosen_B=sides.chosen_B,
        policy_rejected_B=sides.rejected_B,
        reference_chosen_B=chosen_B,
        reference_rejected_B=rejected_B,
        chosen_tokens_B=sides.chosen_tokens_B,
        rejected_tokens_B=sides.rejected_tokens_B,
    )
