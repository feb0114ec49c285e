"""Ratchet, as its own loop drives it: `accumulate` and `update` of a step, `score_rows` for the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.models import Device
from benchmarks.side import BETA, BETAS, CLIP, EPSILON, LEARNING_RATE, Rows, Task, tensor_bytes
from ratchet.model.batch import PADDED, SequenceBatch
from ratchet.model.forward import PairScorer
from ratchet.model.tree import Sharing
from ratchet.pairs.pair import TokenisedPair
from ratchet.plan.cluster import Cluster
from ratchet.plan.stages import Dpo
from ratchet.reference.rate import score_rows
from ratchet.train.batches import GlobalBatch
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from ratchet.train.loop import Parts, accumulate, agree_on, update, works_of
from ratchet.train.objective import Data, Reference
from ratchet.train.skips import Skips
from ratchet.train.spec import TrainSpec

BUDGETS: Mapping[Device, int] = {"cpu": 4096, "cuda": 16384}
"""Tokens of a forward pass."""


class Pairs:
    """A token table in memory."""

    def __init__(self, pairs: list[TokenisedPair]) -> None:
        self.pairs = pairs
        lengths = [(len(pair.prompt), len(pair.chosen), len(pair.rejected)) for pair in pairs]
        prompts = [pair.prompt.tobytes() for pair in pairs]
        self.repeats, self.file_of_N = None, np.zeros(len(pairs), np.int32)
        self.prompt_of_N = np.array([prompts.index(prompt) for prompt in prompts], np.int64)
        self.lengths_N3: npt.NDArray[np.int32] = np.array(lengths, np.int32)

    def __len__(self) -> int:
        return len(self.pairs)

    def together_of_N(self, *, prompts: bool) -> npt.NDArray[np.int64] | None:
        return self.prompt_of_N if prompts else None

    def pair_id(self, index: int) -> str:
        return self.pairs[index].pair_id

    def __getitem__(self, index: int) -> TokenisedPair:
        return self.pairs[index]


class RatchetSide:
    """One worker with the plain engine. In bfloat16 its optimiser works on float32 copies of the weights.

    `sharing`, `budget` (tokens of a forward pass) and `recompute` (of activations) are Ratchet's
    settings, with its own defaults on a CPU; `padded` rows and another number of `head_rows` at a
    time show what the packing and the chunks of the head give.
    """

    def __init__(
        self,
        task: Task,
        *,
        sharing: Sharing = "auto",
        padded: bool = False,
        budget: int | None = None,
        head_rows: int | None = None,
        recompute: bool = False,
    ) -> None:
        self.task, self.budget = task, budget or BUDGETS[task.device]
        self.table = Pairs(task.draw())
        self.logps_N2 = np.full((task.pairs, 2), np.nan)
        self.model = task.build()
        if recompute:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        scorer = PairScorer(self.model, sharing=sharing, head_rows=head_rows)
        if padded:
            scorer.packing = PADDED
        self.scorer = Autocast(scorer, task.device) if task.precision == "autocast" else scorer
        self.engine = TorchEngine(self._spec(1), cast(PairScorer, self.scorer), torch.device(task.device))
        self.engine.train(True)

    def score(self, rows: Rows) -> None:
        self.scorer.eval()
        logps = score_rows(self.scorer, cast(Any, self.table), np.asarray(rows), self.budget, self.task.device)
        self.engine.train(True)
        self.logps_N2[list(rows)] = np.stack([logps.chosen, logps.rejected], axis=1)

    def step(self, rows: Rows) -> float:
        spec, parts, batch = self._spec(len(rows)), self._parts(), _global_batch(rows)
        tally = accumulate(spec, parts, batch, works_of(spec, parts, batch.rows))
        agreed = agree_on(spec, parts, batch, tally, None)
        update(spec, parts, batch, LEARNING_RATE, agreed, Skips(spec, parts.checkpoints, []))
        return agreed.metrics["loss"]

    def gradients(self, rows: Rows) -> tuple[float, dict[str, Tensor]]:
        spec, parts, batch = self._spec(len(rows)), self._parts(), _global_batch(rows)
        tally = accumulate(spec, parts, batch, works_of(spec, parts, batch.rows))
        agreed = agree_on(spec, parts, batch, tally, None)
        names = {id(weight): name for name, weight in self.model.named_parameters()}
        sums = zip(self.engine.trained, self.engine.sums, strict=True)
        found = {names[id(weight)]: total.float().clone() for weight, total in sums}
        self.engine.gradient.zero_()
        return agreed.metrics["loss"], found

    def tokens(self, rows: Rows) -> int:
        works = works_of(self._spec(len(rows)), self._parts(), np.asarray(rows, np.int64))
        return sum(work.batch.computed for work in works)

    def own_bytes(self) -> int:
        weights = list(self.model.parameters())
        state = [value for held in self.engine.optimizer.state.values() for value in held.values()]
        return tensor_bytes([*weights, *self.engine.masters, *state, self.engine.gradient])

    def _spec(self, batch: int) -> TrainSpec:
        stage = Dpo(
            kind="dpo",
            data=("pairs",),
            beta=BETA,
            batch=batch,
            learning_rate=LEARNING_RATE,
            betas=BETAS,
            epsilon=EPSILON,
            clip=CLIP,
        )
        return TrainSpec(
            step="benchmark",
            stage=stage,
            folder="",
            model="",
            tokens=(),
            shares=(),
            cluster=Cluster(token_budget=self.budget),
            dtype="bfloat16" if self.task.precision == "bfloat16" else "float32",
        )

    def _parts(self) -> Parts:
        reference = Reference(self.logps_N2[:, 0], self.logps_N2[:, 1])
        nowhere = cast(Any, None)  # nothing is saved
        return Parts(self.engine, Data(self.table, reference), None, self.budget, Alone(), nowhere, None, None)


class Autocast(nn.Module):
    """A scorer whose forward pass runs under autocast: the library itself has no such mode."""

    def __init__(self, scorer: PairScorer, device: Device) -> None:
        super().__init__()
        self.scorer, self.packing, self.device = scorer, scorer.packing, device

    def forward(self, batch: SequenceBatch) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16):
            return cast(Tensor, self.scorer(batch))


def _global_batch(rows: Rows) -> GlobalBatch:
    return GlobalBatch(step=2, epoch=1, rows=np.asarray(rows, np.int64), progress=0.0)  # step 1 has checks of its own
