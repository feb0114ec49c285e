"""What scores of a model say about its preferences: reward accuracy, margins, γ, each with its error."""

from __future__ import annotations

import dataclasses

import numpy as np

from ratchet.evaluate.statistics import Estimate, estimate
from ratchet.reference.store import Logps


@dataclasses.dataclass(frozen=True)
class RewardScores:
    """A model against its reference on one set of pairs; log-ratios in nats, accuracy a share."""

    accuracy: Estimate
    margin: Estimate
    chosen_delta: Estimate
    rejected_delta: Estimate


def reward_scores(policy: Logps, reference: Logps) -> RewardScores:
    """Return reward accuracy (share of pairs with margin d > 0) and mean log-ratios d, h_w, h_l.

    Both scores are of the same N pairs in the same order. Notation as in Rafailov et al. 2023.
    """
    chosen = policy.chosen - reference.chosen
    rejected = policy.rejected - reference.rejected
    margin = chosen - rejected
    return RewardScores(
        accuracy=estimate((margin > 0).astype(np.float64)),
        margin=estimate(margin),
        chosen_delta=estimate(chosen),
        rejected_delta=estimate(rejected),
    )


def gamma(logps: Logps) -> Estimate:
    """Return the mean of γ = log π(w|x) − log π(l|x) over N pairs (sDPO, Eq. 1), in nats."""
    return estimate(logps.chosen - logps.rejected)
