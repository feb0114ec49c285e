"""Where a plan runs. Nothing here is part of a step's fingerprint, and no result depends on it but for rounding."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ratchet.plan.base import Strict, local, wrong

_OURS = {
    "train_batch_size": "the stage's batch",
    "train_micro_batch_size_per_gpu": "cluster.token_budget",
    "gradient_accumulation_steps": "the stage's batch, cluster.workers and cluster.token_budget",
    "gradient_clipping": "the stage's clip",
    "optimizer": "the stage's learning_rate, weight_decay, betas, epsilon",
    "scheduler": "the stage's schedule and warmup",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "amp": "model.dtype",
    "torch_autocast": "model.dtype",
    "data_types": "model.dtype and the stage's gradients",
    "communication_data_type": "the stage's gradients",
}
"""Keys of DeepSpeed that belong to a key of the plan."""
_CHANGES = "changes results, and a cluster setting must not"
_REFUSED = {
    "compression_training": _CHANGES,
    "data_efficiency": _CHANGES,
    "curriculum_learning": _CHANGES,
    "zero_allow_untested_optimizer": "is decided by Ratchet, which brings its own optimiser",
}
"""Keys of DeepSpeed that no plan may set, and why."""


class DeepSpeed(Strict):
    """How weights, gradients and optimiser state are divided among the workers."""

    # Without DeepSpeed: a plan for one device should not need the package.
    zero: Literal[0, 1, 2, 3] = 0
    """ZeRO stage: 0 copies everything (and needs no DeepSpeed), 1 divides optimiser state, 2 gradients too, 3 weights
    too."""
    offload_optimizer: bool = False
    """Keep optimiser state in CPU memory. Needs zero 1, 2 or 3."""
    offload_parameters: bool = False
    """Keep weights in CPU memory. Needs zero 3."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Raw DeepSpeed configuration, merged last.
    Keys that a stage decides, and some that change results, are refused by name."""

    @model_validator(mode="after")
    def _possible(self) -> DeepSpeed:
        if self.offload_optimizer and self.zero == 0:
            raise wrong("offload_optimizer", "needs zero 1, 2 or 3: stage 0 has nothing to offload", "zero")
        if self.offload_parameters and self.zero != 3:
            raise wrong("offload_parameters", "needs zero 3: only stage 3 divides the weights", "zero")
        for key in self.overrides:
            if key in _OURS:
                raise wrong(f"overrides.{key}", f"is decided by {_OURS[key]}: set that instead")
            if key in _REFUSED:
                raise wrong(f"overrides.{key}", f"{_REFUSED[key]}: leave it out")
        # DeepSpeed merges nested keys, so the stage could come back in through this one.
        nested = self.overrides.get("zero_optimization")
        if isinstance(nested, dict) and "stage" in nested:
            raise wrong("overrides.zero_optimization.stage", "is decided by zero: set that instead")
        if self.overrides and self.zero == 0:
            raise wrong("overrides", "needs zero 1, 2 or 3: stage 0 runs without DeepSpeed", "zero")
        return self


class Ray(Strict):
    """The Ray cluster to use."""

    address: str | None = None
    """Address of a running cluster; `RAY_ADDRESS` counts too. Left out: a local Ray for this run."""
    num_cpus: Annotated[int, Field(ge=1)] | None = None
    """Logical CPUs of a local Ray; left out: what this plan needs, at least the machine's."""
    object_store_mb: Annotated[int, Field(ge=80)] = 200
    """Object store of a local Ray."""
    warm: bool = True
    """Fork workers from a process on each node that has done their imports, instead of starting a Python for each."""

    @property
    def elsewhere(self) -> bool:
        """Whether a Ray is named that need not be the one of the machine that the driver is on."""
        return self.address not in {None, "auto"}


Workers = Annotated[int, Field(ge=1)]


class Cluster(Strict):
    """Workers, devices, memory and paths."""

    workers: Workers | Annotated[tuple[Workers, Workers], Field(strict=False)] = 1
    """Training workers, one process each. `[fewest, most]` trains with as many as there is room for: fewer after a
    node is lost, more at the next checkpoint once there is room. Every size trains on the same batches."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """CPUs that Ray sets aside for each worker."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that Ray sets aside for each worker."""
    token_budget: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"  # noqa: S105  tokens of text
    """Tokens that one forward pass computes, shared ones once; a longer pair has a pass to itself. A prompt whose
    answers need several passes stays across them where that saves time, and may be longer than a pass.
    `auto` tries passes of the longest pairs, and takes what fits into memory and is quicker than smaller passes. Where
    memory runs out all the same, the step goes on once with half as many."""
    sharing: Literal["auto", "prompt", "none"] = "auto"
    """Tokens computed once for all sequences that begin with them: any prefix, prompts alone, or none."""
    deepspeed: DeepSpeed = DeepSpeed()
    """How DeepSpeed divides the model."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Recompute activations in the backward pass: less memory, about a quarter more time.
    `auto` does so where the longest pairs would not fit otherwise."""
    score_actors: Annotated[int, Field(ge=1)] = 1
    """Processes that score the reference."""
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    """GPUs that hold one vLLM engine together; more than 1 only where a model does not fit one GPU."""
    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Times that training may restart from its last checkpoint after a lost worker. Nodes that are taken away with
    notice do not count, and whenever workers regroup at a checkpoint the count starts again."""
    # Below a few seconds, a busy machine alone would look like a lost worker.
    collective_timeout: Annotated[int, Field(ge=5)] = 1800
    """Seconds that a worker waits for the others in one exchange before training restarts, naming who was missing.
    One worker publishes models and divides checkpoints again while the others wait: leave it time for that."""
    storage: str = "outputs"
    """Folder for the store and the runs; every node must see it under the same path."""
    ray: Ray = Ray()
    """The Ray cluster to use."""

    @property
    def fewest_workers(self) -> int:
        """Training workers that there must be room for."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Training workers where there is room for all."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def gpus_per_actor(self) -> float:
        """GPUs of one scoring process, all of one node: those of a vLLM engine where that has more than one."""
        return max(self.gpus_per_worker, self.tensor_parallel if self.tensor_parallel > 1 else 0)

    @model_validator(mode="after")
    def _possible(self) -> Cluster:
        local(self, "storage")
        if self.fewest_workers > self.most_workers:
            raise wrong("workers", f"[{self.fewest_workers}, {self.most_workers}]: the fewest come first")
        if self.tensor_parallel > 1 and not self.gpus_per_worker:
            raise wrong("tensor_parallel", "divides a model among GPUs, and gpus_per_worker is 0", "gpus_per_worker")
        return self
