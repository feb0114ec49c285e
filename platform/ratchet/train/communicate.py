"""How the workers of one training step agree on things."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ratchet.errors import RatchetError

T = TypeVar("T")


class Communicator(Protocol):
    """Collectives over all workers: each must be called by all of them, in the same order."""

    rank: int
    world: int

    def sum(self, values: Tensor) -> Tensor:
        """Return the element-wise sum over workers, float64, on the CPU."""

    def gather(self, value: T) -> list[T]:
        """Return every worker's value, by rank, on every worker."""


class Alone:
    """A single worker."""

    rank = 0
    world = 1

    def sum(self, values: Tensor) -> Tensor:
        return values.to("cpu", torch.float64)

    def gather(self, value: T) -> list[T]:
        return [value]


class Group:
    """The workers of torch's default process group; tensors travel on `device`."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world, self.device = dist.get_rank(), dist.get_world_size(), device

    def sum(self, values: Tensor) -> Tensor:
        total = values.to(self.device, torch.float64, copy=True)
        dist.all_reduce(total)
        return total.cpu()

    def gather(self, value: T) -> list[T]:
        found: list[T | None] = [None] * self.world
        dist.all_gather_object(found, value)
        return found  # type: ignore[return-value]


def agree(communicator: Communicator, action: Callable[[], T]) -> T:
    """Run `action`, which holds no collective, on every worker; all return, or all raise.

    A RatchetError on any worker is raised on all of them (the lowest rank's), so that none is left
    waiting for the others. Other exceptions end the worker at once.
    """
    error: RatchetError | None = None
    result: T | None = None
    try:
        result = action()
    except RatchetError as raised:
        error = raised
    first = next((found for found in communicator.gather(error) if found is not None), None)
    if first is not None:
        raise first
    return result  # type: ignore[return-value]
