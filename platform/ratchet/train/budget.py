"""How many tokens a forward pass may compute, as given or found by trying.

What is found is written down beside the checkpoints, so that a run that goes on divides its batches
as before, bit for bit.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ratchet.documents.events import Event, events_of, write_event
from ratchet.errors import CorruptError
from ratchet.model import memory
from ratchet.model.batch import Packing, collate
from ratchet.model.divide import Rows, filling
from ratchet.store.files import read_sealed, write_sealed
from ratchet.store.machine import gib
from ratchet.train.communicate import Communicator, agree
from ratchet.train.engine import TrainingEngine
from ratchet.train.objective import Data, Table
from ratchet.train.spec import TrainSpec

_log = logging.getLogger(__name__)
NAME = "budget.json"
_HALVED = "halved"
_TURNS = {"budget-halved", "group-began", "group-went-on"}


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
    tried: dict[int, tuple[int, float]] = {}

    def pass_of(tokens: int) -> tuple[int, float]:
        """Return the bytes and seconds of a pass, on the worker that takes most; each is tried once."""
        if tokens not in tried:
            clock = time.monotonic()
            taken = memory.taken_by(lambda: _try_pass(spec, engine, data, longest, tokens), engine.device)
            told = communicator.gather((taken, time.monotonic() - clock))
            tried[tokens] = max(size for size, _ in told), max(seconds for _, seconds in told)
        return tried[tokens]

    needs = spec.gradient_checkpointing is None and pass_of(spec.token_budget or memory.FIRST)[0] > free
    if needs:
        recompute()
        tried.clear()
    found = spec.token_budget or memory.largest_budget(
        lambda tokens: pass_of(tokens)[0], free, engine.device, lambda tokens: pass_of(tokens)[1]
    )
    line = {"token_budget": found, "recompute": needs, "asked": _asked(spec, communicator)}

    def write() -> None:
        if communicator.rank == 0:
            write_sealed(path, line)
        if communicator.rank == 0 and spec.token_budget is None:
            said = _in_words(found, needs, free, engine, tried)
            write_event(Path(spec.folder), Event(code="budget-found", what=said))

    agree(communicator, write)
    memory.trim(engine.device)
    return found


def _in_words(
    found: int, recompute: bool, free: int, engine: TrainingEngine, tried: Mapping[int, tuple[int, float]]
) -> str:
    """Say what a pass may take, and what the largest one that was tried and fits took."""
    largest = max(tokens for tokens in tried if tokens <= found)
    size, seconds = tried[largest]
    again = "activations are computed twice; " if recompute else ""
    return (
        f"token_budget {found:,}: {again}a pass of {largest:,} tokens took {gib(size)} and {seconds:.1f} s; a worker "
        f"may take {gib(max(0, free))} for one, and {gib(engine.coming_bytes)} besides in its first update"
    )


def goes_on(spec: TrainSpec, why: str) -> bool:
    """Whether a step whose workers ran out of memory begins again, with half as many tokens in a pass."""
    if halve(spec, why):
        return True
    codes = [event.code for event in events_of(Path(spec.folder))]
    # A worker may have halved it as it failed.
    return next((code for code in reversed(codes) if code in _TURNS), None) == "budget-halved"


def halve(spec: TrainSpec, why: str) -> bool:
    """Let the passes of a step have half as many tokens from now on, once; tell whether they do.

    Only where the tokens were found by trying: what a plan says stays. Raises StorageError.
    """
    path, found = Path(spec.folder) / NAME, None
    with contextlib.suppress(CorruptError):
        found = read_sealed(path)
    if spec.token_budget is not None or found is None or found.get(_HALVED) or found["token_budget"] < 2:
        return False
    half = found["token_budget"] // 2
    found |= {"token_budget": half, _HALVED: True}
    write_sealed(path, found)
    said = f"{why}; once more with half as many tokens in a pass: {half:,}"
    write_event(Path(spec.folder), Event(code="budget-halved", what=said))
    return True


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
    parts = engine(batch), engine.routers.take().chances_X  # what a router loss keeps of each token takes room, too
    total = torch.stack([torch.nan_to_num(part).sum() for part in parts]).sum()
    engine.backward(total * 0.0, last=False)


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
