"""How many tokens a forward pass may compute, as given or found by trying.

What is found is written down beside the checkpoints, so that a run that goes on divides its batches
as before, bit for bit.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ratchet.errors import CorruptError
from ratchet.model import memory
from ratchet.model.batch import Packing, collate
from ratchet.model.divide import Rows, filling
from ratchet.store.files import read_sealed, write_sealed
from ratchet.train.communicate import Communicator, agree
from ratchet.train.engine import TrainingEngine
from ratchet.train.objective import Data, Table
from ratchet.train.spec import TrainSpec

_log = logging.getLogger(__name__)
NAME = "budget.json"


def choose(
    spec: TrainSpec, engine: TrainingEngine, data: Data, communicator: Communicator, recompute: Callable[[], None]
) -> int:
    """Return the tokens of a pass: the plan's, those of the run before it was stopped, or by trying.

    Calls `recompute` where the plan leaves it open and a first pass would not fit otherwise. For all
    workers together.
    """
    if spec.token_budget is not None and spec.gradient_checkpointing is not None:
        return spec.token_budget
    path = Path(spec.folder) / NAME
    known = communicator.gather(_known(path, _asked(spec, communicator)))[0]
    if known is not None:
        if known["recompute"]:
            recompute()
        return int(known["token_budget"])
    columns = 2 if spec.supervised else 3
    longest = np.argsort(-data.table.lengths_N3[:, :columns].sum(1), kind="stable")
    free = _free(spec, engine, communicator)

    def peak_at(tokens: int) -> int:
        taken = memory.taken_by(lambda: _try_pass(spec, engine, data, longest, tokens), engine.device)
        return max(communicator.gather(taken))

    needs = spec.gradient_checkpointing is None and peak_at(spec.token_budget or memory.FIRST) > free
    if needs:
        recompute()
    found = spec.token_budget or memory.largest_budget(peak_at, free, engine.device)
    line = {"token_budget": found, "recompute": needs, "asked": _asked(spec, communicator)}

    def write() -> None:
        if communicator.rank == 0:
            write_sealed(path, line)

    agree(communicator, write)
    return found


def _asked(spec: TrainSpec, communicator: Communicator) -> dict[str, Any]:
    """What a finding holds for: another setting, or another count of workers, is another question."""
    asked = {"token_budget": spec.token_budget, "gradient_checkpointing": spec.gradient_checkpointing}
    return {**asked, "sharing": spec.cluster.sharing, "workers": communicator.world}


def _known(path: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """Return what was found before for the same question; None where there is none, or it was changed since."""
    try:
        found = read_sealed(path)
    except CorruptError as error:
        _log.warning("%s: %s; the tokens of a pass are found again, and may be others than before", path, error.what)
        return None
    return found if found is not None and found["asked"] == asked else None


def _free(spec: TrainSpec, engine: TrainingEngine, communicator: Communicator) -> int:
    """Return the bytes that a pass may take on every worker.

    What a step needs besides is taken off, as far as none of it exists yet: AdamW's moments, and gradients where
    the engine does not hold their memory from its start.
    """
    free = memory.available(engine.device) - engine.coming_bytes
    least = min(communicator.gather(memory.SHARE * free))
    share = min(1.0, spec.cluster.gpus_per_worker) if engine.device.type == "cuda" else 1 / communicator.world
    return int(least * share)  # workers of one machine, or of one GPU, share it


def _try_pass(spec: TrainSpec, engine: TrainingEngine, data: Data, longest: Rows, tokens: int) -> None:
    """Run forward and backward over the longest pairs, about `tokens` in all, adding zeros to the gradient."""
    rows = (data.table[int(row)] for row in longest)
    count = len(filling(rows, engine.packing, tokens, chosen_only=spec.supervised))
    pairs = [data.table[int(row)] for row in longest[:count]]
    batch = collate(pairs, engine.packing, chosen_only=spec.supervised).to(engine.device)
    engine.backward(torch.nan_to_num(engine(batch)).sum() * 0.0, last=False)


def why_unshared(packing: Packing, table: Table) -> str | None:
    """Return why all or some pairs' tokens are not shared, or None."""
    if packing.why_padded is not None:
        return packing.why_padded
    reasons = []
    if packing.longest is not None:
        lengths_N3 = table.lengths_N3
        count = int((lengths_N3[:, 0] + lengths_N3[:, 1:].max(1) > packing.longest).sum())
        said = (
            f"{count} of {len(table)} pairs are longer than the {packing.longest} tokens that attention reaches alike"
        )
        reasons += [said] if count else []
    if packing.why_repeated is not None:
        reasons.append(f"a prompt whose answers need several passes is computed in each, as {packing.why_repeated}")
    return "; ".join(reasons) or None


def known_budget(spec: TrainSpec) -> int | None:
    """Return the tokens of a forward pass, where the plan names them or they were found by trying."""
    if spec.token_budget is not None:
        return spec.token_budget
    with contextlib.suppress(CorruptError):  # it only makes the advice better
        return (read_sealed(Path(spec.folder) / NAME) or {}).get("token_budget")
    return None
