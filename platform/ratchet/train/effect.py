"""What a step gained, as it was trained and as it was published: a merge rounds, and may round a small gain away.

Legend: _B pairs.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ratchet.model.forward import SideScores
from ratchet.pairs.pair import TokenisedPair
from ratchet.train.data import batches_of, course_of
from ratchet.train.objective import Data, heldout_rows
from ratchet.train.spec import TrainSpec

LEAST_KEPT = 0.95
"""Of a step's effect; below this a warning says what to do."""
_FEWEST, _MOST, _TOKENS = 4, 64, 2048
"""Pairs that are compared: few enough for one pass of a large model, as many as such a pass holds."""
_SEEN = 1e-3
"""Nats: of a smaller effect no share can be told."""
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Pairs on which the published model is compared with the trained one, and their reference's scores, if any.

    `of` says in words which pairs they are; `reference_2B` are the chosen and rejected answers' log-probabilities.
    """

    pairs: Sequence[TokenisedPair]
    reference_2B: Tensor | None
    of: str


def sample_of(spec: TrainSpec, data: Data, heldout: Data | None) -> Sample:
    """Return held-out pairs, or those of the last training batch where there are none."""
    if heldout is not None:
        held, rows, of = heldout, heldout_rows(len(heldout.table), _MOST), "held-out pairs"
    else:
        *_, last = batches_of(spec, data.table, course_of(spec, len(data.table)).total_steps - 1)
        held, rows, of = data, last.rows[:_MOST], "pairs of the last training batch"
    pairs: list[TokenisedPair] = []
    for pair in (held.table[int(row)] for row in rows):
        pairs.append(pair)
        tokens = sum(2 * len(one.prompt) + len(one.chosen) + len(one.rejected) for one in pairs)
        if len(pairs) >= _FEWEST and tokens > (spec.token_budget or _TOKENS):
            break
    chosen = rows[: len(pairs)]
    known = held.reference
    reference_2B = (
        None if known is None else torch.tensor([known.chosen_N[chosen].tolist(), known.rejected_N[chosen].tolist()])
    )
    return Sample(pairs, reference_2B, of)


def effect_of(
    spec: TrainSpec, sample: Sample, trained: SideScores, published: SideScores, start: SideScores | None
) -> dict[str, Any]:
    """Return margin and chosen log-probability as trained and as published, in nats, and the share that is kept.

    The margin is mean (log π/ref of chosen) − (log π/ref of rejected); without a reference against `start`, where that
    was scored. `kept` is the published margin's share of the trained one (sft: of the chosen answers' gain), None where
    there is too little to tell. `lost`, and a warning, where less than 95 % is kept, and that is more than chance.
    """
    before = sample.reference_2B
    if before is None and start is not None:
        rejected_B = torch.zeros_like(start.chosen_B) if spec.supervised else start.rejected_B
        before = torch.stack([start.chosen_B, rejected_B]).double().cpu()
    gains = [_gains(spec, one, before) for one in (trained, published)]
    whole, rest = (float(gain_B.mean()) for gain_B in gains)
    margins = [None, None] if spec.supervised else [whole, rest]
    told = before is not None and abs(whole) >= _SEEN
    # Equal to the bit is all kept, however small; otherwise a share of next to nothing says nothing.
    kept = rest / whole if told else 1.0 if torch.equal(*gains) else None
    lost = kept is not None and kept < LEAST_KEPT and _beyond_chance(gains[0] - gains[1])
    found = {
        "of": sample.of,
        "pairs": len(sample.pairs),
        "margin_trained": margins[0],
        "margin_published": margins[1],
        "chosen_trained": float(trained.chosen_B.double().mean()),
        "chosen_published": float(published.chosen_B.double().mean()),
        "kept": kept,
        "lost": lost,
    }
    if lost:
        _log.warning("%s", _warning(spec, whole, rest, found))
    return found


def _gains(spec: TrainSpec, scores: SideScores, before_2B: Tensor | None) -> Tensor:
    """What each pair gained: its margin, or for sft its chosen answer's log-probability; shape (B,), float64."""
    chosen_B = scores.chosen_B.double().cpu()
    rejected_B = torch.zeros_like(chosen_B) if spec.supervised else scores.rejected_B.double().cpu()
    if before_2B is None:
        return chosen_B - rejected_B
    offset_B = before_2B[0] if spec.supervised else before_2B[0] - before_2B[1]
    return chosen_B - rejected_B - offset_B


def _beyond_chance(lost_B: Tensor) -> bool:
    """Whether pairs lost something on the whole: their mean is more than two of its standard errors from 0."""
    if len(lost_B) < 2:
        return True
    return abs(float(lost_B.mean())) > 2 * float(lost_B.std()) / math.sqrt(len(lost_B))


def _warning(spec: TrainSpec, whole: float, rest: float, found: dict[str, Any]) -> str:
    what = "gain of the chosen answers" if spec.supervised else "margin"
    remedy = f"set model.dtype: float32, or serve the adapter in {spec.step}/adapter over the start model"
    return (
        f"{spec.step}: the published model keeps {100 * found['kept']:.0f} % of what was trained: the {what} over "
        f"{found['pairs']} {found['of']} is {whole:.4g} nats as trained and {rest:.4g} as published, "
        f"because merged adapters are rounded to {spec.dtype}; {remedy}"
    )
