"""What is logged beside the loss, as sums over pairs that workers can add up.

Legend: _B pairs, _K metrics.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ratchet.losses.preference import PairLogps, loss_of, rewards_of


def pair_metrics(kind: str, logps: PairLogps, loss_B: Tensor, beta: float) -> dict[str, Tensor]:
    """Return each metric of each pair, by its name in metrics.jsonl; every tensor is (B,).

    Rewards are β times those of the kind's row, in nats; `accuracies` is 1 where that of the
    chosen answer is the greater. The deltas are h_w and h_l, where there is a reference. Raises as
    `loss_of` does.
    """
    kind_of, (chosen_B, rejected_B) = loss_of(kind), rewards_of(kind, logps)
    metrics = {
        "loss": loss_B,
        "rewards/chosen": beta * chosen_B,
        "rewards/rejected": beta * rejected_B,
        "rewards/margins": beta * (chosen_B - rejected_B),
        "rewards/accuracies": chosen_B > rejected_B,
        "logps/chosen": logps.policy_chosen_B,
        "logps/rejected": logps.policy_rejected_B,
    }
    if kind_of.reads_reference:
        metrics |= {"logps/chosen_delta": logps.chosen_ratio_B, "logps/rejected_delta": logps.rejected_ratio_B}
    return metrics | {name: of(logps) for name, of in kind_of.metrics.items()}


def metric_sums(metrics: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of each metric over its pairs, shape (K,), float64, in the mapping's order.

    Add these over micro-batches and workers, and divide by the pairs of the global batch.
    """
    return torch.stack([values_B.detach().to(torch.float64).sum() for values_B in metrics.values()])
