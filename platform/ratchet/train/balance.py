"""The load of experts in a step, and the router loss, over the whole global batch whatever its division is.

The loss is E Σ_x f_x P_x (model/routing.py). Only P has a gradient, and it adds up over passes and workers. f is that
of the global batch, so it must be known before the first gradient. Where a worker has one pass, all agree on f
between its forward and its backward pass. With several, a round of passes without a graph counts first.

Legend: _X experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ratchet.model.routing import Routing, load_metrics
from ratchet.train.communicate import Communicator
from ratchet.train.engine import TrainingEngine
from ratchet.train.objective import Work, pass_over_prompt


class Balance:
    """One worker's part of it in one step. `shares_X` and `tokens` are the global batch's f and rows, once known."""

    def __init__(self, engine: TrainingEngine, communicator: Communicator) -> None:
        self.engine, self.communicator = engine, communicator
        self.weight = engine.routers.weight
        sizes = engine.routers.sizes
        self._sums = torch.zeros(sum(sizes) + 1, dtype=torch.float64, device=engine.device)
        self._global: tuple[Tensor, Tensor] | None = None

    def begin(self, works: Sequence[Work]) -> None:
        """Count what goes to each expert in the whole step, where the loss must know it before its first pass.

        Dropout draws as it will in the step's own passes.
        """
        if not self.weight or len(works) == 1:
            return
        device, heard = self.engine.device, list[tuple[Routing, float]]()
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            for work in (one.to(device) for one in works if one.role != "return"):
                if work.role == "keep":
                    pass_over_prompt(self.engine, work, last=False)
                else:
                    self.engine(work.batch)
                heard.append((self.engine.routers.take(), _times(work)))
        self._agree(heard)

    def loss(self, work: Work) -> Tensor | float:
        """Return this pass's part of the weighted loss, and take note of its load. Call it once after each pass."""
        heard, times = self.engine.routers.take(), _times(work)
        if work.role == "keep":
            return 0.0  # its rows come again, with a graph
        self._sums[1:] += torch.cat([*heard.chosen, self._sums.new_zeros(0)]) * times
        if not self.weight:
            return 0.0
        if self._global is None:
            self._agree([(heard, times)])
        assert self._global is not None  # noqa: S101  it was agreed on just now
        shares_X, tokens = self._global
        found = len(shares_X) * (shares_X * heard.chances_X).sum() / tokens * times
        self._sums[0] += found.detach()
        return self.weight * found

    def _agree(self, heard: Sequence[tuple[Routing, float]]) -> None:
        mine = torch.stack([torch.cat([one.counts_X, one.tokens[None]]) * times for one, times in heard]).sum(0)
        total = self.communicator.sum(mine).to(self.engine.device)
        tokens = total[-1].clamp(min=1)
        self._global = total[:-1] / tokens, tokens

    def sums(self) -> Tensor:
        """Return what workers add up: the loss, and how often each expert was chosen, by router."""
        return self._sums

    def metrics(self, total: Tensor) -> dict[str, float]:
        """Return the metrics of a step from all workers' sums."""
        routers = self.engine.routers
        found = load_metrics(routers.places, torch.split(total[1:], routers.sizes) if routers.sizes else [])
        return {"router/loss": float(total[0]), **found} if self.weight else found


def _times(work: Work) -> float:
    """How often the rows of a pass count: those of a prompt that stays across passes say it themselves."""
    return work.weight if work.role == "score" else 1.0
