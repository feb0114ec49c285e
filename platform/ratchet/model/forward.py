"""The one way to an answer's log-probability: training, reference scoring and evaluation use this.

Legend: _B pairs, _S sequences, _T positions of a padded sequence, _E scored entries (one answer
token each), _V vocabulary, _H hidden.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ratchet.errors import DataError, ModelError
from ratchet.pairs.pair import TokenisedPair

Device = torch.device | str


@dataclasses.dataclass(frozen=True)
class SequenceBatch:
    """Prompts with answers, padded on the right; all chosen first, then all rejected.

    `rows_E` indexes the S·T positions, flattened, whose hidden state predicts `targets_E`;
    `owner_E` is the sequence that an entry belongs to. `rejected_of` is the pair of each rejected
    sequence: demonstrations have none. All index tensors are int64.
    """

    input_ids_ST: Tensor
    attention_mask_ST: Tensor
    rows_E: Tensor
    targets_E: Tensor
    owner_E: Tensor
    pairs: int
    rejected_of: tuple[int, ...]

    @property
    def sequences(self) -> int:
        return self.pairs + len(self.rejected_of)


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


def collate(pairs: Sequence[TokenisedPair], device: Device, *, chosen_only: bool = False) -> SequenceBatch:
    """Return the batch of `pairs`; with `chosen_only` the rejected answers are left out (sft).

    Raises DataError where a prompt or a chosen answer is empty.
    """
    rejected_of = tuple(i for i, pair in enumerate(pairs) if len(pair.rejected) and not chosen_only)
    sides = [(pair.prompt, pair.chosen) for pair in pairs]
    sides += [(pairs[i].prompt, pairs[i].rejected) for i in rejected_of]
    if not all(len(prompt) and len(answer) for prompt, answer in sides):
        raise DataError("a pair without prompt or answer tokens cannot be scored", fix="make the tokens again")
    longest = max(len(prompt) + len(answer) for prompt, answer in sides)
    ids_ST = np.zeros((len(sides), longest), np.int64)
    mask_ST = np.zeros((len(sides), longest), np.int64)
    rows, targets, owners = [], [], []
    for s, (prompt, answer) in enumerate(sides):
        start, end = len(prompt), len(prompt) + len(answer)
        ids_ST[s, :start], ids_ST[s, start:end], mask_ST[s, :end] = prompt, answer, 1
        rows.append(s * longest + np.arange(start - 1, end - 1))
        targets.append(answer)
        owners.append(np.full(len(answer), s))
    rows_E, targets_E, owner_E = (np.concatenate(part).astype(np.int64) for part in (rows, targets, owners))
    ids, mask, *entries = (torch.from_numpy(part).to(device) for part in (ids_ST, mask_ST, rows_E, targets_E, owner_E))
    return SequenceBatch(ids, mask, entries[0], entries[1], entries[2], len(pairs), rejected_of)


class PairScorer(nn.Module):
    """A causal language model that gives the summed log-probability of each sequence's answer.

    Runs the decoder for hidden states, then the head on answer positions alone, `head_rows` at a
    time, and recomputes each chunk in the backward pass: no tensor of all tokens times the
    vocabulary ever lives. Decoder and head are called as modules, so that ZeRO-3 and adapters see
    their hooks. Padding is on the right and attention causal, so no mask is needed; `check`, which
    runs at construction unless the weights are divided, proves both and the head. Raises ModelError.
    """

    def __init__(self, model: nn.Module, *, head_rows: int = 512) -> None:
        super().__init__()
        self.model = model
        self.head_rows = head_rows
        if not self._divided():
            self.check()

    @property
    def causal(self) -> Any:
        """The causal language model itself, below any adapter wrapper."""
        inner = getattr(self.model, "get_base_model", None)
        return inner() if inner is not None else self.model

    def hidden(self, input_ids_ST: Tensor) -> Tensor:
        """Return the decoder's last hidden states, shape (S, T, H)."""
        output = self.causal.get_decoder()(input_ids=input_ids_ST, use_cache=False)
        return output[0]  # type: ignore[no-any-return]

    def logits(self, hidden_EH: Tensor) -> Tensor:
        """Return the model's own logits for hidden states, shape (E, V), in the model's dtype."""
        causal = self.causal
        logits_EV: Tensor = causal.get_output_embeddings()(hidden_EH)
        config = causal.config.get_text_config()
        if scale := getattr(causal, "logit_scale", None):
            logits_EV = logits_EV * scale  # Cohere
        if scaling := getattr(config, "logits_scaling", None):
            logits_EV = logits_EV / scaling  # Granite
        if multiplier := getattr(config, "lm_head_multiplier", None):
            logits_EV = logits_EV * multiplier  # Falcon-H1
        if cap := getattr(config, "final_logit_softcapping", None):
            logits_EV = torch.tanh(logits_EV / cap) * cap  # Gemma
        return logits_EV

    def forward(self, batch: SequenceBatch) -> Tensor:
        """Return the summed answer log-probabilities, shape (S,), float32 (float64 models: float64)."""
        hidden_STH = self.hidden(batch.input_ids_ST)
        hidden_EH = hidden_STH.flatten(0, 1).index_select(0, batch.rows_E)
        calls = self._head_calls(batch.rows_E)
        parts = []
        for rows_EH, targets_E in zip(hidden_EH.tensor_split(calls), batch.targets_E.tensor_split(calls), strict=True):
            if calls > 1 and torch.is_grad_enabled():
                parts.append(checkpoint(self._entries, rows_EH, targets_E, use_reentrant=False))
            else:
                parts.append(self._entries(rows_EH, targets_E))
        logps_E = torch.cat(parts)
        # Added up in float64: the order of the additions (atomic on a GPU) then leaves no trace in float32.
        sums_S = torch.zeros(batch.sequences, dtype=torch.float64, device=logps_E.device)
        return sums_S.index_add(0, batch.owner_E, logps_E.double()).to(logps_E.dtype)

    def _entries(self, hidden_EH: Tensor, targets_E: Tensor) -> Tensor:
        logits_EV = self.logits(hidden_EH)
        logits_EV = logits_EV.to(torch.promote_types(logits_EV.dtype, torch.float32))
        return logits_EV.gather(1, targets_E[:, None])[:, 0] - logits_EV.logsumexp(1)

    def _divided(self) -> bool:
        """Whether ZeRO-3 has divided the weights (DeepSpeed marks each with its id)."""
        return any(hasattr(weight, "ds_id") for weight in self.model.parameters())

    def _head_calls(self, rows_E: Tensor) -> int:
        """How many chunks the head takes. Under ZeRO-3 each call gathers weights from every rank,
        so the ranks agree on the largest count; a rank with fewer entries makes smaller chunks.
        """
        calls = max(1, math.ceil(len(rows_E) / self.head_rows))
        if self._divided() and torch.distributed.is_initialized():
            shared = torch.tensor(calls, device=rows_E.device)
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
            weight = self.causal.get_input_embeddings().weight
            ids_1T = (torch.arange(1, 13, device=weight.device) * 7919 % weight.shape[0])[None]
            whole_TV = self.causal(input_ids=ids_1T, use_cache=False).logits[0].float()
            ours_TV = self.logits(self.hidden(ids_1T)[0]).float()
            left_TV = self.causal(input_ids=ids_1T[:, :7], use_cache=False).logits[0].float()
        except (AttributeError, TypeError, NotImplementedError) as error:
            raise ModelError(
                f"{type(self.causal).__name__} has no decoder and head that can be called apart: {error}",
                fix="use a causal language model of transformers that has both",
            ) from error
        finally:
            self.model.train(was_training)
        scale = float(whole_TV.abs().max())
        allowed = scale * (1e-4 if weight.dtype in {torch.float32, torch.float64} else 0.05)
        for off, what in (
            (ours_TV - whole_TV, "its logits are not head(decoder(tokens)): it scales them in a way not known here"),
            (left_TV - whole_TV[:7], "later tokens change earlier logits: it is not causal"),
        ):
            if not float(off.abs().max()) <= allowed:
                raise ModelError(
                    f"{type(self.causal).__name__} cannot be scored: {what} (off by {float(off.abs().max()):.3g})",
                    fix="use another architecture",
                )


def score(
    scorer: Callable[[SequenceBatch], Tensor],
    pairs: Sequence[TokenisedPair],
    device: Device,
    *,
    chosen_only: bool = False,
) -> SideScores:
    """Return the scores of `pairs` in one forward pass, with gradients where these are on.

    `scorer` is a PairScorer or an engine around one. `chosen_only` leaves the rejected side NaN.
    """
    batch = collate(pairs, device, chosen_only=chosen_only)
    logps_S = scorer(batch)
    rejected_of = torch.tensor(batch.rejected_of, dtype=torch.int64, device=logps_S.device)
    missing_B = torch.full((batch.pairs,), math.nan, dtype=logps_S.dtype, device=logps_S.device)
    tokens_S = torch.bincount(batch.owner_E, minlength=batch.sequences)
    return SideScores(
        chosen_B=logps_S[: batch.pairs],
        rejected_B=missing_B.index_copy(0, rejected_of, logps_S[batch.pairs :]),
        chosen_tokens_B=tokens_S[: batch.pairs],
        rejected_tokens_B=torch.zeros_like(tokens_S[: batch.pairs]).index_copy(0, rejected_of, tokens_S[batch.pairs :]),
    )
