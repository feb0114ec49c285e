"""A tiny model and made-up pairs for the training tests; no files but what a test asks for."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ratchet.model.forward import PairScorer, score
from ratchet.model.load import keep_rotary_in_float32
from ratchet.pairs.pair import TokenisedPair
from ratchet.pairs.table import SCHEMA, SIDES
from ratchet.plan.cluster import Cluster
from ratchet.plan.stage_kinds import stage_kind
from ratchet.plan.stages import Dpo
from ratchet.plan.training import Checkpoint, TrainingStage
from ratchet.reference.store import Logps, write_block
from ratchet.track.jsonl import open_tracker
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.communicate import Alone, Communicator
from ratchet.train.engine import MakeEngine, TorchEngine
from ratchet.train.ledger import Ledger
from ratchet.train.loop import Parts, Result, run
from ratchet.train.notice import read_notice
from ratchet.train.objective import Data, Reference
from ratchet.train.spec import TrainSpec
from ratchet.train.worker import begin_step, finish_step

CPU = torch.device("cpu")
VOCAB = 64
torch.set_num_threads(1)  # tiny tensors: a second thread only waits


SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(**SIZES, max_position_embeddings=64)
    model = LlamaForCausalLM(config).to(dtype)
    keep_rotary_in_float32(model)  # as loading does; to() rounds its frequencies
    return model


class Pairs:
    """A table in memory. The chosen answers prefer even tokens, so that there is something to learn."""

    def __init__(self, n: int, seed: int = 0, demonstrations: bool = False) -> None:
        draw = np.random.default_rng(seed)
        self.rows = []
        for i in range(n):
            prompt = draw.integers(3, VOCAB, draw.integers(3, 9)).astype(np.int32)
            chosen = (draw.integers(2, VOCAB // 2, draw.integers(2, 9)) * 2).astype(np.int32)
            rejected = (draw.integers(1, VOCAB // 2, 0 if demonstrations else draw.integers(2, 9)) * 2 + 1).astype(
                np.int32
            )
            self.rows.append(TokenisedPair(f"pair-{seed}-{i:04d}", prompt, chosen, rejected))
        self.pair_ids = [pair.pair_id for pair in self.rows]
        self.repeats, self.file_of_N = None, np.zeros(n, np.int32)
        self.prompt_of_N: npt.NDArray[np.int64] = np.arange(n, dtype=np.int64)
        lengths = [(len(pair.prompt), len(pair.chosen), len(pair.rejected)) for pair in self.rows]
        self.lengths_N3: npt.NDArray[np.int32] = np.array(lengths, dtype=np.int32)

    def together_of_N(self, *, prompts: bool) -> npt.NDArray[np.int64] | None:
        return self.prompt_of_N if prompts else None

    def pair_id(self, index: int) -> str:
        return self.pair_ids[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenisedPair:
        return self.rows[index]


@torch.no_grad()
def reference_of(model: LlamaForCausalLM, table: Pairs) -> Reference:
    """Scores one pair at a time: other shapes than training's, the same numbers up to rounding."""
    scorer = PairScorer(model)
    sides = [score(scorer, [pair], CPU) for pair in table.rows]
    return Reference(
        np.array([float(side.chosen_B) for side in sides]), np.array([float(side.rejected_B) for side in sides])
    )


def spec_of(folder: Path, **changes: Any) -> TrainSpec:
    """DPO over 22 pairs in batches of 8: 3 steps an epoch, the last of 6 pairs."""
    stage = Dpo(
        kind="dpo",
        data=("pairs",),
        beta=0.5,
        epochs=4,
        batch=8,
        learning_rate=3e-3,
        warmup=0.0,
        checkpoint=Checkpoint(every=4, keep=2),
    )
    cluster = Cluster(token_budget=96, gradient_checkpointing=False)
    spec = TrainSpec("align", stage, str(folder), "", (), (), cluster, starts_at_reference=True)
    return changed(spec, **changes)


def changed(spec: TrainSpec, **changes: Any) -> TrainSpec:
    """Return a spec with other values: its own, or those of its stage and cluster by their keys.

    `kind` makes it another stage with the keys that all kinds share; of `options` that kind takes those that it has.
    """
    own = {field.name for field in dataclasses.fields(TrainSpec)} - {"options"}
    stage = stage_of(spec.stage, changes.pop("kind", spec.stage.kind), changes.pop("options", None))
    keys = {key: value for key, value in changes.items() if key in type(stage).model_fields}
    rest = {key: value for key, value in changes.items() if key not in own | keys.keys()}
    for key in ("token_budget", "gradient_checkpointing"):
        if key in rest and rest[key] is None:
            rest[key] = "auto"
    if "fewest_workers" in rest:
        rest["workers"] = rest.pop("fewest_workers"), rest["workers"]
    assert rest.keys() <= Cluster.model_fields.keys(), rest
    return dataclasses.replace(
        spec,
        stage=stage.model_copy(update=keys),
        cluster=spec.cluster.model_copy(update=rest),
        **{key: value for key, value in changes.items() if key in own},
    )


def stage_of(stage: TrainingStage, kind: str, options: Mapping[str, Any] | None) -> TrainingStage:
    """Return a stage of another kind, or with other options, and the keys that all kinds share."""
    if kind == stage.kind and options is None:
        return stage
    shared = stage.model_dump(include=set(TrainingStage.model_fields))
    settings: Any = stage_kind(kind).settings
    taken = {key: value for key, value in (options or {}).items() if key in settings.model_fields}
    made: TrainingStage = settings.model_validate({**shared, **taken, "kind": kind})
    return made


@dataclasses.dataclass
class Bench:
    """What a run leaves behind."""

    engine: TorchEngine
    checkpoints: Checkpoints
    result: Result | None
    resumed: int


def train(spec: TrainSpec, data: Data, *, heldout: Data | None = None, model_seed: int = 0) -> Bench:
    """Run the loop as a worker does: claim the folder, go on from the newest good checkpoint, to the end."""
    folder = Path(spec.folder)
    engine = TorchEngine(spec, PairScorer(tiny_model(model_seed)), CPU)
    engine.train(True)
    checkpoints = Checkpoints(folder, Alone(), spec.stage.checkpoint.keep)
    found = checkpoints.newest()
    after = found.step if found else 0
    if found:
        engine.load(found.path, 1)
    parts = Parts(
        engine=engine,
        data=data,
        heldout=heldout,
        token_budget=spec.token_budget or 96,
        communicator=Alone(),
        checkpoints=checkpoints,
        tracker=open_tracker(folder, None, after),
        ledger=Ledger(folder / "ledger.jsonl", after),
        told=functools.partial(read_notice, folder, spec.stop_file),
    )
    try:
        return Bench(engine, checkpoints, run(spec, parts, found), after)
    finally:
        assert parts.tracker is not None and parts.ledger is not None
        parts.tracker.close()
        parts.ledger.close()


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The same without the rates: what two runs of the same step agree on."""
    return [{key: value for key, value in line.items() if "per_second" not in key} for line in lines_of(folder)]


def weights_of(engine: TorchEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.scorer.state_dict().items()}


def state_of(engine: TorchEngine) -> list[torch.Tensor]:
    """Weights and both Adam moments, in a fixed order."""
    moments = [
        tensor
        for entry in engine.optimizer.state_dict()["state"].values()
        for tensor in entry.values()
        if isinstance(tensor, torch.Tensor)
    ]
    return [*weights_of(engine).values(), *(tensor.clone() for tensor in moments)]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    """Equal bit for bit."""
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def flip(path: Path) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def write_tokens(path: Path, pairs: Pairs) -> None:
    """As the tokens step writes them."""
    columns = [
        pairs.pair_ids,
        pairs.pair_ids,
        *([getattr(pair, side) for pair in pairs.rows] for side in SIDES),
        np.zeros(len(pairs), np.float32),
        [None] * len(pairs),
    ]
    table = pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA)
    with pa.ipc.new_file(str(path), SCHEMA) as file:
        file.write_table(table)


def write_logps(folder: Path, pairs: Pairs, reference: Reference) -> None:
    folder.mkdir()
    lengths_N3 = pairs.lengths_N3
    write_block(
        folder, 0, pairs.pair_ids, Logps(reference.chosen_N, reference.rejected_N, lengths_N3[:, 1], lengths_N3[:, 2])
    )


def write_inputs(root: Path, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """A model folder, token files and reference scores; the spec's fields that name them."""
    model = tiny_model(dtype=dtype)
    model.save_pretrained(root / "start")
    train_pairs, heldout = Pairs(22), Pairs(9, seed=5)
    write_tokens(root / "train.arrow", train_pairs)
    write_tokens(root / "heldout.arrow", heldout)
    write_logps(root / "logps", train_pairs, reference_of(model, train_pairs))
    write_logps(root / "logps-heldout", heldout, reference_of(model, heldout))
    return {
        "model": str(root / "start"),
        "tokens": (str(root / "train.arrow"),),
        "shares": (1.0,),
        "references": (str(root / "logps"),),
        "heldout_tokens": (str(root / "heldout.arrow"),),
        "heldout_references": (str(root / "logps-heldout"),),
    }


def train_whole(spec: TrainSpec, communicator: Communicator, device: torch.device, make: MakeEngine) -> dict[str, Any]:
    """One step from its spec to the published model, as a worker trains it."""
    step = begin_step(spec, communicator, device, make)
    with step.books:
        trained = run(spec, step.parts, step.resumed)
    return finish_step(spec, step, trained)


def engine_and_data(tmp_path: Path, **changes: Any) -> tuple[Any, TorchEngine, Data]:
    spec = spec_of(tmp_path, **changes)
    engine = TorchEngine(spec, PairScorer(tiny_model()), CPU)
    table = Pairs(22)
    return spec, engine, Data(table, reference_of(tiny_model(), table))
