"""What training asks of an engine, and the plain one: torch alone, one process.

An engine ADDS UP gradients: `backward` takes this worker's share of the global batch's mean loss, and
the update is made from the sum over micro-batches and workers. Whatever averaging a library does on
its own is undone inside its engine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch import Tensor

from ratchet.errors import ModelError
from ratchet.model.batch import Packing, SequenceBatch
from ratchet.model.forward import PairScorer
from ratchet.store.files import storage_errors
from ratchet.train.spec import TrainSpec


@dataclasses.dataclass(frozen=True)
class Update:
    """`grad_norm` is over all workers, before clipping; without `applied` the weights are as before."""

    grad_norm: float
    applied: bool


class Engine(Protocol):
    """A model with its optimiser. Its methods are for all workers together."""

    device: torch.device
    trained_sizes: Sequence[int]
    """Elements of each weight that this worker's optimiser updates."""
    layout: Mapping[str, Any]
    """What a checkpoint of this engine can only be loaded with again, such as the ZeRO stage."""

    packing: Packing
    """How the model's sequences are laid out."""

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

    def save(self, folder: Path) -> list[Path]:
        """Write this worker's files of a checkpoint, and return them."""

    def load(self, folder: Path, workers: int) -> None:
        """Continue from what `save` wrote under `workers` workers."""

    def weights(self) -> dict[str, Tensor] | None:
        """Return the whole scorer's state dict on worker 0, None on the others."""


class TorchEngine:
    """Plain torch in one process. Below float32 the optimiser works on float32 copies of the weights."""

    def __init__(self, spec: TrainSpec, scorer: PairScorer, device: torch.device) -> None:
        if spec.dtype == "float16":
            raise ModelError(
                "float16 needs loss scaling, which only DeepSpeed's engine has here",
                where="model.dtype",
                fix="use bfloat16 or float32",
            )
        self.device, self.clip = device, spec.clip
        self.layout: Mapping[str, Any] = {"engine": "torch"}
        self.scorer, self.packing = scorer.to(device), scorer.packing
        self.trained = [weight for weight in scorer.parameters() if weight.requires_grad]
        whole = all(weight.dtype in {torch.float32, torch.float64} for weight in self.trained)
        self.trained_sizes: Sequence[int] = [weight.numel() for weight in self.trained]
        self.masters: Sequence[Tensor] = self.trained
        if not whole:
            self.masters = [weight.detach().float().clone() for weight in self.trained]
        self.optimizer = adamw(spec, self.masters)

    def __call__(self, batch: SequenceBatch, /) -> Tensor:
        return self.scorer(batch)  # type: ignore[no-any-return]

    def train(self, on: bool) -> None:
        self.scorer.train(on)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def finish_gradient(self) -> Tensor:
        for weight, master in zip(self.trained, self.masters, strict=True):
            if master is not weight and weight.grad is not None:
                master.grad = weight.grad.float()
        return torch.nn.utils.get_total_norm([m.grad for m in self.masters if m.grad is not None])

    def step(self, learning_rate: float, norm: float | None) -> Update:
        assert norm is not None  # noqa: S101  this engine's norm is known before
        if math.isfinite(norm):
            if self.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self.masters, self.clip, torch.tensor(norm))
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            self._copy_masters()
        self.optimizer.zero_grad()
        self.scorer.zero_grad()
        return Update(norm, math.isfinite(norm))

    @torch.no_grad()
    def _copy_masters(self) -> None:
        for weight, master in zip(self.trained, self.masters, strict=True):
            if master is not weight:
                weight.copy_(master)

    def save(self, folder: Path) -> list[Path]:
        path = folder / "state.pt"
        masters = [master.detach() for master in self.masters]
        save_tensors({"masters": masters, "optimizer": self.optimizer.state_dict()}, path)
        return [path]

    @torch.no_grad()
    def load(self, folder: Path, workers: int) -> None:
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        for master, saved in zip(self.masters, state["masters"], strict=True):
            master.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self._copy_masters()

    def weights(self) -> dict[str, Tensor] | None:
        return self.scorer.state_dict()


def adamw(spec: TrainSpec, weights: Sequence[Tensor]) -> torch.optim.AdamW:
    """Return AdamW as the stage asks for it; the learning rate is set at each step."""
    return torch.optim.AdamW(
        weights, lr=spec.learning_rate, betas=spec.betas, eps=spec.epsilon, weight_decay=spec.weight_decay, fused=True
    )


def save_tensors(state: Any, path: Path) -> None:
    """Write `state` with torch.save. Raises StorageError where the disk is full."""
    with storage_errors(path), path.open("wb") as file:
        writer = _Writer(file)
        torch.save(state, writer)  # type: ignore[arg-type]  # write and flush are all it needs
        if writer.error is not None:
            raise writer.error


class _Writer:
    """A file whose first failed write is kept for later: torch's own writer would turn it into an
    error without a number, or end the process.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
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
