"""Everything a training worker needs to know, as plain data that crosses process borders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.model.tree import Sharing
from ratchet.plan.stage_kinds import stage_kind

_PATH_LISTS = ("tokens", "references", "heldout_tokens", "heldout_references", "pair_files")
_PATHS = ("folder", "model", "masters", "rows", "stop_file", "lease")


@dataclasses.dataclass(frozen=True)
class DeepSpeedSettings:
    """How weights, gradients and optimiser state are divided; `overrides` is merged last."""

    zero: int = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters; `targets` names modules, or is ``all-linear``."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] | str = "all-linear"
    quantise: str | None = None


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """A checkpoint every `every` steps and at the end; the newest `keep` and the best stay."""

    every: int = 100
    keep: int = 2
    publish: str = "last"


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """One training step: data, model, loss, optimiser, where it runs and where it writes.

    Every worker must see the paths alike. `package` is what adds the kind of loss, with its version, where it is not
    Ratchet itself. `rows` names a .npy file of int64 indexes into the table
    of `tokens` and `shares`, where a step trains on a part of it, and `rows_sha256` is its digest.
    `references` are the folders that hold the reference's log-probabilities, joined by pair id;
    `sft` and `cpo` may have none. `pair_files` are the tables of pairs, which name the rows that
    pairs come from, for errors. `batch` is in pairs over all workers, `token_budget` in tokens
    that one forward pass of one worker computes (None: found by trying), `sharing` how far these
    are shared. `shuffle` of ``prompts`` keeps the pairs of a prompt together.
    `gradient_checkpointing` of None recomputes activations where a pass of the longest pairs would
    not fit otherwise. `starts_at_reference` says that policy and reference are the same weights at
    step 1, so that every log-ratio must be 0 there. `chat_template` is the text of the template
    that the plan gave in place of the tokenizer's own, to go along with the model.
    `masters` is the file of the start model's float32 masters and `masters_digest` its SHA-256; with `keep_masters`
    the step leaves its own behind, for those that start from it. `first_loss` is how far the first loss may be off
    ln 2, where that is what it should be. `skip_nonfinite` steps of a hundred may be skipped where a number is not
    finite. `workers` are the most that there may be, `fewest_workers` (None: as many) those without which training
    waits. `collective_timeout` is in seconds. `gpus_per_worker` of 0 trains on the CPU. `recipe` are further rows of
    the model card. `lease` is the folder of the driver's lease on the run and `generation` what it took: workers of
    a driver that another one has displaced do not begin.
    """

    step: str
    kind: str
    folder: str
    model: str
    tokens: tuple[str, ...]
    shares: tuple[float, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    package: str | None = None
    dtype: str = "float32"
    trust_remote_code: bool = False
    chat_template: str | None = None
    masters: str | None = None
    masters_digest: str | None = None
    keep_masters: bool = False
    rows: str | None = None
    rows_sha256: str | None = None
    references: tuple[str, ...] = ()
    heldout_tokens: tuple[str, ...] = ()
    heldout_references: tuple[str, ...] = ()
    pair_files: tuple[str, ...] = ()
    heldout_rows: int = 256
    starts_at_reference: bool = False
    reference_noise: float = 0.0
    first_loss: float = 0.1
    epochs: int = 1
    max_steps: int | None = None
    batch: int = 32
    shuffle: str = "pairs"
    token_budget: int | None = None
    sharing: Sharing = "auto"
    workers: int = 1
    fewest_workers: int | None = None
    collective_timeout: int = 1800
    learning_rate: float = 5e-7
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    decay_norms: bool = False
    gradients: str = "float32"
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    clip: float | None = 1.0
    skip_nonfinite: int = 0
    seed: int = 0
    gradient_checkpointing: bool | None = None
    gpus_per_worker: float = 0.0
    deepspeed: DeepSpeedSettings = DeepSpeedSettings()
    lora: LoraSettings | None = None
    checkpoint: CheckpointSettings = CheckpointSettings()
    track: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recipe: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stop_file: str | None = None
    lease: str | None = None
    generation: int = 0

    @property
    def beta(self) -> float:
        """β of the loss; 0 where the kind has none."""
        return float(self.options.get("beta", 0.0))

    @property
    def supervised(self) -> bool:
        """Whether the loss is over answer tokens rather than over pairs."""
        return stage_kind(self.kind).supervised

    def absolute(self) -> TrainSpec:
        """Return the spec with absolute paths: workers do not run in the driver's folder."""

        def here(path: str | None) -> str | None:
            return None if path is None else str(Path(path).absolute())

        changed: dict[str, Any] = {key: here(getattr(self, key)) for key in _PATHS}
        changed |= {key: tuple(map(here, getattr(self, key))) for key in _PATH_LISTS}
        return dataclasses.replace(self, **changed)

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON types; `from_dict` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrainSpec:
        """Return the spec that `to_dict` gave, also after JSON. Raises TypeError on an unknown field."""
        made = dict(fields)
        for key in (*_PATH_LISTS, "shares", "betas"):
            if key in made:
                made[key] = tuple(made[key])
        for key, kind in (("deepspeed", DeepSpeedSettings), ("checkpoint", CheckpointSettings)):
            if key in made:
                made[key] = kind(**made[key])
        if made.get("lora") is not None:
            targets = made["lora"].get("targets", "all-linear")
            made["lora"] = LoraSettings(
                **{**made["lora"], "targets": targets if isinstance(targets, str) else tuple(targets)}
            )
        return cls(**made)
