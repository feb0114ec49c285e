"""The three ways to score that `benchmarks.score` compares. Each is built empty, loads its model, then scores rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.models import build
from benchmarks.ratchet_side import RatchetSide
from benchmarks.shapes import MAX_LENGTH, PAD
from benchmarks.side import Task, micro_batches
from ratchet.model.batch import collate
from ratchet.pairs.pair import TokenisedPair
from ratchet.serving.served import Served
from ratchet.serving.vllm import VllmEngine

Floats = Any  # (N, 2) float64: chosen and rejected


class ScoringSide(Protocol):
    """One of the things compared."""

    def load(self) -> None:
        """Load the model."""

    def score(self, rows: Sequence[int]) -> Floats:
        """Return the summed log-probabilities of both answers of each row, nats."""

    def tokens(self, rows: Sequence[int]) -> list[Any]:
        """Return the log-probabilities of the answers' tokens, chosen and rejected of each row in turn."""


class Plain:
    """transformers' forward on padded rows, chosen and rejected apart, the longest first: logits of every position."""

    def __init__(self, task: Task) -> None:
        self.task, self.pairs = task, task.draw()

    def load(self) -> None:
        self.model = build(self.task.sizes, self.task.precision).eval()

    @torch.no_grad()
    def score(self, rows: Sequence[int]) -> Floats:
        found = np.zeros((len(rows), 2))
        order = sorted(range(len(rows)), key=lambda i: -_length(self.pairs[rows[i]]))
        for places in micro_batches(order, self.task.micro):
            for side in (0, 1):
                logps = self._tokens([self.pairs[rows[i]] for i in places], side)
                found[places, side] = [one.double().sum() for one in logps]
        return found

    @torch.no_grad()
    def tokens(self, rows: Sequence[int]) -> list[Any]:
        return [self._tokens([self.pairs[row]], side)[0].numpy() for row in rows for side in (0, 1)]

    def _tokens(self, pairs: list[TokenisedPair], side: int) -> list[torch.Tensor]:
        answers = [(pair.chosen, pair.rejected)[side] for pair in pairs]
        sequences = [np.concatenate([pair.prompt, answer]) for pair, answer in zip(pairs, answers, strict=True)]
        width = max(map(len, sequences))
        ids = torch.full((len(pairs), width), PAD)
        for line, sequence in enumerate(sequences):
            ids[line, : len(sequence)] = torch.from_numpy(sequence)
        logps = self.model(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1, dtype=torch.float32)
        picked = logps.gather(2, ids[:, 1:, None])[..., 0]
        spans = [(len(pair.prompt) - 1, len(sequence) - 1) for pair, sequence in zip(pairs, sequences, strict=True)]
        return [picked[line, start:end] for line, (start, end) in enumerate(spans)]


class Own:
    """Ratchet's own forward pass: shared tokens once, answer positions alone."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def load(self) -> None:
        self.side = RatchetSide(self.task)

    def score(self, rows: Sequence[int]) -> Floats:
        self.side.score(rows)
        return self.side.logps_N2[list(rows)]

    @torch.no_grad()
    def tokens(self, rows: Sequence[int]) -> list[Any]:
        found = []
        for row in rows:
            batch = collate([self.side.table[row]], self.side.scorer.packing)
            logps_E = self.side.scorer.entries(batch)
            found += [logps_E[batch.entry_C[batch.sequence_C == side]].numpy() for side in (0, 1)]
        return found


class Vllm:
    """vLLM through Ratchet's door, float32 or bfloat16, in this process."""

    def __init__(self, task: Task) -> None:
        import vllm  # noqa: F401  its libraries are no part of what is measured

        self.task, self.pairs = task, task.draw()

    def load(self) -> None:
        self.kept = tempfile.TemporaryDirectory()
        folder = Path(self.kept.name)
        build(self.task.sizes, self.task.precision).save_pretrained(folder)
        self.engine = VllmEngine(Served(folder, self.task.precision, MAX_LENGTH + 1, gpu=False))

    def score(self, rows: Sequence[int]) -> Floats:
        return self.engine.answer_logps(self._sequences(rows)).reshape(-1, 2)

    def tokens(self, rows: Sequence[int]) -> list[Any]:
        return list(self.engine.token_logps(self._sequences(rows)))

    def _sequences(self, rows: Sequence[int]) -> list[tuple[Any, int]]:
        pairs = [self.pairs[row] for row in rows]
        return [
            (np.concatenate([pair.prompt, side]), len(pair.prompt))
            for pair in pairs
            for side in (pair.chosen, pair.rejected)
        ]


SIDES: Mapping[str, Callable[[Task], ScoringSide]] = {"plain padded": Plain, "vLLM": Vllm, "Ratchet": Own}


def _length(pair: TokenisedPair) -> int:
    return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
