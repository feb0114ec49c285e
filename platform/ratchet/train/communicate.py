"""How the workers of one training step agree on things."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar

from ratchet.errors import RatchetError
from ratchet.store.machine import out_of_memory

if TYPE_CHECKING:  # checkpoints are looked at without torch, too, by way of `agree`
    import torch
    from torch import Tensor

T = TypeVar("T")

_OTHERS_SECONDS = 3.0
"""How long a worker that gives up waiting leaves the others to do so too."""


class Communicator(Protocol):
    """Collectives over all workers: each must be called by all of them, in the same order."""

    rank: int
    world: int

    def sum(self, values: Tensor) -> Tensor:
        """Return the element-wise sum over workers, float64, on the CPU."""

    def gather(self, value: T) -> list[T]:
        """Return every worker's value, by rank, on every worker."""

    def reached(self, step: int) -> None:
        """Leave word that this worker is at `step`, for those that wait for it. No collective."""


class Alone:
    """A single worker."""

    rank = 0
    world = 1

    def sum(self, values: Tensor) -> Tensor:
        return values.cpu().double()

    def gather(self, value: T) -> list[T]:
        return [value]

    def reached(self, step: int) -> None:
        """Nobody waits for a single worker."""


class Group:
    """The workers of torch's default process group; tensors travel on `device`."""

    def __init__(self, device: torch.device) -> None:
        import torch.distributed as dist

        self.rank, self.world, self.device = dist.get_rank(), dist.get_world_size(), device
        # No public function gives the group's store, and it can be asked while an exchange hangs.
        self._store = dist.distributed_c10d._get_default_store()
        self._step = 0

    def sum(self, values: Tensor) -> Tensor:
        import torch
        import torch.distributed as dist

        # A copy, because the exchange overwrites; float64, so that counts stay exact.
        total = values.to(self.device, torch.float64, copy=True)
        dist.all_reduce(total)
        return total.cpu()

    def gather(self, value: T) -> list[T]:
        import torch.distributed as dist

        found: list[T | None] = [None] * self.world
        dist.all_gather_object(found, value)
        return found  # type: ignore[return-value]

    def reached(self, step: int) -> None:
        self._step = step
        self._store.set(f"ratchet/reached/{self.rank}", str(step))

    @contextlib.contextmanager
    def naming_the_missing(self) -> Iterator[None]:
        """Let the error of an exchange say which workers did not come to it, and in which step."""
        try:
            yield
        except RuntimeError as error:
            if out_of_memory(str(error)):
                raise  # this worker's own affair: the others wait for it
            missing = self._missing()
            said = str(error).strip().splitlines()
            raise RuntimeError(
                f"in step {self._step} worker {self.rank} gave up waiting for {missing}: {said[-1] if said else error}"
            ) from error

    def _missing(self) -> str:
        """Name the workers that did not give up as well, each with the step it was last heard of in.

        The worker that keeps the store may be the lost one, and then no answer comes from it.
        """
        found: list[str] = []

        def ask() -> None:
            self._store.set(f"ratchet/waited/{self.rank}", "")
            time.sleep(_OTHERS_SECONDS)
            for rank in range(self.world):
                if not self._store.check([f"ratchet/waited/{rank}"]):
                    known = self._store.check([f"ratchet/reached/{rank}"])
                    step = int(self._store.get(f"ratchet/reached/{rank}")) if known else 0
                    found.append(f"worker {rank} (last heard of in step {step})")
            found.append("")

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(2 * _OTHERS_SECONDS)
        if not found:
            return "the others, and worker 0 cannot be asked who"
        return ", ".join(found[:-1]) or "all the others, which wait too: look at the network between them"


def limit_waiting(seconds: float) -> None:
    """Let no process group wait longer than this: those that libraries make have torch's own limit of half an hour."""
    import torch.distributed as dist

    for group in dist.distributed_c10d._world.pg_map:
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)


def agree(communicator: Communicator, action: Callable[[], T]) -> T:
    """Run `action`, which holds no collective, on every worker; all return, or all raise.

    A RatchetError on any worker is raised on all of them (the lowest rank's). Other exceptions end the worker at once.
    """
    error: RatchetError | None = None
    result: T | None = None
    try:
        result = action()
    except RatchetError as raised:
        error = raised
    first = next((found for found in communicator.gather(error) if found is not None), None)
    # On all of them, so that none is left waiting for the others.
    if first is not None:
        raise first
    return result  # type: ignore[return-value]
