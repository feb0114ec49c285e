"""The calibration gate: another engine's scores against the trainer's own, on a sample, before a run trusts them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ratchet.errors import TrainingError
from ratchet.losses.sensitivity import MOST, WORST
from ratchet.reference.store import Logps

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one side's scores are from the trainer's, in nats: mean, standard deviation, and the worst pair."""

    bias: float
    deviation: float
    worst: float
    worst_pair: str


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a sample showed. `shift` is the root mean square of z that the differences cause, `bound` its limit,
    `worst_shift` and `worst_bound` the same of the pair whose z moves most (`losses.sensitivity`);
    `first_loss` is the loss that the first step would have where it should be ln 2.
    """

    pairs: int
    chosen: Difference
    rejected: Difference
    shift: float
    bound: float
    worst_shift: float
    worst_bound: float
    first_loss: float | None

    @property
    def passed(self) -> bool:
        """Whether the run may trust the engine."""
        return self.shift <= self.bound and self.worst_shift <= self.worst_bound

    @property
    def noise(self) -> float:
        """How far a pair's score may then be off, in nats: eight deviations, or the worst that was seen."""
        return max(max(abs(side.worst), abs(side.bias) + 8 * side.deviation) for side in (self.chosen, self.rejected))

    def figures(self) -> str:
        """Return the figures in one line."""
        sides = "; ".join(
            f"{name} off by {side.bias:+.3g} ± {side.deviation:.3g} nats "
            f"(worst {side.worst:+.3g}, pair {side.worst_pair})"
            for name, side in (("chosen", self.chosen), ("rejected", self.rejected))
        )
        loss = "" if self.first_loss is None else f"; the first loss would be {self.first_loss:.3f} instead of 0.693"
        return (
            f"{self.pairs} pairs: {sides}{loss}; the loss's argument moves by {self.shift:.3g}, {self.bound:g} is borne"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON types, the verdict among them."""
        return {**dataclasses.asdict(self), "passed": self.passed, "noise": self.noise}


def calibrate(
    kind: str, options: Mapping[str, Any], pair_ids: Sequence[str], own: Logps, foreign: Logps
) -> Calibration:
    """Return what the scores of the same pairs by two engines say, under a loss and its options.

    `own` is the trainer's; both hold shape (N,), in the order of `pair_ids`. Raises TrainingError for an unknown loss,
    and for one that reads no reference: it says of no error whether that is too much.
    """
    from ratchet.losses.preference import loss_of  # it needs torch, and naming what a gate showed does not

    gain = loss_of(kind).gain
    if gain is None:
        raise TrainingError(
            f"{kind} reads no reference, so that no other engine's scores can be judged by it",
            code="training.no-reference",
        )
    off_w, off_l = foreign.chosen - own.chosen, foreign.rejected - own.rejected
    by = gain(options)
    # Such a loss divides by the tokens, and an error of the score with it.
    tokens_w, tokens_l = (own.chosen_tokens, own.rejected_tokens) if by.per_token else (1, 1)
    z_N = by.chosen * off_w / tokens_w - by.rejected * off_l / tokens_l
    return Calibration(
        len(pair_ids),
        _difference(off_w, pair_ids),
        _difference(off_l, pair_ids),
        float(np.sqrt(np.mean(np.square(z_N)))),
        MOST,
        float(np.abs(z_N).max()),
        WORST,
        _first_loss(kind, options, own, foreign),
    )


def _difference(off_N: Floats, pair_ids: Sequence[str]) -> Difference:
    worst = int(np.abs(off_N).argmax())
    return Difference(float(off_N.mean()), float(off_N.std()), float(off_N[worst]), pair_ids[worst])


def _first_loss(kind: str, options: Mapping[str, Any], own: Logps, foreign: Logps) -> float | None:
    """Return the mean loss of a policy that is the reference, scored by the trainer, against the foreign scores."""
    import torch

    from ratchet.losses.preference import PairLogps, loss_of, preference_loss

    # Of another loss nobody knows what the first step should give.
    if loss_of(kind).start is None:
        return None
    columns = (own.chosen, own.rejected, foreign.chosen, foreign.rejected, own.chosen_tokens, own.rejected_tokens)
    return float(preference_loss(kind, PairLogps(*map(torch.from_numpy, columns)), options).mean())
