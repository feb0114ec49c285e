"""The door to DeepSpeed: its configuration, its engine, and its checkpoint files.

Import this only where training runs with DeepSpeed, and after `DS_ACCELERATOR` is set.
"""

from __future__ import annotations

import functools
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime import bf16_optimizer
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param
from torch import Tensor

from ratchet.errors import ModelError, RunError, StorageError, TrainingError
from ratchet.model.batch import SequenceBatch
from ratchet.model.forward import PairScorer
from ratchet.model.noise import routes
from ratchet.store.files import storage_errors
from ratchet.train.communicate import limit_waiting
from ratchet.train.engine import Update, drop_weights, save_tensors
from ratchet.train.optimiser import adamw, coming_bytes, no_smaller_scale, trained_by
from ratchet.train.spec import TrainSpec
from ratchet.train.universal import part_groups, to_universal

_TAG = "engine"
_NEVER = 10**9
_CONVERSION_SHARE = 0.95
"""Of the time after which the other workers stop waiting, what a conversion may take."""


def start_deepspeed() -> None:
    """Join DeepSpeed to torch's process group, quietly and without compiling anything."""
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    bf16_optimizer.see_memory_usage = lambda *_, **__: None  # it prints, and collects garbage
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled at each start on a CPU
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)


def config_of(spec: TrainSpec, world: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration of a step on `world` workers; `overrides` are merged last, key by key."""
    settings = spec.cluster.deepspeed
    zero: dict[str, Any] = {"stage": settings.zero}
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": spec.cluster.gpus_per_worker > 0}
    if settings.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": spec.cluster.gpus_per_worker > 0}
    if settings.zero == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    config: dict[str, Any] = {
        # Batches are divided by tokens, and `backward` is told which pass is the last: these three
        # only have to fit each other, and to say that there may be more passes than one.
        "train_batch_size": 2 * world,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": spec.stage.clip or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": _NEVER,
        "wall_clock_breakdown": False,
    }
    if spec.dtype == "bfloat16":
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
    if spec.dtype == "float16":
        config["fp16"] = {"enabled": True, "loss_scale": 0, "initial_scale_power": 12}
    # Left to itself, DeepSpeed adds up in the model's precision: each addition then rounds to 8 bits.
    precision = {"float32": "fp32", "bfloat16": "bf16"}[spec.stage.gradients]
    config |= {"data_types": {"grad_accum_dtype": precision}, "communication_data_type": precision}
    return merged(config, settings.overrides)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid on it, mappings key by key."""
    found = dict(base)
    for key, value in over.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


class DeepSpeedEngine:
    """`train.engine.TrainingEngine` over DeepSpeed: ZeRO 1 to 3, offload, float32, bfloat16, float16.

    DeepSpeed averages gradients over workers and micro-batches; both are undone, so that gradients
    add up. DeepSpeed itself skips the update of a gradient that is not finite. Stage 0 is `TorchEngine`:
    below float32 DeepSpeed's own makes an update while it is built, and adds up gradients in the model's precision
    (deepspeed 0.19.8, runtime/fp16/unfused_optimizer.py:412 and runtime/engine.py:2313).
    """

    def __init__(self, spec: TrainSpec, scorer: PairScorer, device: torch.device) -> None:
        self.device, self.dtype, self.timeout = device, spec.dtype, spec.cluster.collective_timeout
        self.world = torch.distributed.get_world_size()
        self.layout: Mapping[str, Any] = {"engine": "deepspeed", "zero": spec.cluster.deepspeed.zero}
        self.trained_only = spec.stage.lora is not None
        _check_precision(spec)
        found = trained_by(spec, scorer)
        self.coming_bytes = coming_bytes(spec, sum(weight.numel() for weight in found.all), self.world, device.type)
        optimizer = adamw(spec, found.decayed, found.others)
        self.engine, *_ = deepspeed.initialize(
            model=scorer,
            model_parameters=found.all,
            optimizer=optimizer,
            config=config_of(spec, self.world),
            dist_init_required=False,
        )
        limit_waiting(spec.cluster.collective_timeout)  # of DeepSpeed's own groups too
        if any(optimizer.state.values()):
            raise TrainingError(
                "DeepSpeed made an update while it was built, before any gradient",
                where="cluster.deepspeed",
                fix="use the pinned version of deepspeed, or leave out overrides",
            )
        self.packing, self.routes, self.routers = scorer.packing, routes(scorer.causal.config), scorer.routers
        self.files = _Files()
        self.engine.checkpoint_engine = self.files
        self.engine.module_state_dict = functools.partial(_state_of, self.engine)
        self.engine._copy_recovery_script = lambda _folder: None  # it would fail on worker 0 alone on a full disk

    def __call__(self, batch: SequenceBatch, /) -> Tensor:
        return self.engine(batch)  # type: ignore[no-any-return]

    def train(self, on: bool) -> None:
        self.engine.train(on)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self.world, scale_wrt_gas=False)
        if not last:
            self.engine.step()  # between boundaries it only counts

    def finish_gradient(self) -> None:
        """DeepSpeed gives the norm with the update alone."""

    def step(self, learning_rate: float, norm: float | None) -> Update:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        try:
            self.engine.step()
        except Exception as error:  # DeepSpeed raises a bare Exception, on all workers alike
            if "loss scale" not in str(error):
                raise
            raise no_smaller_scale() from error
        found = self.engine.get_global_grad_norm()
        return Update(math.nan if found is None else float(found), bool(self.engine.was_step_applied()))

    def save(self, folder: Path) -> Mapping[Path, str]:
        self.files.begin()
        self.engine.save_checkpoint(
            str(folder), tag=_TAG, save_latest=False, exclude_frozen_parameters=self.trained_only
        )
        return self.files.finish()

    def load(self, folder: Path, workers: int) -> None:
        if workers == self.world:
            self.engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=not self.trained_only)
            return
        if self.trained_only:
            raise RunError(
                f"a checkpoint of adapters by {workers} workers cannot be divided among {self.world}",
                where=str(folder),
                fix=f"go on with cluster.workers: {workers}, or start this step over with --fresh",
            )
        self._load_divided(folder)

    def _load_divided(self, folder: Path) -> None:
        """Load a checkpoint of another count of workers, by way of DeepSpeed's universal layout.

        That layout lies beside the checkpoint under a name that counts as unfinished, and goes at the end.
        """
        universal = folder.parent / f".{folder.name}.universal"
        told: list[str] = [""]
        if torch.distributed.get_rank() == 0:
            shutil.rmtree(universal, ignore_errors=True)
            told = [to_universal(folder / _TAG, universal / _TAG, _CONVERSION_SHARE * self.timeout)]
        torch.distributed.broadcast_object_list(told)
        if told[0]:
            raise (StorageError if "No space left" in told[0] else RunError)(
                f"the checkpoint could not be divided again: {told[0]}",
                where=str(folder),
                fix="free some space if that ran out; or go on with the number of workers that wrote it",
            )
        given = [{key: group[key] for key in group if key != "params"} for group in self.engine.optimizer.param_groups]
        self.engine._config.load_universal_checkpoint = True
        try:
            self.engine.load_checkpoint(str(universal), tag=_TAG)
        finally:
            self.engine._config.load_universal_checkpoint = False
        part_groups(self.engine.optimizer, given)
        torch.distributed.barrier()
        if torch.distributed.get_rank() == 0:
            shutil.rmtree(universal, ignore_errors=True)

    def carry(self, read: Callable[[str], Tensor | None]) -> None:
        for name, weight in self._trained():
            if (found := read(name)) is not None:
                safe_set_full_fp32_param(weight, found.to(self.device))

    def float32_weights(self) -> dict[str, Tensor] | None:
        lead, kept = torch.distributed.get_rank() == 0, {}
        for name, weight in self._trained():
            whole = safe_get_full_fp32_param(weight)  # all workers give their parts
            if lead:
                kept[name] = whole.detach().to("cpu", torch.float32, copy=True)
        return kept if lead else None

    def _trained(self) -> list[tuple[str, Tensor]]:
        return [(name, weight) for name, weight in self.engine.module.named_parameters() if weight.requires_grad]

    def weights(self) -> dict[str, Tensor] | None:
        if self.engine.zero_optimization_stage() == 3:
            found: dict[str, Tensor] | None = self.engine._zero3_consolidated_16bit_state_dict()
            return found
        return self.engine.module.state_dict() if torch.distributed.get_rank() == 0 else None

    def release(self) -> None:
        self.engine.destroy()
        optimizer, self.engine.optimizer = self.engine.optimizer, None
        # It holds the weights in flat buffers of its own, and hooks of theirs hold it.
        vars(optimizer).clear()
        for weight in self.engine.module.parameters():
            if hasattr(weight, "ds_tensor"):
                weight.ds_tensor.data = weight.ds_tensor.data.new_empty(0)
        drop_weights(self.engine.module)


def _state_of(engine: Any, *given: Any, exclude_frozen_parameters: bool = False, **more: Any) -> dict[str, Any]:
    """Return the module's state as DeepSpeed does, without any name of a frozen tied weight."""
    found: dict[str, Any] = type(engine).module_state_dict(engine, *given, **more)
    # Of a frozen tied weight DeepSpeed would leave out one name alone.
    for name, weight in engine.module.named_parameters(remove_duplicate=False):
        if exclude_frozen_parameters and not weight.requires_grad:
            found.pop(name, None)
    return found


class _Files(TorchCheckpointEngine):  # type: ignore[misc]
    """DeepSpeed's way to its files, which here keeps count of them, and of their digests.

    A failed write is kept for `finish`: raised at once, it would leave the other workers waiting in
    the collectives that DeepSpeed still goes through.
    """

    def __init__(self) -> None:
        self.name = "ratchet"
        self.begin()

    def begin(self) -> None:
        self.written: dict[Path, str] = {}
        self.error: StorageError | None = None

    def finish(self) -> dict[Path, str]:
        if self.error is not None:
            raise self.error
        return self.written

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._try(lambda: Path(path).mkdir(parents=True, exist_ok=exist_ok), Path(path))

    def save(self, state_dict: Any, path: str) -> None:
        def write() -> None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.written[Path(path)] = save_tensors(state_dict, Path(path))

        self._try(write, Path(path))

    def _try(self, action: Any, path: Path) -> None:
        try:
            with storage_errors(path):
                action()
        except StorageError as error:
            self.error = self.error or error


def _check_precision(spec: TrainSpec) -> None:
    """Raise ModelError where DeepSpeed cannot train in the model's precision on this device."""
    accelerator = get_accelerator()
    able = {"float16": accelerator.is_fp16_supported, "bfloat16": accelerator.is_bf16_supported}
    if spec.dtype in able and not able[spec.dtype]():
        raise ModelError(
            f"DeepSpeed cannot train in {spec.dtype} on this {accelerator.device_name()}",
            where="model.dtype",
            fix="use bfloat16 or float32",
        )
