"""Loops of plain transformers and torch, as people write them for preference pairs: a naive one and a careful one.

The naive loop does what a first version does: it pads chosen and rejected sequences with a mask, asks
the model for all logits, and takes their log-softmax in float32. The careful loop knows where that
wastes work, and still needs no library: it sorts a global batch by length, passes the longer half of a
micro-batch's sequences and then the shorter one, pads at the right, where causal attention needs no
mask, and gives the head the hidden states of answers alone.

Neither recomputes activations. In bfloat16 both update the bfloat16 weights themselves, as TRL does
there; Ratchet updates float32 copies, which costs it a little more.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.flops import Work, total
from benchmarks.shapes import PAD
from benchmarks.side import BETA, BETAS, CLIP, EPSILON, LEARNING_RATE, Rows, Task, micro_batches, tensor_bytes
from ratchet.pairs.pair import Ids, TokenisedPair

_NO_LABEL = -100

Answered = tuple[Ids, Ids]
"""A prompt and an answer to it."""


@dataclasses.dataclass(frozen=True)
class Care:
    """What a loop takes care of.

    `by_length` sorts the pairs of a global batch, on which an update does not depend, and makes two passes
    of a micro-batch, by the length of sequences; `mask` hands the model the padding; `answers_only` keeps
    the head from positions that nobody scores; `fused` takes torch's AdamW in one kernel.
    """

    by_length: bool
    mask: bool
    answers_only: bool
    fused: bool


LOOPS: Mapping[str, Care] = {
    "naive": Care(by_length=False, mask=True, answers_only=False, fused=False),
    "careful": Care(by_length=True, mask=False, answers_only=True, fused=True),
}


class PlainSide:
    """A loop in one process. `micro` pairs of the task are one backward pass."""

    def __init__(self, task: Task, care: Care) -> None:
        self.task, self.care = task, care
        self.pairs = task.draw()
        self.logps_N2 = np.full((task.pairs, 2), np.nan)
        self.model = task.build()
        self.model.train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=LEARNING_RATE,
            betas=BETAS,
            eps=EPSILON,
            weight_decay=0.0,
            fused=care.fused or None,
        )

    def score(self, rows: Rows) -> None:
        with torch.no_grad():
            for part in self._parts(rows):
                self.logps_N2[part] = self._logps(part).cpu().numpy()

    def step(self, rows: Rows) -> float:
        loss = self._accumulate(rows)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss

    def gradients(self, rows: Rows) -> tuple[float, dict[str, Tensor]]:
        loss = self._accumulate(rows)
        found = {name: cast(Tensor, weight.grad).float() for name, weight in self.model.named_parameters()}
        self.optimizer.zero_grad()
        return loss, found

    def training_work(self, rows: Rows) -> Work:
        return total(self._work(part) for part in self._parts(rows))

    def tokens(self, rows: Rows) -> int:
        return self.training_work(rows).tokens

    def own_bytes(self) -> int:
        weights = list(self.model.parameters())
        state = [value for held in self.optimizer.state.values() for value in held.values()]
        return tensor_bytes(weights) + tensor_bytes([*weights, *state])

    def _accumulate(self, rows: Rows) -> float:
        """Leave the gradient of the mean loss over `rows` at the weights; return that loss."""
        loss = 0.0
        for part in self._parts(rows):
            reference_B2 = torch.tensor(self.logps_N2[part], dtype=torch.float32, device=self.task.device)
            gain_B2 = self._logps(part) - reference_B2
            share = -F.logsigmoid(BETA * (gain_B2[:, 0] - gain_B2[:, 1])).sum() / len(rows)
            share.backward()
            loss += float(share.detach())
        return loss

    def _logps(self, part: list[int]) -> Tensor:
        """Return the summed log-probabilities of chosen and rejected answers, float32, shape (B, 2)."""
        groups = self._passes(part)
        logps_S = torch.cat([self._one_pass([sequence for _, sequence in group]) for group in groups])
        order = torch.tensor([place for group in groups for place, _ in group])
        return logps_S[order.argsort().to(logps_S.device)].view(2, len(part)).T

    def _one_pass(self, sequences: Sequence[Answered]) -> Tensor:
        ids_SL, labels_SL, mask_SL = (tensor.to(self.task.device) for tensor in _padded(sequences))
        autocast = self.task.precision == "autocast"
        with torch.autocast(self.task.device, torch.bfloat16) if autocast else contextlib.nullcontext():
            attends = {"attention_mask": mask_SL} if self.care.mask else {}
            of = self._of_answers if self.care.answers_only else self._of_all
            return of(ids_SL, labels_SL, attends)

    def _of_all(self, ids_SL: Tensor, labels_SL: Tensor, attends: dict[str, Tensor]) -> Tensor:
        logits_SLV = self.model(input_ids=ids_SL, use_cache=False, **attends).logits[:, :-1].float()
        targets_SL = labels_SL[:, 1:]
        scored_SL = targets_SL != _NO_LABEL
        found_SL = logits_SLV.log_softmax(-1).gather(2, targets_SL.clamp(min=0)[..., None])[..., 0]
        return (found_SL * scored_SL).sum(1)

    def _of_answers(self, ids_SL: Tensor, labels_SL: Tensor, attends: dict[str, Tensor]) -> Tensor:
        hidden_SLH = self.model.model(input_ids=ids_SL, use_cache=False, **attends).last_hidden_state
        scored_SL = labels_SL[:, 1:] != _NO_LABEL
        logits_EV = self.model.lm_head(hidden_SLH[:, :-1][scored_SL]).float()
        logps_E = -F.cross_entropy(logits_EV, labels_SL[:, 1:][scored_SL], reduction="none")
        sequence_E = scored_SL.nonzero()[:, 0]
        return torch.zeros(len(ids_SL), device=logps_E.device).index_add(0, sequence_E, logps_E)

    def _parts(self, rows: Rows) -> list[list[int]]:
        ordered = sorted(rows, key=lambda i: -_longest(self.pairs[i])) if self.care.by_length else rows
        return micro_batches(ordered, self.task.micro)

    def _passes(self, part: list[int]) -> list[list[tuple[int, Answered]]]:
        """Return the sequences of each forward pass, with their places: all chosen ones first, then the rejected."""
        pairs = [self.pairs[i] for i in part]
        sequences: list[Answered] = [(pair.prompt, pair.chosen) for pair in pairs]
        sequences += [(pair.prompt, pair.rejected) for pair in pairs]
        placed = list(enumerate(sequences))
        if not self.care.by_length:
            return [placed]
        placed.sort(key=lambda one: -sum(map(len, one[1])))
        return [placed[: len(pairs)], placed[len(pairs) :]]

    def _work(self, part: list[int]) -> Work:
        return total(self._work_of([sequence for _, sequence in group]) for group in self._passes(part))

    def _work_of(self, sequences: Sequence[Answered]) -> Work:
        ids_SL, labels_SL, mask_SL = _padded(sequences)
        count, length = ids_SL.shape
        scored = int((labels_SL != _NO_LABEL).sum()) if self.care.answers_only else count * length
        attended = count * length * (length + 1) // 2
        # transformers leaves the mask away, and the kernel the upper half, where nothing is padded
        square = self.care.mask and not bool(mask_SL.all())
        return Work(count * length, scored, attended, count * length**2 if square else attended)


def _padded(sequences: Sequence[Answered]) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids, labels and mask of a pass, each int64, shape (S, L), padded at the right."""
    length = max(len(prompt) + len(answer) for prompt, answer in sequences)
    ids, labels, mask = (torch.full((len(sequences), length), fill) for fill in (PAD, _NO_LABEL, 0))
    for s, (prompt, answer) in enumerate(sequences):
        end = len(prompt) + len(answer)
        ids[s, :end] = torch.from_numpy(np.concatenate([prompt, answer]))
        labels[s, len(prompt) : end] = torch.from_numpy(np.asarray(answer))
        mask[s, :end] = 1
    return ids, labels, mask


def _longest(pair: TokenisedPair) -> int:
    return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
