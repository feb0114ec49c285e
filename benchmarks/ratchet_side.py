"""Ratchet, as its own loop drives it: `accumulate` and `update` of a step, `score_rows` for the reference."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.flops import Work, total
from benchmarks.models import build
from benchmarks.side import BETA, BETAS, CLIP, EPSILON, LEARNING_RATE, Rows, Task, micro_batches, tensor_bytes
from ratchet.model.forward import PairScorer, SequenceBatch, collate
from ratchet.pairs.pair import TokenisedPair
from ratchet.reference.score import score_rows
from ratchet.train.batches import GlobalBatch
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from ratchet.train.loop import Parts, accumulate, agree_on, update
from ratchet.train.objective import Data, Reference
from ratchet.train.spec import TrainSpec

CPU = torch.device("cpu")


class Pairs:
    """A token table in memory."""

    def __init__(self, pairs: list[TokenisedPair]) -> None:
        self.pairs = pairs
        self.pair_ids = [pair.pair_id for pair in pairs]
        lengths = [(len(pair.prompt), len(pair.chosen), len(pair.rejected)) for pair in pairs]
        self.lengths_N3: npt.NDArray[np.int32] = np.array(lengths, np.int32)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> TokenisedPair:
        return self.pairs[index]


class RatchetSide:
    """One worker with the plain engine. In bfloat16 its optimiser works on float32 copies of the weights."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.table = Pairs(task.draw())
        self.logps_N2 = np.full((task.pairs, 2), np.nan)
        self.model = build(task.sizes, task.precision)
        scorer: nn.Module = PairScorer(self.model)
        self.scorer = Autocast(scorer) if task.precision == "autocast" else scorer
        self.engine = TorchEngine(self._spec(1), self.scorer, CPU)
        self.engine.train(True)

    def score(self, rows: Rows) -> None:
        self.scorer.eval()
        logps = score_rows(self.scorer, cast(Any, self.table), np.asarray(rows), self.task.micro, "cpu")
        self.engine.train(True)
        self.logps_N2[list(rows)] = np.stack([logps.chosen, logps.rejected], axis=1)

    def step(self, rows: Rows) -> float:
        spec, parts, batch = self._spec(len(rows)), self._parts(), _global_batch(rows)
        metrics = agree_on(spec, parts, batch, accumulate(spec, parts, batch), None)
        update(spec, parts, batch, LEARNING_RATE)
        return metrics["loss"]

    def gradients(self, rows: Rows) -> tuple[float, dict[str, Tensor]]:
        spec, parts, batch = self._spec(len(rows)), self._parts(), _global_batch(rows)
        metrics = agree_on(spec, parts, batch, accumulate(spec, parts, batch), None)
        found = {name: cast(Tensor, weight.grad).float() for name, weight in self.model.named_parameters()}
        self.model.zero_grad()
        return metrics["loss"], found

    def training_work(self, rows: Rows) -> Work:
        return total(_work(collate([self.table[i] for i in part], CPU), 512) for part in self._parts_of(rows))

    def scoring_work(self, rows: Rows) -> Work:
        lengths = self.table.lengths_N3[list(rows)].sum(1)
        by_length = [rows[i] for i in np.argsort(-lengths, kind="stable")]
        return self.training_work(by_length)

    def own_bytes(self) -> int:
        weights = list(self.model.parameters())
        state = [value for held in self.engine.optimizer.state.values() for value in held.values()]
        gradients = tensor_bytes(weights)
        if self.engine.masters is not self.engine.trained:
            gradients += tensor_bytes(self.engine.masters)  # the masters have gradients of their own
        return gradients + tensor_bytes([*weights, *self.engine.masters, *state])

    def _parts_of(self, rows: Rows) -> list[list[int]]:
        return micro_batches(rows, self.task.micro)

    def _spec(self, batch: int) -> TrainSpec:
        return TrainSpec(
            step="benchmark",
            kind="dpo",
            folder="",
            model="",
            tokens=(),
            shares=(),
            options={"beta": BETA},
            dtype="bfloat16" if self.task.precision == "bfloat16" else "float32",
            batch=batch,
            micro_batch=self.task.micro,
            learning_rate=LEARNING_RATE,
            betas=BETAS,
            epsilon=EPSILON,
            clip=CLIP,
        )

    def _parts(self) -> Parts:
        reference = Reference(self.logps_N2[:, 0], self.logps_N2[:, 1])
        nowhere = cast(Any, None)  # nothing is saved
        return Parts(self.engine, Data(self.table, reference), None, Alone(), nowhere, None, None)


class Autocast(nn.Module):
    """A scorer whose forward pass runs under autocast: the library itself has no such mode."""

    def __init__(self, scorer: nn.Module) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, batch: SequenceBatch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return cast(Tensor, self.scorer(batch))


def _global_batch(rows: Rows) -> GlobalBatch:
    return GlobalBatch(step=2, epoch=1, rows=np.asarray(rows, np.int64), progress=0.0)  # step 1 has checks of its own


def _work(batch: SequenceBatch, head_rows: int) -> Work:
    sequences, length = batch.input_ids_ST.shape
    attended = sequences * length * (length + 1) // 2
    scored = len(batch.rows_E)
    return Work(sequences * length, scored, attended, attended, head_again=scored > head_rows)
