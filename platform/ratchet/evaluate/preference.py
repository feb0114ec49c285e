"""What scores of a model say about its preferences: reward accuracy, margins, γ, each with its error."""

from __future__ import annotations

import dataclasses

from ratchet.evaluate.statistics import Estimate, estimate, share
from ratchet.reference.store import Logps


@dataclasses.dataclass(frozen=True)
class RewardScores:
    """A model against its reference on one set of pairs; log-ratios in nats, accuracy a share.

    `chosen_per_token` is the mean over pairs of h_w divided by the chosen answer's tokens: of answers of any length.
    """

    accuracy: Estimate
    margin: Estimate
    chosen_delta: Estimate
    rejected_delta: Estimate
    chosen_per_token: Estimate


def reward_scores(policy: Logps, reference: Logps) -> RewardScores:
    """Return reward accuracy (share of pairs with margin d > 0) and mean log-ratios d, h_w, h_l.

    Both scores are of the same N pairs in the same order. Notation as in Rafailov et al. 2023.
    """
    chosen = policy.chosen - reference.chosen
    rejected = policy.rejected - reference.rejected
    margin = chosen - rejected
    return RewardScores(
        accuracy=share(margin > 0),
        margin=estimate(margin),
        chosen_delta=estimate(chosen),
        rejected_delta=estimate(rejected),
        chosen_per_token=estimate(chosen / policy.chosen_tokens),
    )


def gamma(logps: Logps) -> Estimate:
    """Return the mean of γ = log π(w|x) − log π(l|x) over N pairs (sDPO, Eq. 1), in nats."""
    return estimate(logps.chosen - logps.rejected)
