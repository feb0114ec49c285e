"""What an error of the reference's log-probabilities does to a loss: how much of it is too much.

A reference that is e nats off moves the argument z of −logσ(z) by gain · e, and the pair's weight in
the gradient, σ(−z) = ½ where training starts, by the share |z|/2 of itself. DPOP's gain is 1 + λ
times DPO's: β = 0.3, λ = 50 turn 0.05 nats into a first loss of 0.88.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

MOST = 0.2
"""Root mean square of z that is borne: a pair's weight in the gradient is then off by a tenth of itself."""

WORST = 1.0
"""The z that is borne of a single pair: its weight is then off by half of itself."""


@dataclasses.dataclass(frozen=True)
class Gain:
    """How far z moves for each nat that a side's reference is off; by the nat for each token if `per_token`."""

    chosen: float
    rejected: float
    per_token: bool = False


def dpo_gain(options: Mapping[str, Any]) -> Gain:
    """Return DPO's gain: β on both sides; smoothing makes the weight less, and an error of it a greater share."""
    beta = float(options["beta"]) / (1 - 2 * float(options.get("label_smoothing", 0.0)))
    return Gain(beta, beta)


def dpop_gain(options: Mapping[str, Any]) -> Gain:
    """Return DPOP's gain below the kink, where it is largest; a penalty outside adds λ e to the loss itself."""
    beta, penalty = float(options["beta"]), float(options.get("penalty", 50.0))
    outside = options.get("penalty_position") == "outside"
    return Gain(beta + penalty if outside else beta * (1 + penalty), beta)


def ipo_gain(options: Mapping[str, Any]) -> Gain:
    """Return IPO's gain: its weight is 2 (d̄ − 1/(2β)), which an error e of d̄ changes by the share 2β e.

    A z of 4β e does the same.
    """
    beta = float(options["beta"])
    return Gain(4 * beta, 4 * beta, per_token=bool(options.get("length_normalised", True)))
