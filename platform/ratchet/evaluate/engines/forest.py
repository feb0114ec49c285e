"""How likely continuations are, in one layout of all requests: a token that several of them share is computed once.

The layout is training's (`model.tree`). It is computed in passes; the keys and values of what a later pass sees of
earlier ones are kept meanwhile.

Legend: _T rows of the layout, _E scored entries (a row, and the token after it), _C (entry, continuation) incidences,
_R continuations, _U distinct rows that predict something, _V vocabulary, _H hidden.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ratchet.model import attention, memory
from ratchet.model.head import as_head_takes, chunk_rows, scaling_of
from ratchet.model.parts import decoder_of
from ratchet.model.states import carriers, carry_states
from ratchet.model.tree import Branch, Ids, Index, Pass, Trunks, cut_passes, divide_groups, lay_trunks, rows_laid_out
from ratchet.model.tree_plan import TreePlan
from ratchet.serving.requests import Answer, ContinuationRequest

MASKED = 1 << 25
"""Rows of a pass on a CPU times tokens of the longest sequence: a long text's mask has as many numbers."""


@dataclasses.dataclass(frozen=True)
class Entries:
    """What is scored, sorted by row: entry e is the token `targets_E[e]` after row `rows_E[e]`.

    Entry `entry_C[c]` belongs to continuation `owner_C[c]`.
    """

    rows_E: Index
    targets_E: Index
    entry_C: Index
    owner_C: Index


def read_length(request: ContinuationRequest) -> int:
    """Return the tokens that the model reads of a request's longest sequence: the last is predicted alone."""
    return len(request.context) + max(map(len, request.continuations)) - 1


def sequences_of(request: ContinuationRequest) -> list[Ids]:
    """Return the different sequences that the model reads for a request: context and continuation, without its last."""
    distinct = {(*request.context, *one[:-1]) for one in request.continuations}
    return [np.array(ids, np.int32) for ids in distinct]


def layout_rows(requests: Sequence[ContinuationRequest]) -> int:
    """Return the tokens that requests take in one layout."""
    return rows_laid_out([Branch(ids, len(ids)) for request in requests for ids in sequences_of(request)])


@torch.inference_mode()
def forest_likelihoods(model: Any, requests: Sequence[ContinuationRequest], tokens: int | None = None) -> list[Answer]:
    """Return, for each request, Σ log p of each continuation's tokens in nats, and whether each is greedy.

    A pass computes `tokens` at most, as many as pay on the model's device by default. Log-probabilities are taken in
    float32 and added in float64. Layers that carry a state keep none across passes: there a request is not cut.
    """
    budget = tokens or memory.MOST.get(model.device.type, memory.MOST["cuda"])
    if model.device.type == "cpu":
        budget = min(budget, max(1, MASKED // max(map(read_length, requests))))
    if not carriers(model):
        return _in_passes(model, requests, budget)
    answers: dict[int, Answer] = {}
    for places in divide_groups([sequences_of(one) for one in requests], budget):
        some = [requests[place] for place in places]
        answers |= zip(places, _in_passes(model, some, layout_rows(some)), strict=True)
    return [answers[place] for place in range(len(requests))]


def _in_passes(model: Any, requests: Sequence[ContinuationRequest], budget: int) -> list[Answer]:
    laid, entries = _laid(requests)
    logps_E, greedy_E = [], []
    for one, hidden_TH in _computed(model, laid, cut_passes(laid, budget)):
        low, high = np.searchsorted(entries.rows_E, (one.start, one.stop))
        found = _scored(model, hidden_TH, entries.rows_E[low:high] - one.start, entries.targets_E[low:high])
        logps_E.append(found[0])
        greedy_E.append(found[1])
    return _answers(requests, entries, torch.cat(logps_E), torch.cat(greedy_E))


def _laid(requests: Sequence[ContinuationRequest]) -> tuple[Trunks, Entries]:
    read = [(*request.context, *one[:-1]) for request in requests for one in request.continuations]
    place = {ids: at for at, ids in enumerate(dict.fromkeys(read))}
    laid = lay_trunks([np.array(ids, np.int32) for ids in place])
    tails = [(len(request.context), one) for request in requests for one in request.continuations]
    rows_C = np.concatenate(
        [
            laid.rows_of[place[ids]][start - 1 : start - 1 + len(one)]
            for ids, (start, one) in zip(read, tails, strict=True)
        ]
    )
    targets_C = np.concatenate([np.array(one, np.int64) for _, one in tails])
    pairs_E2, entry_C = np.unique(np.stack([rows_C, targets_C], 1), axis=0, return_inverse=True)
    owner_C = np.repeat(np.arange(len(tails)), [len(one) for _, one in tails])
    return laid, Entries(pairs_E2[:, 0], pairs_E2[:, 1], entry_C.reshape(-1).astype(np.int64), owner_C)


def _computed(model: Any, laid: Trunks, cut: Sequence[Pass]) -> Iterator[tuple[Pass, Tensor]]:
    """Yield each pass with the hidden states of its rows, (T, H)."""
    from transformers import DynamicCache

    device = model.device
    # Of one kind for all layers: a pass decides itself which rows are kept, whatever the layer.
    cache = DynamicCache() if len(cut) > 1 else None
    with _as_forest(model):
        for at, one in enumerate(cut):
            own = slice(one.start, one.stop)
            plan = TreePlan(one.chains, torch.from_numpy(one.end_KT).to(device), kept=len(one.kept_K))
            hidden_1TH = decoder_of(model)(
                input_ids=torch.from_numpy(laid.ids_T[None, own]).to(device),
                position_ids=torch.from_numpy(laid.depth_T[None, own]).to(device),
                attention_mask=torch.zeros(attention.PASS, device=device),
                past_key_values=cache,
                use_cache=cache is not None,
                tree=plan,
            )[0]
            if cache is not None:
                _keep(cache, one, cut[at + 1].kept_K if at + 1 < len(cut) else one.kept_K[:0])
            yield one, hidden_1TH[0]


def _keep(cache: Any, one: Pass, kept_K: Index) -> None:
    """Leave in the cache the rows that the next pass sees: of this pass's kept rows some, and some of its own."""
    before = len(one.kept_K)
    deep = int(np.searchsorted(kept_K, one.start))
    index = np.concatenate([np.arange(deep), kept_K[deep:] - one.start + before])
    for layer in cache.layers:
        if layer.get_seq_length() != before + one.stop - one.start:
            raise ValueError("a layer of the model keeps other rows than those it was given")
        rows = torch.from_numpy(index).to(layer.keys.device)
        layer.keys, layer.values = layer.keys.index_select(-2, rows), layer.values.index_select(-2, rows)


@contextlib.contextmanager
def _as_forest(model: Any) -> Iterator[None]:
    """Let the model attend over forests. Texts are written with its own attention, as before."""
    before = model.config._attn_implementation
    attention.register()
    carry_states(decoder_of(model))
    model.set_attn_implementation(attention.NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _scored(model: Any, hidden_TH: Tensor, rows_E: Index, targets_E: Index) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each entry, float64, and whether it is the likeliest token after its row."""
    head, scaling = model.get_output_embeddings(), scaling_of(model)
    rows_U, at_E = np.unique(rows_E, return_inverse=True)
    step = chunk_rows(model.config.get_text_config().vocab_size, hidden_TH.device, 4)  # in float32
    logps, greedy = [hidden_TH.new_zeros(0, dtype=torch.float64)], [hidden_TH.new_zeros(0, dtype=torch.bool)]
    for first in range(0, len(rows_U), step):
        rows = torch.from_numpy(rows_U[first : first + step]).to(hidden_TH.device)
        logits_UV = scaling.apply(head(as_head_takes(head, hidden_TH[rows]))).float()
        low, high = np.searchsorted(at_E, (first, first + step))
        at = torch.from_numpy(at_E[low:high] - first).to(hidden_TH.device)
        targets = torch.from_numpy(targets_E[low:high]).to(hidden_TH.device)
        # A whole log_softmax would be the logits once more in memory.
        logps.append((logits_UV[at, targets] - logits_UV.logsumexp(-1)[at]).double())
        greedy.append(logits_UV.argmax(-1)[at] == targets)
    return torch.cat(logps), torch.cat(greedy)


def _answers(
    requests: Sequence[ContinuationRequest], entries: Entries, logps_E: Tensor, greedy_E: Tensor
) -> list[Answer]:
    count = int(entries.owner_C[-1]) + 1
    logps_R = np.bincount(entries.owner_C, logps_E.cpu().numpy()[entries.entry_C], count)
    missed_R = np.bincount(entries.owner_C, ~greedy_E.cpu().numpy()[entries.entry_C], count)
    answers, at = [], 0
    for request in requests:
        end = at + len(request.continuations)
        tokens = len(request.context) + sum(map(len, request.continuations))
        greedy = tuple(bool(missed == 0) for missed in missed_R[at:end])
        answers.append(Answer("", "scored", tokens, 0, tuple(logps_R[at:end].tolist()), greedy))
        at = end
    return answers
