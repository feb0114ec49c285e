"""How many tokens a forward pass may compute: as given, or found by trying.

What is found is written down beside the checkpoints, so that a run that goes on divides its batches
as before, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ratchet.model import memory
from ratchet.model.divide import Micro
from ratchet.store.files import write_text
from ratchet.train.communicate import Communicator
from ratchet.train.engine import Engine
from ratchet.train.objective import Data, prepare
from ratchet.train.spec import TrainSpec

NAME = "budget.json"


def choose(
    spec: TrainSpec, engine: Engine, data: Data, communicator: Communicator, recompute: Callable[[], None]
) -> int:
    """Return the tokens of a pass: the plan's, those of the run before it was stopped, or by trying.

    Calls `recompute` where the plan leaves it open and a first pass would not fit otherwise. For all
    workers together.
    """
    if spec.token_budget is not None and spec.gradient_checkpointing is not None:
        return spec.token_budget
    path = Path(spec.folder) / NAME
    known = communicator.gather(_known(path, communicator.world))[0]
    if known is not None:
        if known["recompute"]:
            recompute()
        return int(known["token_budget"])
    longest = np.argsort(-data.table.lengths_N3.sum(1), kind="stable")
    free = _free(engine, communicator)
    before = memory.reset_peak(engine.device)  # once: what a pass frees may stay with the process, for the next

    def peak_at(tokens: int) -> int:
        _try_pass(spec, engine, data, longest, tokens)
        return max(communicator.gather(max(0, memory.peak(engine.device) - before)))

    needs = spec.gradient_checkpointing is None and peak_at(spec.token_budget or memory.FIRST) > free
    if needs:
        recompute()
    found = spec.token_budget or memory.largest_budget(peak_at, free, engine.device)
    if communicator.rank == 0:
        line = {"token_budget": found, "recompute": needs, "workers": communicator.world}
        write_text(path, json.dumps(line) + "\n")
    return found


def _known(path: Path, world: int) -> dict[str, Any] | None:
    """Return what was found before, under as many workers."""
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found if found["workers"] == world else None


def _free(engine: Engine, communicator: Communicator) -> int:
    """Return the bytes that a pass may take on every worker; AdamW's two moments come only with its first step."""
    free = memory.available(engine.device) - 8 * sum(engine.trained_sizes)
    least = min(communicator.gather(memory.SHARE * free))
    return int(least if engine.device.type == "cuda" else least / communicator.world)  # a machine's workers share it


def _try_pass(spec: TrainSpec, engine: Engine, data: Data, longest: np.ndarray, tokens: int) -> None:
    """Run forward and backward over the longest pairs, `tokens` in all, adding zeros to the gradient."""
    lengths_N3 = data.table.lengths_N3[longest]
    per_row = lengths_N3[:, :2].sum(1) if spec.supervised else lengths_N3.sum(1)
    count = max(1, int(np.searchsorted(np.cumsum(per_row), tokens, side="right")))
    work = prepare(spec, data, Micro(longest[:count], 0.0), engine.packing).to(engine.device)
    engine.backward(torch.nan_to_num(engine(work.batch)).sum() * 0.0, last=False)
