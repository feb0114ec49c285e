"""Ratchet, as its own loop drives it: `accumulate` and `update` of a step, `score_rows` for the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.flops import Work, total
from benchmarks.models import Device
from benchmarks.side import BETA, BETAS, CLIP, EPSILON, LEARNING_RATE, Rows, Task, tensor_bytes
from ratchet.model.batch import PADDED, SequenceBatch
from ratchet.model.forward import PairScorer
from ratchet.model.head import chunk_rows
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
        self.prompt_of_N = np.array([prompts.index(prompt) for prompt in prompts], np.int64)
        self.lengths_N3: npt.NDArray[np.int32] = np.array(lengths, np.int32)

    def __len__(self) -> int:
        return len(self.pairs)

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
        self.task, self.budget, self.recompute = task, budget or BUDGETS[task.device], recompute
        self.table = Pairs(task.draw())
        self.logps_N2 = np.full((task.pairs, 2), np.nan)
        self.model = task.build()
        size = 4 if task.precision == "float32" else 2
        self.head_rows = head_rows or chunk_rows(task.vocab, torch.device(task.device), size)
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

    def training_work(self, rows: Rows) -> Work:
        works = works_of(self._spec(len(rows)), self._parts(), np.asarray(rows, np.int64))
        return dataclasses.replace(
            total(chain_work(work.batch, self.task.device, self.head_rows) for work in works),
            layers_again=self.recompute,
        )

    def scoring_work(self, rows: Rows) -> Work:
        return self.training_work(rows)

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


def chain_work(batch: SequenceBatch, device: Device, head_rows: int) -> Work:
    """Return what a pass computes: a chain's rows attend to each other causally and to all of their ancestors' rows.

    A CPU's kernel is given an explicit mask where a chain has ancestors, and then computes whole rectangles;
    FlexAttention leaves out the blocks that nobody sees, and is counted as if it left out all else too.
    The head takes `head_rows` at a time; the last of these chunks is kept for the backward pass.
    """
    scored = len(batch.rows_E)
    live_E = _with_gradient(batch, device)
    last = (scored - 1) // head_rows * head_rows
    again, idle = int(live_E[:last].sum()), scored - int(live_E.sum())
    if batch.plan is None:
        sequences, length = batch.input_ids_RT.shape
        attended = sequences * length * (length + 1) // 2
        return Work(batch.computed, scored, attended, attended, head_again=again, head_idle=idle)
    needed = computed = 0
    for chain in batch.plan.chains:
        own = chain.stop - chain.start
        above = sum(stop - first for first, stop in chain.ancestors)
        triangle = own * (own + 1) // 2
        needed += own * above + triangle
        rectangle = bool(chain.ancestors) and device == "cpu"
        computed += own * (above + own) if rectangle else own * above + triangle
    return Work(batch.computed, scored, needed, computed, head_again=again, head_idle=idle)


def _with_gradient(batch: SequenceBatch, device: Device) -> Tensor:
    """Return which entries have a gradient in DPO, bool, shape (E,): not those where the two sides of pairs cancel.

    A GPU computes them all: to ask would be to wait.
    """
    if device == "cuda":
        return torch.ones(len(batch.rows_E), dtype=torch.bool)
    # Whole numbers, one for each pair, so that equal ones cancel exactly and others do not by chance.
    of_pair_B = torch.randint(1 << 40, (batch.pairs,), generator=torch.Generator().manual_seed(0))
    of_sequence_S = torch.cat([of_pair_B, -of_pair_B[batch.rejected_of_K]])
    sums_E = torch.zeros(len(batch.rows_E), dtype=torch.int64)
    return sums_E.index_add(0, batch.entry_C, of_sequence_S[batch.sequence_C]) != 0
