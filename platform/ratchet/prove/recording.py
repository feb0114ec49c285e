"""An engine that writes down what its trainer did: the real one, looked at from outside after each update.

    <step folder>/masters-000000.safetensors   the optimiser's weights before the first update, by the model's names
    <step folder>/masters-000001.safetensors   … and after each
    <step folder>/additions.json               how far a gradient grew that was added up over passes and workers

When the updates that are to be proved are made it asks the loop to end as a driver does: by a notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from ratchet.errors import RunError
from ratchet.model.batch import SequenceBatch, collate
from ratchet.model.forward import PairScorer
from ratchet.pairs.pair import TokenisedPair
from ratchet.prove.case import ADDITIONS, Additions, masters_file
from ratchet.store.codec import to_values
from ratchet.store.files import storage_errors, write_json
from ratchet.train.engine import MakeEngine, TrainingEngine, Update
from ratchet.train.notice import Notice, write_notice
from ratchet.train.spec import TrainSpec

_LARGE, _SMALL = 1024.0, 16
"""The probe: a gradient once so many times as large, then so many times as it is. A sum that keeps 8 bits, as one
in bfloat16 does, loses each of the small ones; one in float32 loses none."""


class Recording:
    """`train.engine.TrainingEngine` around another: all work is the other's."""

    def __init__(self, inner: TrainingEngine, folder: Path, steps: int) -> None:
        self.inner, self.folder, self.steps, self.made = inner, folder, steps, 0
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        # Where one update is to be proved, the loop must find the notice before it calls `step`.
        self._end_if_known()

    def __call__(self, batch: SequenceBatch, /) -> Tensor:
        return self.inner(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def step(self, learning_rate: float, norm: float | None) -> Update:
        if not self.made:
            self._write()
        done = self.inner.step(learning_rate, norm)
        self.made += 1
        self._write()
        self._end_if_known()
        if self.made == self.steps:
            self._add_up()
        return done

    def load(self, folder: Path, workers: int) -> None:
        raise RunError("the workers were lost while they were watched", where=str(self.folder), fix="prove again")

    def _write(self) -> None:
        """Write the optimiser's weights on worker 0; all workers give their parts."""
        found = self.inner.float32_weights()
        if found is not None and self.rank == 0:
            path = masters_file(self.folder, self.made)
            with storage_errors(path):
                save_file({name: weight.contiguous() for name, weight in found.items()}, path)

    def _end_if_known(self) -> None:
        """Let the loop end with the next update where enough is known after that."""
        if self.rank == 0 and self.made == self.steps - 1:
            write_notice(self.folder, Notice("known", "enough is known"))

    def _add_up(self) -> None:
        """Write down how far a gradient grows over passes and workers. Nothing is trained: the learning rate is 0."""
        one = self._norm_of([float(self.rank == 0)])
        first = [_LARGE] + [1.0] * _SMALL
        many = self._norm_of(first if self.rank == 0 else [1.0] + [0.0] * _SMALL)
        if self.rank == 0:
            grown = Additions(found=many / one, right=_LARGE + _SMALL + self.world - 1)
            write_json(self.folder / ADDITIONS, to_values(grown))

    def _norm_of(self, weights: Sequence[float]) -> float:
        """Return the norm of one gradient that is added up once for each weight, so many times as large."""
        ids = np.arange(1, 9, dtype=np.int32)
        batch = collate([TokenisedPair("probe", ids[:4], ids[4:], ids[3:7])], self.inner.packing).to(self.inner.device)
        for k, weight in enumerate(weights, 1):
            self.inner.backward(self.inner(batch).sum() * weight, last=k == len(weights))
        norm = self.inner.finish_gradient()
        return self.inner.step(0.0, None if norm is None else float(norm)).grad_norm


def recording(make: MakeEngine, steps: int) -> MakeEngine:
    """Return what makes a recording engine around one of `make`."""

    def made(spec: TrainSpec, scorer: PairScorer, device: torch.device) -> TrainingEngine:
        return cast(TrainingEngine, Recording(make(spec, scorer, device), Path(spec.folder), steps))

    return made
