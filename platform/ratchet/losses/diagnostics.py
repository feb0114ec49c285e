"""What is logged beside the loss, as sums over pairs that workers can add up.

Legend: _B pairs, _K metrics.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ratchet.losses.preference import PairLogps


def pair_metrics(kind: str, logps: PairLogps, loss_B: Tensor, beta: float) -> dict[str, Tensor]:
    """Return each metric of each pair, by its name in metrics.jsonl; every tensor is (B,).

    Rewards are β h in nats, `accuracies` is 1 where d > 0, `dpop/active` is 1 where p > 0.
    """
    chosen_B, rejected_B = logps.chosen_ratio_B, logps.rejected_ratio_B
    metrics = {
        "loss": loss_B,
        "rewards/chosen": beta * chosen_B,
        "rewards/rejected": beta * rejected_B,
        "rewards/margins": beta * (chosen_B - rejected_B),
        "rewards/accuracies": chosen_B > rejected_B,
        "logps/chosen": logps.policy_chosen_B,
        "logps/rejected": logps.policy_rejected_B,
        "logps/chosen_delta": chosen_B,
        "logps/rejected_delta": rejected_B,
    }
    if kind == "dpop":
        metrics["dpop/active"] = logps.fall_B > 0
    return metrics


def metric_sums(metrics: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of each metric over its pairs, shape (K,), float64, in the mapping's order.

    Add these over micro-batches and workers, and divide by the pairs of the global batch.
    """
    return torch.stack([values_B.detach().to(torch.float64).sum() for values_B in metrics.values()])
