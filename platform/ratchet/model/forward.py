"""The one way to an answer's log-probability: training, reference scoring and evaluation use this.

Legend: _B pairs, _S sequences, _R rows of the model's input, _T positions of a row, _E scored
entries (one answer token each), _C (entry, sequence) incidences, _V vocabulary, _H hidden.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ratchet.errors import ModelError
from ratchet.model.attention import PASS
from ratchet.model.batch import Device, Packing, SequenceBatch, collate
from ratchet.model.causal import need_causal, need_equal, probe_ids, trying
from ratchet.model.head import AnswerHead, as_head_takes, chunk_rows, scaling_of
from ratchet.model.last_layer import narrow
from ratchet.model.load import original_length, put_back
from ratchet.model.parts import decoder_of
from ratchet.model.routing import Routers, still
from ratchet.model.support import packing_of
from ratchet.model.tree import Sharing
from ratchet.pairs.pair import TokenisedPair

_LOGIT_BYTES = 16
"""What a logit takes in another module's head: itself, its float32 copy, and what autograd keeps of both."""


class Scorer(Protocol):
    """A PairScorer, or an engine around one."""

    packing: Packing

    def __call__(self, batch: SequenceBatch, /) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class SideScores:
    """Summed answer log-probabilities in nats and answer token counts, each (B,).

    The log-probabilities are float32 (float64 for a float64 model) and carry gradients where these
    are on; the rejected side of a demonstration is NaN with 0 tokens. Counts are int64.
    """

    chosen_B: Tensor
    rejected_B: Tensor
    chosen_tokens_B: Tensor
    rejected_tokens_B: Tensor

    def at(self, pair: int) -> SideScores:
        """Return the scores of one pair."""
        return SideScores(*(getattr(self, field.name)[pair : pair + 1] for field in dataclasses.fields(self)))


class PairScorer(nn.Module):
    """A causal language model that gives the summed log-probability of each sequence's answer.

    Runs the decoder for hidden states, then the head on answer positions alone, a few rows at a
    time (`head_rows`; as many as memory allows by default): no tensor of all tokens times the
    vocabulary ever lives. Decoder and head are called as modules, so that ZeRO-3 and adapters see
    their hooks. `packing` says how sequences are laid out: `collate` takes it. `device` is where the model
    will run, if it is to be moved. `router_loss` is the weight of that loss, or `model` for the one of the
    model's configuration. Padding is on the right and attention causal, so no mask is needed; `check`, at
    construction, proves both and the head. Raises ModelError.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sharing: Sharing = "auto",
        head_rows: int | None = None,
        device: torch.device | None = None,
        router_loss: float | str = "off",
    ) -> None:
        super().__init__()
        self.model = model
        self.scaling = scaling_of(self.causal)
        self.original = original_length(self.causal.config)
        head = self.causal.get_output_embeddings()
        if type(head) is nn.Linear:
            AnswerHead.adopt(head)
        self.head_rows = head_rows
        still(self.causal)
        self.routers = Routers(self.causal)
        self.check()
        if router_loss != "off":
            self.routers.balance(router_loss)
        narrow(decoder_of(self.causal))
        here: torch.device = self.causal.get_input_embeddings().weight.device
        found = packing_of(self.causal, sharing, self.forward, device or here)
        count, whole = len(self.causal.get_input_embeddings().weight), self.routers.weight > 0
        self.packing = dataclasses.replace(found, vocabulary=count, whole=whole)

    @property
    def causal(self) -> Any:
        """The causal language model itself, below any adapter wrapper."""
        inner = getattr(self.model, "get_base_model", None)
        return inner() if inner is not None else self.model

    def hidden(self, batch: SequenceBatch) -> Tensor:
        """Return the decoder's last hidden states, shape (R, T, H). Raises ModelError.

        In a forest those of the rows in `batch.rows_E` alone are right, but for a packing that asks for the whole.
        """
        self.routers.begin()
        if batch.plan is None and self.original is not None and batch.input_ids_RT.shape[1] > self.original:
            return self._row_by_row(batch)
        if self.original is not None:
            put_back(self.causal)
        forest: dict[str, Any] = {}
        if batch.plan is not None:
            mask = torch.zeros(PASS, device=batch.input_ids_RT.device)
            forest = {
                "position_ids": batch.positions_RT,
                "attention_mask": mask,
                "tree": batch.plan,
                "sight": batch.sight,
            }
        if batch.sight is not None:
            batch.sight.begin()
        scored_K = None if batch.plan is None else batch.plan.scored_K
        with self.routers.over(batch.times_RT.flatten(), scored_K):
            output = decoder_of(self.causal)(input_ids=batch.input_ids_RT, use_cache=False, **forest)
        return output[0]  # type: ignore[no-any-return]

    def _row_by_row(self, batch: SequenceBatch) -> Tensor:
        """Hidden states where rotary frequencies follow the longest row of a call: each row is a call of its own."""
        if any(hasattr(weight, "ds_id") for weight in self.model.parameters()):
            raise ModelError(
                f"a sequence of {batch.input_ids_RT.shape[1]} tokens is over the model's original {self.original}: "
                "there its rotary frequencies depend on the other rows of a pass, and ZeRO-3 cannot pass it alone",
                fix=f"set max_length to {self.original} or less, or deepspeed.zero to 2 or less",
            )
        rows, width = batch.input_ids_RT.shape
        ends_R = torch.zeros(rows, dtype=torch.long, device=batch.rows_E.device)
        ends_R = ends_R.scatter_reduce(0, batch.rows_E // width, batch.rows_E % width, "amax") + 2
        made = []
        for ids_T, times_T, end in zip(batch.input_ids_RT, batch.times_RT, ends_R.tolist(), strict=True):
            put_back(self.causal)
            with self.routers.over(times_T[:end]):
                hidden_1TH = decoder_of(self.causal)(input_ids=ids_T[None, :end], use_cache=False)[0]
            made.append(nn.functional.pad(hidden_1TH, (0, 0, 0, width - hidden_1TH.shape[1])))
        return torch.cat(made)

    def logits(self, hidden_EH: Tensor) -> Tensor:
        """Return the model's own logits for hidden states, shape (E, V), in the head's dtype."""
        head = self.causal.get_output_embeddings()
        return self.scaling.apply(head(as_head_takes(head, hidden_EH)))

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Return the summed answer log-probabilities, shape (S,), float32 (float64 models: float64)."""
        logps_E = self.entries(batch)
        # Added up in float64: the order of the additions (atomic on a GPU) then leaves no trace in float32.
        sums_S = torch.zeros(batch.sequences, dtype=torch.float64, device=logps_E.device)
        return sums_S.index_add(0, batch.sequence_C, logps_E[batch.entry_C].double()).to(logps_E.dtype)

    def entries(self, batch: SequenceBatch) -> Tensor:
        """Return the log-probability of each distinct answer token, shape (E,), float32 (float64 models: float64)."""
        hidden_EH = self.hidden(batch).flatten(0, 1).index_select(0, batch.rows_E)
        return self._entries(hidden_EH, batch.targets_E)

    def _entries(self, hidden_EH: Tensor, targets_E: Tensor) -> Tensor:
        """Return each entry's log-probability, shape (E,)."""
        head = self.causal.get_output_embeddings()
        hidden_EH = as_head_takes(head, hidden_EH)
        size = hidden_EH.element_size() if isinstance(head, AnswerHead) else _LOGIT_BYTES
        rows = self.head_rows or chunk_rows(self.causal.config.get_text_config().vocab_size, hidden_EH.device, size)
        if isinstance(head, AnswerHead):
            return head(hidden_EH, targets_E, self.scaling, rows)  # type: ignore[no-any-return]
        calls = self._head_calls(len(targets_E), rows, targets_E.device)
        parts = []
        for rows_EH, some_E in zip(hidden_EH.tensor_split(calls), targets_E.tensor_split(calls), strict=True):
            if calls > 1 and torch.is_grad_enabled():
                parts.append(checkpoint(self._through_head, rows_EH, some_E, use_reentrant=False))
            else:
                parts.append(self._through_head(rows_EH, some_E))
        return torch.cat(parts)

    def _through_head(self, hidden_EH: Tensor, targets_E: Tensor) -> Tensor:
        """Log-probabilities by way of whatever module the head is (adapters on it, quantised)."""
        logits_EV = self.logits(hidden_EH)
        logits_EV = logits_EV.to(torch.promote_types(logits_EV.dtype, torch.float32))
        return logits_EV.gather(1, targets_E[:, None])[:, 0] - logits_EV.logsumexp(1)

    def _head_calls(self, entries: int, rows: int, device: torch.device) -> int:
        """How often such a head is called: as often on every rank under ZeRO-3, where one with fewer entries makes
        smaller chunks.
        """
        calls = max(1, math.ceil(entries / rows))
        divided = any(hasattr(weight, "ds_id") for weight in self.model.parameters())  # DeepSpeed's mark
        if divided and torch.distributed.is_initialized():
            # Each call gathers weights from every rank, so the ranks agree on the largest count.
            shared = torch.tensor(calls, device=device)
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
            calls = int(shared)
        return calls

    @torch.no_grad()
    def check(self) -> None:
        """Prove on a few tokens that `hidden` and `logits` give what the model's own forward gives,
        and that tokens on the right change nothing to their left. Raises ModelError.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            whole_TV, ids_1T = need_causal(self.causal), probe_ids(self.causal)
            fix = "use a causal language model of transformers that has both"
            with (
                trying(self.causal, "has no decoder and head that can be called apart", fix),
                self.routers.over(torch.ones_like(ids_1T[0])),
            ):
                ours_TV = self.logits(decoder_of(self.causal)(input_ids=ids_1T, use_cache=False)[0][0]).float()
            self.routers.settle()
        finally:
            self.model.train(was_training)
        what = "its logits are not head(decoder(tokens)): what it does besides is not known here"
        need_equal(self.causal, ours_TV, whole_TV, what)


def score(scorer: Scorer, pairs: Sequence[TokenisedPair], device: Device, *, chosen_only: bool = False) -> SideScores:
    """Return the scores of `pairs` in one forward pass, with gradients where these are on.

    `chosen_only` leaves the rejected side NaN.
    """
    batch = collate(pairs, scorer.packing, chosen_only=chosen_only).to(device)
    return by_side(batch, scorer(batch))


def by_side(batch: SequenceBatch, logps_S: Tensor) -> SideScores:
    """Return a batch's log-probabilities by pair and side."""
    rejected_of_K, tokens_S = batch.rejected_of_K, batch.tokens_S
    missing_B = torch.full((batch.pairs,), math.nan, dtype=logps_S.dtype, device=logps_S.device)
    return SideScores(
        chosen_B=logps_S[: batch.pairs],
        rejected_B=missing_B.index_copy(0, rejected_of_K, logps_S[batch.pairs :]),
        chosen_tokens_B=tokens_S[: batch.pairs],
        rejected_tokens_B=torch.zeros_like(tokens_S[: batch.pairs]).index_copy(
            0, rejected_of_K, tokens_S[batch.pairs :]
        ),
    )
