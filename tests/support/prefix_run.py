"""A hundred answers to one prompt as one batch, by any engine, in passes of any size.

As a program: one worker of a gloo group, as in `precision_run`.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from precision_run import masters_of, spec_at
from ratchet.model.forward import PairScorer
from ratchet.pairs.pair import TokenisedPair
from ratchet.train.batches import GlobalBatch
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.communicate import Alone, Communicator
from ratchet.train.loop import Parts, Tally, accumulate, works_of
from ratchet.train.objective import Data, Work
from ratchet.train.spec import TrainSpec
from train_bench import CPU, VOCAB, Pairs, reference_of, tiny_model

WHOLE, TENTH = 4096, 52
"""Tokens of a pass: more than all take together, and a tenth of what they take. The prompt has 40."""
PAIRS = 51


def hundred_answers() -> Data:
    """A hundred answers to one prompt of 40 tokens, and a pair of another prompt."""
    table, draw = Pairs(PAIRS), np.random.default_rng(5)
    prompt = draw.integers(3, VOCAB, 40).astype(np.int32)
    table.rows[:50] = [TokenisedPair(pair.pair_id, prompt, pair.chosen, pair.rejected) for pair in table.rows[:50]]
    table.lengths_N3[:50, 0] = 40
    # Another model is the reference: the log-ratios, and so the weights of the pairs, differ.
    return Data(table, reference_of(tiny_model(1), table))


class Worker(Alone):
    """One of several workers, whose gradients the engines or the test add up."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world


def accumulated(
    spec: TrainSpec, engine: Any, data: Data, communicator: Communicator, step: int = 2
) -> tuple[list[Work], Tally]:
    """One worker's passes over all pairs as one batch, and its sums."""
    budget = spec.token_budget
    assert budget is not None
    parts = Parts(engine, data, None, budget, communicator, Checkpoints(Path(spec.folder), Alone(), 1), None, None)
    rows = np.arange(PAIRS)
    works = works_of(spec, parts, rows)
    return works, accumulate(spec, parts, GlobalBatch(step, 1, rows, 0.0), works)


def step_by(rank: int, world: int, one: dict[str, Any]) -> dict[str, Any]:
    """One step: its gradient's norm, how far it moved the masters, its passes' roles, and the loss of this worker."""
    from ratchet.train.scorer import recompute_activations
    from ratchet.train.worker import engine_for

    spec = spec_at(one["zero"], "float32", workers=world, token_budget=one["budget"], **one["changes"])
    spec = dataclasses.replace(spec, folder=one["folder"])
    model = tiny_model()
    if one["recompute"]:
        recompute_activations(model)
    engine = engine_for(spec)(spec, PairScorer(model), CPU)
    engine.train(True)
    before = masters_of(engine)
    works, tally = accumulated(spec, engine, hundred_answers(), Worker(rank, world))
    norm = engine.finish_gradient()
    done = engine.step(spec.stage.learning_rate, None if norm is None else float(norm))
    after = masters_of(engine)
    moved = torch.cat([(after[name] - before[name]).flatten() for name in sorted(after)])
    roles = [work.role for work in works]
    return {"norm": done.grad_norm, "moved": moved, "roles": roles, "loss": float(tally.sums[0])}


def work_all(rank: int, asked: dict[str, Any]) -> None:
    """Make all the runs, one after the other, and write what this worker saw of them."""
    world, store = asked["world"], f"file://{asked['out']}.store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(minutes=30))
    torch.save([step_by(rank, world, one) for one in asked["runs"]], f"{asked['out']}.{rank}")


def by_workers(folder: Path, runs: list[dict[str, Any]], world: int) -> list[list[dict[str, Any]]]:
    """What each worker saw of each run."""
    line = json.dumps({"runs": runs, "world": world, "out": str(folder / "found")})
    workers = [
        subprocess.Popen([sys.executable, __file__, str(rank), line], stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    said = [worker.communicate()[1] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), "\n".join(said)
    return [torch.load(folder / f"found.{rank}") for rank in range(world)]


if __name__ == "__main__":
    import os

    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": sys.argv[1]}
    work_all(int(sys.argv[1]), json.loads(sys.argv[2]))
