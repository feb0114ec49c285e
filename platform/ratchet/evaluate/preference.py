"""What scores of a model say about its preferences: reward accuracy, margins, γ, each with its error."""

from __future__ import annotations

import dataclasses

import numpy as np

from ratchet.documents.heldout import Estimate
from ratchet.evaluate.statistics import estimate, estimate_share
from ratchet.losses.preference import Reward, log_ratio_reward
from ratchet.reference.store import Floats, Logps


@dataclasses.dataclass(frozen=True)
class RewardScores:
    """A model against another one on one set of pairs: rewards over β and log-ratios in nats, accuracy a share.

    `chosen_per_token` is the mean over pairs of h_w divided by the chosen answer's tokens: of answers of any length.
    """

    accuracy: Estimate
    margin: Estimate
    chosen_delta: Estimate
    rejected_delta: Estimate
    chosen_per_token: Estimate


def reward_scores(policy: Logps, reference: Logps, reward: Reward = log_ratio_reward) -> RewardScores:
    """Return reward accuracy (share of pairs with margin > 0), mean margin, and mean log-ratios h_w, h_l.

    The margin is that of `reward`, the column of the loss's row (`losses.preference`): d = h_w − h_l for a log-ratio.
    Both scores are of the same N pairs in the same order. Notation as in Rafailov et al. 2023.
    """
    found = by_pair(policy, reference, reward)
    accuracy = estimate_share(found.pop("accuracy") > 0)
    return RewardScores(accuracy=accuracy, **{name: estimate(values) for name, values in found.items()})


def by_pair(policy: Logps, reference: Logps, reward: Reward = log_ratio_reward) -> dict[str, Floats]:
    """Return each of `RewardScores` of every pair, each (N,); an accuracy is 1 or 0."""
    chosen = policy.chosen - reference.chosen
    rejected = policy.rejected - reference.rejected
    margin = reward(policy.chosen, reference.chosen, policy.chosen_tokens) - reward(
        policy.rejected, reference.rejected, policy.rejected_tokens
    )
    return {
        "accuracy": (margin > 0).astype(np.float64),
        "margin": margin,
        "chosen_delta": chosen,
        "rejected_delta": rejected,
        "chosen_per_token": chosen / policy.chosen_tokens,
    }


def mean_gamma(logps: Logps) -> Estimate:
    """Return the mean of γ = log π(w|x) − log π(l|x) over N pairs (sDPO, Eq. 1), in nats."""
    return estimate(logps.chosen - logps.rejected)
