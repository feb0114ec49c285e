"""The first step proves the pipeline: where the policy starts as its reference, nothing may differ.

Every log-ratio h is then 0 and, for DPO and DPOP, the loss is ln 2. A wrong template, a truncated
side, active dropout, a stale or misaligned reference row, or two engines that disagree show here,
before the first update. Legend: _B pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ratchet.errors import TrainingError
from ratchet.losses.preference import PairLogps, loss_of, preference_loss
from ratchet.pairs.places import places
from ratchet.train.spec import TrainSpec

_NOISE = 16.0
"""Rounding of one token's log-probability, in units of the precision; tokens add up as a random walk."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """One worker's part of the first global batch; nats."""

    largest_h: float = 0.0
    allowed_h: float = 0.0
    loss_bound_sum: float = 0.0
    outside: tuple[tuple[str, float, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class FirstStep:
    """What the check saw: loss and what it should be (None where the kind has no fixed value)."""

    loss: float
    expected: float | None
    loss_tolerance: float
    largest_h: float
    h_tolerance: float
    pairs: int


def allowed_h(dtype: torch.dtype, tokens_B: Tensor, logps_B: Tensor) -> Tensor:
    """Return how far rounding alone may take each log-ratio from 0, shape (B,), nats.

    A token's log-probability is rounded to some 16 units of the precision, and the errors of an
    answer's tokens add up as a random walk; the sum itself is rounded in float32.
    """
    walk_B = _NOISE * torch.finfo(dtype).eps * tokens_B.double().sqrt()
    return walk_B + 4 * torch.finfo(torch.float32).eps * logps_B.detach().double().abs()


def loss_bound(spec: TrainSpec, allowed_B: Tensor) -> Tensor:
    """Return how far each pair's loss may then be from that of log-ratios of 0, shape (B,).

    The loss itself says it, with both log-ratios as far off as they may be, either way. That is enough, as every loss
    is convex in them: between two such corners it is no further off than at the worse one.
    """
    zero_B, one_B = torch.zeros_like(allowed_B), torch.ones_like(allowed_B)

    def loss(w: int, r: int) -> Tensor:
        logps = PairLogps(w * allowed_B, r * allowed_B, zero_B, zero_B, one_B, one_B)
        return preference_loss(spec.kind, logps, spec.options)

    return (torch.stack([loss(w, r) for w in (-1, 1) for r in (-1, 1)]) - loss(0, 0)).abs().amax(0)


def figures(spec: TrainSpec, dtype: torch.dtype, ids: list[str], logps: PairLogps) -> Figures:
    """Return the figures of one micro-batch."""
    worst = Figures()
    bound_B = torch.zeros(len(ids), dtype=torch.float64)
    for h_B, tokens_B, reference_B in (
        (logps.chosen_ratio_B, logps.chosen_tokens_B, logps.reference_chosen_B),
        (logps.rejected_ratio_B, logps.rejected_tokens_B, logps.reference_rejected_B),
    ):
        allowed_B = allowed_h(dtype, tokens_B, reference_B).cpu() + spec.reference_noise
        off_B = h_B.detach().double().abs().cpu()
        outside = [
            (ids[i], float(off_B[i]), float(allowed_B[i])) for i in torch.nonzero(~(off_B <= allowed_B)).flatten()
        ]
        bound_B = torch.maximum(bound_B, loss_bound(spec, allowed_B))
        worst = combine([worst, Figures(float(off_B.max()), float(allowed_B.max()), 0.0, tuple(outside))])
    return dataclasses.replace(worst, loss_bound_sum=float(bound_B.sum()))


def combine(parts: Iterable[Figures]) -> Figures:
    """Return the figures of several parts together."""
    found = list(parts)
    return Figures(
        max((part.largest_h for part in found), default=0.0),
        max((part.allowed_h for part in found), default=0.0),
        sum(part.loss_bound_sum for part in found),
        tuple(row for part in found for row in part.outside),
    )


def check(spec: TrainSpec, seen: Figures, loss: float, pairs: int) -> FirstStep:
    """Return what was seen, or raise TrainingError with the figures and the likely causes."""
    expected = loss_of(spec.kind).start
    first = FirstStep(loss, expected, seen.loss_bound_sum / pairs, seen.largest_h, seen.allowed_h, pairs)
    off = expected is not None and not abs(loss - expected) <= first.loss_tolerance
    if not seen.outside and not off:
        return first
    files = [Path(file) for file in spec.pair_files]
    lines = [f"the policy starts as its reference, but the first batch of {pairs} pairs says otherwise"]
    if expected is not None:
        name = "ln 2 = " if expected == math.log(2) else ""
        lines.append(f"loss {loss:.6f}, expected {name}{expected:.6f} ± {first.loss_tolerance:.2g}")
    lines += [
        f"pair {places(files, [pair_id])[0]}: log-ratio off by {h:.4g} nats, allowed {allowed:.2g}"
        for pair_id, h, allowed in sorted(seen.outside, key=lambda row: -row[1])[:3]
    ]
    share = len({pair_id for pair_id, _, _ in seen.outside}) / pairs
    raise TrainingError("; ".join(lines), where=f"step {spec.step}", fix=_causes(share))


def _causes(share: float) -> str:
    if share < 0.2:
        return "a few pairs are off: their reference rows are stale or belong to other pairs; score the reference again"
    return (
        "most pairs are off: the reference was scored with other weights, tokens or precision, "
        "or dropout is active; score the reference again with this model"
    )
