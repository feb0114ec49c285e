"""What training asks of an engine, and the plain one: torch alone, in one process or in several alike.

An engine ADDS UP gradients: `backward` takes this worker's share of the global batch's mean loss, and
the update is made from the sum over micro-batches and workers. Whatever averaging a library does on
its own is undone inside its engine.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import torch
import torch.distributed
from torch import Tensor

from ratchet.model.batch import Packing, SequenceBatch
from ratchet.model.forward import PairScorer
from ratchet.model.load import DTYPES
from ratchet.model.noise import routes
from ratchet.model.routing import Routers
from ratchet.store.files import storage_errors
from ratchet.train.optimiser import LossScale, adamw, trained_by
from ratchet.train.spec import TrainSpec

_FULL = {torch.float32, torch.float64}
"""Precisions in which the optimiser works on the weights themselves."""
_EXCHANGE = 2**28
"""Elements of the gradient that workers add up in one exchange."""


@dataclasses.dataclass(frozen=True)
class Update:
    """`grad_norm` is over all workers, before clipping; without `applied` the weights are as before."""

    grad_norm: float
    applied: bool


class TrainingEngine(Protocol):
    """A model with its optimiser. Its methods are for all workers together."""

    device: torch.device
    layout: Mapping[str, Any]
    """What a checkpoint of this engine can only be loaded with again, such as the ZeRO stage."""

    packing: Packing
    """How the model's sequences are laid out."""
    routes: bool
    """Whether the model has experts."""
    routers: Routers
    """What hears where tokens go."""

    @property
    def coming_bytes(self) -> int:
        """Bytes that the first updates will take on the device, besides passes: nothing holds them before."""

    def __call__(self, batch: SequenceBatch, /) -> Tensor:
        """Return the answers' summed log-probabilities, shape (S,)."""

    def train(self, on: bool) -> None:
        """Turn dropout on or off."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradient; `last` says that the update comes next."""

    def finish_gradient(self) -> Tensor | None:
        """Return the whole gradient's norm over all workers, on the device; None where only the update tells."""

    def step(self, learning_rate: float, norm: float | None) -> Update:
        """Update the weights from the summed gradient, and clear it; a norm that is not finite updates nothing.

        `norm` is what `finish_gradient` gave.
        """

    def save(self, folder: Path) -> Mapping[Path, str]:
        """Write this worker's files of a checkpoint, and return them with the SHA-256 of their bytes, in hex."""

    def load(self, folder: Path, workers: int) -> None:
        """Continue from what `save` wrote under `workers` workers."""

    def carry(self, read: Callable[[str], Tensor | None]) -> None:
        """Take float32 masters, by the scorer's names, which round to the weights that the engine has."""

    def float32_weights(self) -> dict[str, Tensor] | None:
        """Return the trained weights as the optimiser has them, on the CPU of worker 0; None on the others."""

    def weights(self) -> dict[str, Tensor] | None:
        """Return the whole scorer's state dict on worker 0, None on the others."""

    def release(self) -> None:
        """Give weights, gradients and optimiser state back; only `device` is left. No collective."""


MakeEngine = Callable[[TrainSpec, PairScorer, torch.device], TrainingEngine]


class TorchEngine:
    """Plain torch: each worker holds all weights, gradients and optimiser state (DeepSpeed would call it ZeRO 0).

    Below float32 the optimiser works on float32 copies of the weights. Gradients are added up, over passes
    and workers, in one buffer of the precision that the stage asks for; a weight that no pass reaches has
    gradient 0 there, as with ZeRO 1 to 3. Nothing is updated before the first step.
    """

    def __init__(self, spec: TrainSpec, scorer: PairScorer, device: torch.device) -> None:
        self.device, self.clip = device, spec.stage.clip
        self.world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        self.first = self.world == 1 or torch.distributed.get_rank() == 0
        self.layout: Mapping[str, Any] = {"engine": "torch", "zero": 0}
        self.scorer, self.packing = scorer.to(device), scorer.packing
        self.routes, self.routers = routes(scorer.causal.config), scorer.routers
        found = trained_by(spec, scorer)
        self.trained = found.all
        if self.world > 1:
            for weight in self.trained:  # adapters are drawn by each worker
                torch.distributed.broadcast(weight.data, 0)
        self.masters: Sequence[Tensor] = [
            weight if weight.dtype in _FULL else weight.detach().float().clone() for weight in self.trained
        ]
        self.scale = LossScale() if spec.dtype == "float16" else None
        self.gradient = self._room(DTYPES[spec.stage.gradients])
        self.sums = _views(self.gradient, self.trained)
        self.begun = [False] * len(self.trained)
        """Whether each sum holds something of the coming update; otherwise it is still that of the last one."""
        for k, weight in enumerate(self.trained):
            # Each pass's gradient goes into the sum at once: in the weight's own precision each addition would round.
            weight.register_post_accumulate_grad_hook(functools.partial(self._add, k))  # type: ignore[no-untyped-call]
        count = len(found.decayed)
        self.optimizer = adamw(spec, self.masters[:count], self.masters[count:])

    def _room(self, dtype: torch.dtype) -> Tensor:
        """Return zeros for all gradients: memory that is really held, so that a look at what is free sees it."""
        if any(weight.dtype == torch.float64 for weight in self.trained):
            dtype = torch.float64
        count = sum(weight.numel() for weight in self.trained)
        return torch.empty(count, dtype=dtype, device=self.device).zero_()

    @torch.no_grad()
    def _add(self, k: int, weight: Tensor) -> None:
        """Move the gradient that a pass left at the k-th weight into its sum."""
        assert weight.grad is not None  # noqa: S101  torch calls this once there is one
        if self.begun[k]:
            self.sums[k].add_(weight.grad)
        else:
            self.sums[k].copy_(weight.grad)  # cheaper than zeros to which it is added
        self.begun[k], weight.grad = True, None

    @property
    def coming_bytes(self) -> int:
        moments = sum(2 * master.numel() * master.element_size() for master in self.masters)
        pairs = zip(self.masters, self.sums, strict=True)
        return moments + sum(m.numel() * m.element_size() for m, total in pairs if m.dtype != total.dtype)

    def __call__(self, batch: SequenceBatch, /) -> Tensor:
        return self.scorer(batch)  # type: ignore[no-any-return]

    def train(self, on: bool) -> None:
        self.scorer.train(on)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        (loss if self.scale is None else loss * self.scale.value).backward()  # type: ignore[no-untyped-call]

    def finish_gradient(self) -> Tensor:
        for total, begun in zip(self.sums, self.begun, strict=True):
            if not begun:
                total.zero_()
        if self.world > 1:
            for part in torch.split(self.gradient, _EXCHANGE):
                torch.distributed.all_reduce(part)
        if self.scale is not None:
            self.gradient.div_(self.scale.value)
        dtype = torch.promote_types(self.gradient.dtype, torch.float32)
        norms = torch.stack([torch.linalg.vector_norm(total, dtype=dtype) for total in self.sums])
        found: Tensor = torch.linalg.vector_norm(norms)
        return found

    def step(self, learning_rate: float, norm: float | None) -> Update:
        assert norm is not None  # noqa: S101  this engine's norm is known before
        finite = math.isfinite(norm)
        if finite:
            for master, total in zip(self.masters, self.sums, strict=True):
                master.grad = total.to(master.dtype)
            if self.clip is not None and norm > self.clip:
                # By the norm over all workers, which is known: clip_grad_norm_ would compute one worker's again.
                torch.nn.utils.clip_grads_with_norm_(self.masters, self.clip, torch.tensor(norm))
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            self._copy_masters()
            for master in self.masters:
                master.grad = None
        self.begun = [False] * len(self.trained)
        if self.scale is not None:
            self.scale.seen(finite)
        return Update(norm, finite)

    @torch.no_grad()
    def _copy_masters(self) -> None:
        for weight, master in zip(self.trained, self.masters, strict=True):
            if master is not weight:
                weight.copy_(master)

    def save(self, folder: Path) -> Mapping[Path, str]:
        if not self.first:
            return {}
        path = folder / "state.pt"
        state: dict[str, Any] = {"masters": [master.detach() for master in self.masters]}
        state["optimizer"] = self.optimizer.state_dict()
        if self.scale is not None:
            state["loss_scale"] = vars(self.scale)
        return {path: save_tensors(state, path)}

    @torch.no_grad()
    def load(self, folder: Path, workers: int) -> None:
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        for master, saved in zip(self.masters, state["masters"], strict=True):
            master.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scale is not None:
            vars(self.scale).update(state["loss_scale"])
        self._copy_masters()

    @torch.no_grad()
    def carry(self, read: Callable[[str], Tensor | None]) -> None:
        for name, master in self._named_masters():
            if (found := read(name)) is not None:
                master.copy_(found)

    def float32_weights(self) -> dict[str, Tensor] | None:
        return {name: master.detach().to("cpu", torch.float32) for name, master in self._named_masters()}

    def _named_masters(self) -> list[tuple[str, Tensor]]:
        names = {id(weight): name for name, weight in self.scorer.named_parameters()}
        return [(names[id(weight)], master) for weight, master in zip(self.trained, self.masters, strict=True)]

    def weights(self) -> dict[str, Tensor] | None:
        return self.scorer.state_dict() if self.first else None

    def release(self) -> None:
        self.optimizer.state.clear()
        self.optimizer.param_groups.clear()
        self.trained, self.masters, self.sums, self.gradient = [], [], [], torch.empty(0)
        drop_weights(self.scorer)


def drop_weights(module: torch.nn.Module) -> None:
    """Give the memory of a module's weights back, whatever else still names them."""
    for weight in module.parameters():
        weight.grad, weight.data = None, weight.data.new_empty(0)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _views(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return parts of `flat`, one in the shape of each tensor."""
    parts = torch.split(flat, [tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


def save_tensors(state: Any, path: Path) -> str:
    """Write `state` with torch.save; return the SHA-256 of the bytes. Raises StorageError where the disk is full."""
    with storage_errors(path), path.open("wb") as file:
        writer = _Writer(file)
        torch.save(state, writer)  # type: ignore[arg-type]  # write and flush are all it needs
        if writer.error is not None:
            raise writer.error
    return writer.digest.hexdigest()


class _Writer:
    """A file whose first failed write is kept for later: torch's own writer would turn it into an
    error without a number, or end the process. `digest` is taken of what passes, so that nobody reads it again for one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._try(lambda: self.file.write(data), memoryview(data).nbytes)

    def flush(self) -> None:
        self._try(self.file.flush, 0)

    def _try(self, action: Callable[[], object], size: int) -> int:
        try:
            if self.error is None:
                action()
        except OSError as error:
            self.error = error
        return size
