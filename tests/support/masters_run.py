"""Engines that go on from float32 masters. As a program: one worker of a gloo group, as in `precision_run`."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from precision_run import Scorer, data, loss_of, passes, rate, spec_at
from ratchet.model.forward import PairScorer
from ratchet.plan.training import Lora
from tiny_models import SMALL
from train_bench import CPU, changed, tiny_model

TINY = {"learning_rate": 1e-5, "warmup": 0.0, "weight_decay": 0.0, "schedule": "constant", "clip": None}
"""A rate whose updates bfloat16 rounds away: its numbers are 2⁻⁸ of a weight apart."""


def engine_of(zero: int, dtype: str, weights: dict[str, torch.Tensor] | None) -> tuple[Any, Any]:
    from ratchet.train.worker import engine_for

    spec = spec_at(zero, dtype, **TINY)
    scorer = PairScorer(tiny_model(dtype=getattr(torch, dtype)))
    if weights is not None:
        scorer.load_state_dict(weights)
    return spec, engine_for(spec)(spec, scorer, CPU)


def one_step(spec: Any, engine: Any, rank: int, world: int) -> None:
    engine.train(True)
    own = passes(2)[rank::world]
    for k, rows in enumerate(own, 1):
        engine.backward(loss_of(spec, Scorer(engine), rows, data()), last=k == len(own))
    norm = engine.finish_gradient()
    engine.step(rate(spec, 0), None if norm is None else float(norm))


def two_steps(zero: int, dtype: str, rank: int, world: int) -> dict[str, Any]:
    """A step, and two further ones in engines that start from it: with its masters, and from its rounded weights."""
    spec, first = engine_of(zero, dtype, None)
    one_step(spec, first, rank, world)
    held = [{"masters": first.float32_weights(), "weights": first.weights()}]
    dist.broadcast_object_list(held, 0)
    masters, weights = held[0]["masters"], held[0]["weights"]
    found: dict[str, Any] = {"masters": masters, "weights": weights}
    for name, read in (("carried", masters.get), ("rounded", lambda name: None)):
        spec, engine = engine_of(zero, dtype, weights)
        engine.carry(read)
        begun = {"masters": engine.float32_weights(), "weights": engine.weights()}
        begun = {kind: {k: v.clone() for k, v in (one or {}).items()} for kind, one in begun.items()}
        one_step(spec, engine, rank, world)
        found[name] = {"begun": begun, "after": engine.float32_weights()}
    return found


def adapters_alone(folder: Path) -> list[str]:
    """The names of a checkpoint's weights, of adapters on a model whose output layer is its embedding."""
    from ratchet.train.gathered import add_adapters
    from ratchet.train.worker import engine_for

    spec = changed(spec_at(1, "bfloat16"), lora=Lora(rank=2))
    model = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)).bfloat16()
    engine = engine_for(spec)(spec, PairScorer(add_adapters(model, spec.stage.lora, 0)), CPU)
    files = engine.save(folder)
    state = next(path for path in files if "model_states" in path.name)
    return sorted(torch.load(state, weights_only=False)["module"])


def by_engines(folder: Path, runs: list[tuple[int, str]], world: int) -> list[Any]:
    """What each run's engines held, from workers of their own; without runs what `adapters_alone` finds."""
    out = folder / f"found-{world}.pt"
    line = json.dumps({"runs": runs, "world": world, "out": str(out)})
    workers = [
        subprocess.Popen([sys.executable, __file__, str(rank), line], stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    said = [worker.communicate()[1] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), "\n".join(said)
    return torch.load(out)  # type: ignore[no-any-return]


def work(rank: int, asked: dict[str, Any]) -> None:
    world, store = asked["world"], f"file://{asked['out']}.store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(minutes=30))
    found: list[Any] = [two_steps(zero, dtype, rank, world) for zero, dtype in asked["runs"]]
    found = found or adapters_alone(Path(asked["out"]).parent / "checkpoint")
    if rank == 0:
        torch.save(found, asked["out"])


if __name__ == "__main__":
    import os

    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": sys.argv[1]}
    work(int(sys.argv[1]), json.loads(sys.argv[2]))
