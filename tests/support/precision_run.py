"""Three steps by the engines of a process group, and by an AdamW in float64 that is written out here.

As a program: one worker of a gloo group, which writes what each engine's masters are after each step.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ratchet.model.batch import collate
from ratchet.model.divide import Micro
from ratchet.model.forward import PairScorer
from ratchet.plan.cluster import DeepSpeed
from ratchet.train.objective import Data, answer_logps, loss_function, prepare
from ratchet.train.optimiser import learning_rate
from ratchet.train.spec import TrainSpec
from train_bench import CPU, Pairs, reference_of, spec_of, tiny_model

STEPS, BATCH, PEAK = 3, 64, 1e-3
TABLE = Pairs(BATCH)
THREE = {"stage3_param_persistence_threshold": 0}


def spec_at(zero: int, dtype: str, **changes: Any) -> TrainSpec:
    """Warmed up over two steps, decayed and clipped: whatever could happen while an engine is made shows."""
    made = {"learning_rate": PEAK, "warmup": 0.5, "weight_decay": 0.1, "clip": 1.0, "starts_at_reference": False}
    settings = DeepSpeed(zero=zero, overrides={"zero_optimization": THREE} if zero == 3 else {})
    return spec_of(Path("unused"), dtype=dtype, deepspeed=settings, **{**made, **changes})


@functools.cache
def data() -> Data:
    """Another model is the reference, so that every pair has a weight of its own."""
    return Data(TABLE, reference_of(tiny_model(1), TABLE))


def passes(count: int) -> list[np.ndarray]:
    """The rows of a step's forward passes; every step has the same batch."""
    return np.array_split(np.arange(BATCH), count)


def rate(spec: TrainSpec, step: int) -> float:
    return learning_rate(spec.stage.schedule, spec.stage.learning_rate, step + 1, STEPS, spec.stage.warmup)


def loss_of(spec: TrainSpec, scorer: Any, rows: np.ndarray, held: Data) -> torch.Tensor:
    """A pass's share of the mean over the batch."""
    batch = collate([held.table[int(row)] for row in rows], scorer.packing)
    work = prepare(spec, held, Micro(rows, 1.0), batch).to(CPU)
    return loss_function(spec)(answer_logps(scorer, work)).sum() / BATCH


def by_hand(spec: TrainSpec, count: int, steps: int = STEPS) -> list[dict[str, torch.Tensor]]:
    """Masters after each step: gradients of a model rounded to `spec.dtype`, all else in float64 (Loshchilov 2019)."""
    model = tiny_model(dtype=getattr(torch, spec.dtype))
    scorer, held = PairScorer(model), data()
    names = dict(model.named_parameters())
    masters = {name: weight.detach().double() for name, weight in names.items()}
    moments = {name: [torch.zeros_like(master), torch.zeros_like(master)] for name, master in masters.items()}
    first, second = spec.stage.betas
    found = []
    for step in range(steps):
        summed = {name: torch.zeros_like(master) for name, master in masters.items()}
        for rows in passes(count):
            grads = torch.autograd.grad(loss_of(spec, scorer, rows, held), list(names.values()))
            for name, grad in zip(names, grads, strict=True):
                summed[name] += grad.double()
        norm = float(sum(grad.square().sum() for grad in summed.values())) ** 0.5
        scale = min(1.0, spec.stage.clip / (norm + 1e-6)) if spec.stage.clip else 1.0
        for name, master in masters.items():
            grad, (mean, square) = summed[name] * scale, moments[name]
            mean.mul_(first).add_(grad, alpha=1 - first)
            square.mul_(second).add_(grad.square(), alpha=1 - second)
            decay = spec.stage.weight_decay if "norm" not in name or spec.stage.decay_norms else 0.0
            master.mul_(1 - rate(spec, step) * decay)
            corrected = (square / (1 - second ** (step + 1))).sqrt() + spec.stage.epsilon
            master.sub_(rate(spec, step) * mean / (1 - first ** (step + 1)) / corrected)
            names[name].data.copy_(master)
        found.append({name: master.clone() for name, master in masters.items()})
    return found


def masters_of(engine: Any) -> dict[str, torch.Tensor]:
    """The engine's masters by name, whole, on every worker."""
    if hasattr(engine, "masters"):
        named = [(name, weight) for name, weight in engine.scorer.model.named_parameters()]
        places = {id(weight): master for weight, master in zip(engine.trained, engine.masters, strict=True)}
        return {name: places[id(weight)].detach().clone() for name, weight in named}
    from deepspeed.utils import safe_get_full_fp32_param

    named = list(engine.engine.module.model.named_parameters())
    return {name: safe_get_full_fp32_param(weight).clone() for name, weight in named}


def steps_of(rank: int, world: int, one: dict[str, Any]) -> list[dict[str, Any]]:
    """What one engine makes of the batches: norm and masters after each step, and before any."""
    from ratchet.train.worker import engine_for

    spec = spec_at(one["zero"], one["dtype"], **one["changes"])
    scorer = PairScorer(tiny_model(dtype=getattr(torch, spec.dtype)))
    engine, held = engine_for(spec)(spec, scorer, CPU), data()
    engine.train(True)
    if one["load"]:
        engine.load(Path(one["load"]), one["written_by"])
    found = [{"norm": 0.0, "masters": masters_of(engine)}]
    for step in range(one["after"], one["after"] + one["steps"]):
        own = passes(one["passes"])[rank::world]
        for k, rows in enumerate(own, 1):
            engine.backward(loss_of(spec, Scorer(engine), rows, held), last=k == len(own))
        norm = engine.finish_gradient()
        done = engine.step(rate(spec, step), None if norm is None else float(norm))
        found.append({"norm": done.grad_norm, "masters": masters_of(engine)})
        if one["save"]:
            engine.save(Path(one["save"]))
            dist.barrier()
    return found


def work(rank: int, asked: dict[str, Any]) -> None:
    """Make all the runs, one after the other, and write what came of them."""
    world, store = asked["world"], f"file://{asked['out']}.store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(minutes=30))
    found = [steps_of(rank, world, one) for one in asked["runs"]]
    if rank == 0:
        torch.save(found, asked["out"])


class Scorer:
    def __init__(self, engine: Any) -> None:
        self.engine, self.packing = engine, engine.packing

    def __call__(self, batch: Any) -> torch.Tensor:
        return self.engine(batch)


def asked(zero: int, dtype: str, passes: int = 2, steps: int = STEPS, **changes: Any) -> dict[str, Any]:
    files = {"after": 0, "save": "", "load": "", "written_by": 0}
    return {"zero": zero, "dtype": dtype, "passes": passes, "steps": steps, "changes": changes, **files}


def by_engines(folder: Path, runs: list[dict[str, Any]], world: int = 1) -> list[list[dict[str, Any]]]:
    """Each run's norm and masters, before its first step and after each, from workers of their own."""
    out = folder / "found.pt"
    line = json.dumps({"runs": runs, "world": world, "out": str(out)})
    workers = [
        subprocess.Popen([sys.executable, __file__, str(rank), line], stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    said = [worker.communicate()[1] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), "\n".join(said)
    return torch.load(out)  # type: ignore[no-any-return]


if __name__ == "__main__":
    import os

    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": sys.argv[1]}
    work(int(sys.argv[1]), json.loads(sys.argv[2]))
