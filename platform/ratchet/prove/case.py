"""What is proved, and what the trainer left of it: plain data, made from a training spec and read from its folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ratchet.errors import CorruptError
from ratchet.plan.stage_kinds import stage_kind
from ratchet.plan.training import TrainingStage
from ratchet.prove.oracle import Adapters, Pair, Recipe
from ratchet.store.codec import from_values
from ratchet.store.files import storage_errors

ADDITIONS = "additions.json"
_ADAPTED, _ADAPTER = "base_model.model.", ".default.weight"
"""What peft puts before and after a weight's own name."""
_CYCLES = ((1.0, -1.0), (-1.0, 1.0), (1.0, 1.0), (-1.0, -1.0))


@dataclasses.dataclass(frozen=True)
class ProvedStep:
    """One training step to prove: `rows` pairs in all, `batch` of them in an update.

    `model` is the folder that it starts from, `masters` the file of the float32 weights that it carries on, and
    `reference` the folder that its loss is held against, each None where it has none; `dtype` and `reference_dtype`
    are the plan's precisions. `float32_sums` says that gradients are to be added up in float32.
    """

    name: str
    recipe: Recipe
    model: Path
    dtype: str
    reference: Path | None
    reference_dtype: str
    rows: int
    batch: int
    float32_sums: bool = True
    masters: Path | None = None


@dataclasses.dataclass(frozen=True)
class Additions:
    """The factor by which the probe of `recording` made a gradient grow, and by which it should have."""

    found: float
    right: float


@dataclasses.dataclass(frozen=True)
class Trace:
    """What a trainer did, update by update: its metrics, the ids of the pairs it names, and a folder of its weights."""

    folder: Path
    metrics: tuple[Mapping[str, float], ...]
    rows: tuple[tuple[int, ...], ...]
    additions: Additions

    def weights(self, update: int) -> Weights:
        """Return the optimiser's weights after an update (0: before the first)."""
        return Weights(masters_file(self.folder, update))


class Weights:
    """Weights in a file, by the model's own names, read one at a time. Raises CorruptError where it cannot be read."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise CorruptError(f"no weights of the trainer: {error}", where=str(path), fix="prove again") from error
        self._names = {own_name(name): name for name in self._file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118
        self.names = frozenset(self._names)

    def __getitem__(self, name: str) -> Tensor:
        return self._file.get_tensor(self._names[name])  # type: ignore[no-any-return, no-untyped-call]


def masters_file(folder: Path, update: int) -> Path:
    """Return where the weights after an update lie."""
    return folder / f"masters-{update:06d}.safetensors"


def own_name(name: str) -> str:
    """Return a weight's name in the plain model, without what the scorer and peft add to it."""
    return name.removeprefix("model.").removeprefix(_ADAPTED).removesuffix(_ADAPTER)


def read_trace(folder: Path, updates: int) -> Trace:
    """Return what the trainer wrote into a step's folder. Raises CorruptError where an update is missing."""
    lines = {name: list(_lines(folder / f"{name}.jsonl"))[:updates] for name in ("metrics", "ledger")}
    if {len(found) for found in lines.values()} != {updates}:
        raise CorruptError(f"fewer than {updates} updates were written down", where=str(folder), fix="prove again")
    path = folder / ADDITIONS
    values = json.loads(path.read_text(encoding="utf-8"))
    additions = from_values(Additions, values, where=str(path), fix="prove again", error=CorruptError)
    rows = tuple(tuple(line["rows"]) for line in lines["ledger"])
    return Trace(folder, tuple(lines["metrics"]), rows, additions)


def _lines(path: Path) -> Iterator[Any]:
    with storage_errors(path):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def recipe_of(kind: str, stage: TrainingStage, steps: int) -> Recipe:
    """Return what a stage of the plan asks for; `steps` are its updates in all."""
    lora = stage.lora
    return Recipe(
        loss=kind if stage_kind(kind).reads_pairs else None,
        options=stage.model_dump(mode="json"),
        learning_rate=stage.learning_rate,
        schedule=stage.schedule,
        warmup=stage.warmup,
        steps=steps,
        weight_decay=stage.weight_decay,
        decay_all=stage.decay_norms,
        betas=stage.betas,
        epsilon=stage.epsilon,
        clip=stage.clip,
        adapters=Adapters(lora.rank, lora.alpha, lora.targets) if lora else None,
    )


def shift_of(pair_id: str) -> tuple[float, float]:
    """Return by how many nats the reference of a pair's chosen and rejected answer is moved off the loss's kink."""
    return _CYCLES[sum(pair_id.encode()) % len(_CYCLES)]


def read_token_pairs(files: Sequence[Path], ids: Sequence[str], *, moved: bool) -> dict[str, Pair]:
    """Return pairs by id, straight from the token files; of an id in two files, the first. Raises DataError."""
    found: dict[str, Pair] = {}
    wanted = pa.array(sorted(set(ids)), pa.string())
    # So that of an id in two files the first one stays.
    for path in reversed(files):
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            for row in table.filter(pc.is_in(table["pair_id"], value_set=wanted)).to_pylist():
                prompt, chosen, rejected = (tuple(row[side]) for side in ("prompt", "chosen", "rejected"))
                shift = shift_of(row["pair_id"]) if moved else (0.0, 0.0)
                found[row["pair_id"]] = Pair(row["pair_id"], prompt, chosen, rejected, shift)
    return found
