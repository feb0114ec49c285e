"""Loss and accuracy on pairs that no stage trains on, by the same path as training."""

from __future__ import annotations

import numpy as np
import torch

from ratchet.train.batches import Rows, epoch_order, micro_batches
from ratchet.train.communicate import Communicator
from ratchet.train.engine import Engine
from ratchet.train.objective import Data, normaliser, objective
from ratchet.train.spec import TrainSpec


def heldout_rows(n: int, cap: int) -> Rows:
    """Return at most `cap` of `n` rows, in rising order: always the same ones."""
    return np.sort(epoch_order(n, 0, 0)[:cap])


@torch.no_grad()
def heldout_metrics(spec: TrainSpec, engine: Engine, data: Data, communicator: Communicator) -> dict[str, float]:
    """Return ``heldout/loss`` and, but for sft, ``heldout/accuracy``: the share of pairs with d > 0.

    Rows are divided over the workers; every worker makes the same number of forward passes.
    """
    rows = heldout_rows(len(data.table), spec.heldout_rows)
    if not len(rows):
        return {}
    passes = -(-len(rows) // (communicator.world * spec.micro_batch))
    sums = torch.zeros(2, dtype=torch.float64)
    engine.train(False)
    for micro in micro_batches(rows, communicator.rank, communicator.world, spec.micro_batch, passes):
        scored = objective(spec, engine.score, engine.device, data, micro.rows)
        if not micro.weight:
            continue
        sums[0] += float(scored.loss_B.double().sum())
        if scored.logps is not None:
            sums[1] += float((scored.logps.chosen_ratio_B > scored.logps.rejected_ratio_B).sum())
    engine.train(True)
    total = communicator.sum(sums)
    found = {"heldout/loss": float(total[0]) / normaliser(spec, data.table, rows)}
    return found if spec.supervised else {**found, "heldout/accuracy": float(total[1]) / len(rows)}
