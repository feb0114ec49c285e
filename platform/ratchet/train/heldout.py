"""Loss and accuracy on pairs that no stage trains on, by the same path as training."""

from __future__ import annotations

import numpy as np
import torch

from ratchet.losses.preference import rewards_of
from ratchet.model.divide import divide_units, units
from ratchet.train.batches import Rows, epoch_order
from ratchet.train.communicate import Communicator
from ratchet.train.engine import Engine
from ratchet.train.objective import Data, answer_logps, loss_function, normaliser, prepare
from ratchet.train.spec import TrainSpec


def heldout_rows(n: int, cap: int) -> Rows:
    """Return at most `cap` of `n` rows, in rising order: always the same ones."""
    return np.sort(epoch_order(n, 0, 0)[:cap])


@torch.no_grad()
def heldout_metrics(
    spec: TrainSpec, engine: Engine, data: Data, token_budget: int, communicator: Communicator
) -> dict[str, float]:
    """Return ``heldout/loss`` and, but for sft, ``heldout/accuracy``: the share of pairs whose chosen answer has
    the greater reward, as the kind of loss has it.

    Rows are divided over the workers; every worker makes the same number of forward passes.
    """
    rows = heldout_rows(len(data.table), spec.heldout_rows)
    if not len(rows):
        return {}
    held = units(data.table.__getitem__, rows, engine.packing, token_budget, chosen_only=spec.supervised)
    sums = torch.zeros(2, dtype=torch.float64, device=engine.device)
    loss = loss_function(spec)
    engine.train(False)
    for micro in divide_units(held, communicator.world, token_budget)[communicator.rank]:
        work = prepare(spec, data, micro, engine.packing).to(engine.device)
        logps = answer_logps(engine, work)
        sums[0] += loss(logps).double().sum() * micro.weight
        if not spec.supervised:
            chosen_B, rejected_B = rewards_of(spec.stage.kind, logps)
            sums[1] += (chosen_B > rejected_B).sum() * micro.weight
    engine.train(True)
    total = communicator.sum(sums)
    found = {"heldout/loss": float(total[0]) / normaliser(spec, data.table, rows)}
    return found if spec.supervised else {**found, "heldout/accuracy": float(total[1]) / len(rows)}
