"""Small cases for `ratchet prove` (a model of 4,000 weights, ten pairs, three updates), and the processes that train
them. For a whole table they live on:
`python tests/support/prove_bench.py RANK WORLD FILE JOBS` trains one after the other.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from ratchet.model.forward import PairScorer, score
from ratchet.plan.cluster import Cluster, DeepSpeed
from ratchet.plan.stage_kinds import STAGE_KINDS, reads_reference
from ratchet.plan.stages import Cpo, Dpo, Dpop, Ipo, Sft
from ratchet.plan.training import Checkpoint, TrainingStage
from ratchet.prove.case import ProvedStep, read_token_pairs, read_trace, recipe_of
from ratchet.prove.compare import Number, compare_traces
from ratchet.prove.recording import recording
from ratchet.train.communicate import Alone, Communicator, Group
from ratchet.train.engine import MakeEngine
from ratchet.train.notice import Ended
from ratchet.train.objective import Reference
from ratchet.train.spec import TrainSpec
from ratchet.train.worker import engine_for
from train_bench import CPU, VOCAB, Pairs, changed, train_whole, write_logps, write_tokens

UPDATES, PAIRS, BATCH = 3, 10, 5
KEYS: dict[str, Any] = {
    "data": ("some",),
    "batch": BATCH,
    "epochs": 4,
    "learning_rate": 1e-3,
    "warmup": 0.25,
    "weight_decay": 0.1,
    "clip": 1.0,
}
STAGES: dict[str, TrainingStage] = {
    "sft": Sft(kind="sft", **KEYS),
    "dpo": Dpo(kind="dpo", beta=0.3, label_smoothing=0.1, **KEYS),
    "dpop inside": Dpop(kind="dpop", beta=0.3, penalty=5.0, **KEYS),
    "dpop outside": Dpop(kind="dpop", beta=0.3, penalty=0.5, penalty_position="outside", **KEYS),
    "ipo": Ipo(kind="ipo", beta=0.3, **{**KEYS, "warmup": 0.0}),
    "ipo of sums": Ipo(kind="ipo", beta=0.3, length_normalised=False, **KEYS),
    "cpo": Cpo(kind="cpo", beta=0.3, nll_weight=0.5, **{**KEYS, "warmup": 0.1, "schedule": "linear"}),
    **{
        f"{kind} of defaults": row.settings.model_validate({"kind": kind, **KEYS})
        for kind, row in STAGE_KINDS.items()
        if row.trains and kind not in {"sft", "dpo", "dpop", "ipo", "cpo"}
    },
    "dpo of adapters": Dpo(kind="dpo", beta=0.3, lora={"rank": 2, "alpha": 8.0}, **KEYS),
}
PRECISIONS = ("float32", "bfloat16")


def small_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


@torch.no_grad()
def scores_of(model: LlamaForCausalLM, table: Pairs) -> Reference:
    scorer = PairScorer(model)
    sides = [score(scorer, [pair], CPU) for pair in table.rows]
    return Reference(*(np.array([float(getattr(side, name)) for side in sides]) for name in ("chosen_B", "rejected_B")))


@dataclasses.dataclass(frozen=True)
class Inputs:
    """A start model, a reference of other weights, tokens, and that reference's scores in each precision."""

    root: Path
    table: Pairs

    def spec(self, name: str, dtype: str, folder: Path, **changes: Any) -> TrainSpec:
        """What the workers are given for a stage."""
        stage = STAGES[name]
        fields: dict[str, Any] = {"references": (str(self.root / f"logps-{dtype}"),) if reads_reference(stage) else ()}
        cluster = Cluster(token_budget=48, gradient_checkpointing=False)
        own = stage.model_copy(update={"checkpoint": Checkpoint(every=1000)})
        start = str(self.root / "start")
        spec = TrainSpec("align", own, str(folder), start, (self.tokens,), (1.0,), cluster, dtype=dtype)
        return changed(spec, **{**fields, **changes})

    @property
    def tokens(self) -> str:
        return str(self.root / "train.arrow")

    def prove(
        self, name: str, dtype: str, folders: Sequence[Path], *, moved: bool = False, **changes: Any
    ) -> list[list[Number]]:
        """What `ratchet prove` says of traces of one case."""
        stage = STAGES[name]
        traces = [read_trace(folder, UPDATES) for folder in folders]
        ids = [[self.table.pair_ids[row] for row in rows] for rows in traces[0].rows]
        pairs = read_token_pairs([Path(self.tokens)], [one for update in ids for one in update], moved=moved)
        reference = self.root / "reference" if reads_reference(stage) else None
        recipe = recipe_of(stage.kind, stage, steps=stage.epochs * -(-PAIRS // BATCH))
        case = ProvedStep(name, recipe, self.root / "start", dtype, reference, dtype, PAIRS, BATCH)
        return compare_traces(dataclasses.replace(case, **changes), pairs, ids, traces)


def write_inputs(root: Path) -> Inputs:
    table = Pairs(PAIRS, seed=2)
    write_tokens(root / "train.arrow", table)
    for name, seed in (("start", 0), ("reference", 1)):
        small_model(seed).save_pretrained(root / name)
    for dtype in PRECISIONS:
        write_logps(root / f"logps-{dtype}", table, scores_of(small_model(1).to(getattr(torch, dtype)), table))
    return Inputs(root, table)


def train(spec: TrainSpec, communicator: Communicator, make: MakeEngine) -> None:
    """Train the first updates and leave the trace in the spec's folder."""
    Path(spec.folder).mkdir(parents=True, exist_ok=True)
    try:
        train_whole(spec, communicator, CPU, recording(make, UPDATES))
    except Ended as end:
        assert end.notice.kind == "known" and end.step == UPDATES
        return
    raise AssertionError("the workers were told to end")


def train_alone(spec: TrainSpec, make: MakeEngine | None = None) -> Path:
    """Train in this process."""
    train(spec, Alone(), make or engine_for(spec))
    return Path(spec.folder)


def train_together(specs: Sequence[TrainSpec], world: int, root: Path) -> None:
    """Train each spec on so many workers: processes that are begun once."""
    jobs = root / f"jobs-{world}.pickle"
    jobs.write_bytes(pickle.dumps(specs))
    command = [sys.executable, "-W", "ignore", __file__]
    paths = [str(root / f"store-{world}"), str(jobs)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [*command, str(rank), str(world), *paths],
            env={**environment, "LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(world)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    told = [process.communicate()[1] for process in running]
    assert not any(process.returncode for process in running), "\n".join(told)


def main(rank: int, world: int, store: str, jobs: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    group = Group(CPU)
    for spec in pickle.loads(Path(jobs).read_bytes()):  # noqa: S301
        train(spec, group, engine_for(spec))
    dist.destroy_process_group()


def outside(numbers: Sequence[Number]) -> set[str]:
    """The names of the numbers that leave their tolerance."""
    return {number.name for number in numbers if not number.ok}


def zero(stage: int, **more: Any) -> Mapping[str, Any]:
    """The changes of a spec that divide the model so far; at 3 also weights as small as these."""
    overrides = {"zero_optimization": {"stage3_param_persistence_threshold": 0}} if stage == 3 else {}
    return {"deepspeed": DeepSpeed(zero=stage, overrides=overrides), **more}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
