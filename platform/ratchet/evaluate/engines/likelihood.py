"""How likely continuations of a context are: in one forest, or, where a model takes none, by padded rows.

In padded rows a context is computed once for its own continuations, and they share nothing with other requests.

Axes: _B contexts, _R continuations, _W context tokens (padded left), _T continuation tokens (padded
right), _V vocabulary.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ratchet.errors import ModelError
from ratchet.evaluate.engines.forest import forest_likelihoods, layout_rows, read_length
from ratchet.model.causal import trying
from ratchet.model.load import original_length, put_back
from ratchet.model.memory import FIRST
from ratchet.model.support import lost_states, make_up, narrowed, window_of
from ratchet.serving.requests import Answer, ContinuationRequest

# Logits made at a time: a gigabyte in float32.
_LOGITS = 1 << 28
# Contexts and continuations of several lengths, so that both are padded; small ids, which every vocabulary has.
_PROBE = (
    ContinuationRequest((3, 1, 4, 1, 5, 2, 6), ((5, 3), (5,), (2, 6, 4))),
    ContinuationRequest((2, 7), ((1, 2, 3, 4), (6,))),
)


# Two contexts that begin alike beyond the shortest prefix that is shared, and a stranger.
_FOREST_PROBE = (
    ContinuationRequest((9, 8, 7, 6, 5, 4, 3, 2, 1, 2, 3), ((5, 3), (5,), (2, 6))),
    ContinuationRequest((9, 8, 7, 6, 5, 4, 3, 2, 1, 4), ((1,), (3,), (5, 3))),
    ContinuationRequest((2, 7), ((1, 2, 3, 4), (6,))),
)
_PASS_TRIED = 5
"""Tokens of a pass that is tried: passes then end within contexts and within continuations."""


@torch.inference_mode()
def likelihoods(model: Any, requests: Sequence[ContinuationRequest], *, share: bool, reach: int = 0) -> list[Answer]:
    """Return, for each request, Σ log p of each continuation's tokens in nats, and whether each is greedy.

    Log-probabilities are taken in float32 and added in float64. Requests of at most `reach` tokens are laid out in one
    forest. Of others, with `share`, a context is computed once, and its keys and values serve all of its
    continuations; without, each continuation is a sequence of its own. All give the same numbers but for rounding.
    Where a model's rotary frequencies follow the longest sequence of a call, what is longer than its original length
    is computed alone.
    """
    limit = original_length(model.config)
    if limit is not None:
        # Each time: a call before, or this one, may leave the frequencies of a longer sequence behind.
        put_back(model)
    lengths = [read_length(one) for one in requests]
    near = [place for place, length in enumerate(lengths) if length <= reach]
    far = [place for place, length in enumerate(lengths) if length > reach and (limit is None or length <= limit)]
    answers: dict[int, Answer] = {}
    if near:
        answers |= zip(near, forest_likelihoods(model, [requests[place] for place in near]), strict=True)
    for places in _padded_batches(requests, far):
        some = _likelihoods(model, [requests[place] for place in places], share=share)
        answers |= zip(places, some, strict=True)
    for place in range(len(requests)):
        if place not in answers:
            answers[place] = _alone(model, requests[place])
    return [answers[place] for place in range(len(requests))]


def _padded_batches(requests: Sequence[ContinuationRequest], places: Sequence[int]) -> list[list[int]]:
    """Return the places in batches, the longest first, that take no more padded tokens than all do in one layout.

    That many fit: a unit of requests is cut by its tokens in one layout. A few always do.
    """
    room = max(layout_rows([requests[place] for place in places]), FIRST) if places else 0
    batches: list[list[int]] = []
    for place in sorted(places, key=lambda place: (-read_length(requests[place]), place)):
        grown = [*batches[-1], place] if batches else [place]
        width = max(read_length(requests[one]) for one in grown)
        # A first token takes no row of its own: the context's last position predicts it.
        rows = sum(len(tails) if max(map(len, tails := requests[one].continuations)) > 1 else 1 for one in grown)
        if batches and width * rows <= room:
            batches[-1] = grown
        else:
            batches.append([place])
    return batches


def _alone(model: Any, request: ContinuationRequest) -> Answer:
    """Compute each continuation by itself, with the frequencies that it has alone."""
    parts = []
    for one in request.continuations:
        put_back(model)
        parts += _likelihoods(model, [ContinuationRequest(request.context, (one,))], share=False)
    put_back(model)
    return _together(request, parts)


def _together(request: ContinuationRequest, parts: Sequence[Answer]) -> Answer:
    tokens = len(request.context) + sum(map(len, request.continuations))
    logps = tuple(value for part in parts for value in part.logprobs or ())
    greedy = tuple(value for part in parts for value in part.greedy or ())
    return Answer("", "scored", tokens, 0, logps, greedy)


def _likelihoods(model: Any, requests: Sequence[ContinuationRequest], *, share: bool) -> list[Answer]:
    logps, greedy = (_shared if share else _apart)(model, requests)
    answers, at = [], 0
    for request in requests:
        end = at + len(request.continuations)
        tokens = len(request.context) + sum(map(len, request.continuations))
        answers.append(Answer("", "scored", tokens, 0, tuple(logps[at:end]), tuple(greedy[at:end])))
        at = end
    return answers


def may_share(model: Any) -> bool:
    """Tell, by trying, whether a model's cache can be shared: a few tokens both ways, on the model's device.

    Models that read from left to right in another way than attention does may not take padding or a
    cache that was copied.
    """
    return _agree(model, _PROBE, lambda: _likelihoods(model, _PROBE, share=True))


def forest_reach(model: Any) -> int:
    """Return how long a sequence may be that is laid out in a forest; 0 for a model that takes none.

    A model's make-up may forbid it (`model.support`); what that allows is tried, in one pass and in several, and a
    sliding window narrowed.
    Soft-capped scores are left to padded rows: there torch's attention leaves the cap out, as in lm-eval's own class.
    """
    reason, longest = make_up(model)
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    if reason is not None or capped or lost_states(model, model.device) is not None or not _forest_agrees(model):
        return 0
    limits = [sys.maxsize if longest is None else longest]
    if (window := window_of(model)) is not None and not _slides(model, window):
        limits.append(window)
    return min(limits)


def _slides(model: Any, window: int) -> bool:
    """Tell whether a forest's window is the model's: a narrower one changes both alike."""
    ways = (
        functools.partial(likelihoods, model, _FOREST_PROBE, share=False),
        functools.partial(forest_likelihoods, model, _FOREST_PROBE),
    )
    wide = [way() for way in ways]
    with narrowed(model, window):
        return all(way() != before for way, before in zip(ways, wide, strict=True)) and _forest_agrees(model)


def _forest_agrees(model: Any) -> bool:
    return all(
        _agree(model, _FOREST_PROBE, functools.partial(forest_likelihoods, model, _FOREST_PROBE, tokens))
        for tokens in (None, _PASS_TRIED)
    )


@torch.inference_mode()
def _agree(model: Any, probe: Sequence[ContinuationRequest], compute: Callable[[], list[Answer]]) -> bool:
    """Tell whether what `compute` gives for a probe is what each of its sequences gives alone."""
    # Both sides round, and half precision more.
    coarse = model.dtype in {torch.bfloat16, torch.float16}
    with trying(model, "does not run on padded rows", "give a causal language model of texts"):
        apart = [value for answer in likelihoods(model, probe, share=False) for value in answer.logprobs or ()]
    try:
        shared = [value for answer in compute() for value in answer.logprobs or ()]
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError, ModelError):
        return False  # its cache, or its attention, is of its own kind
    scale = max(abs(value) for value in apart if value is not None)
    return all(abs(a - b) <= (0.02 if coarse else 1e-4) * scale for a, b in zip(apart, shared, strict=True))  # type: ignore[operator]


def _shared(model: Any, requests: Sequence[ContinuationRequest]) -> tuple[list[float], list[bool]]:
    device, width = model.device, max(len(request.context) for request in requests)
    ids_BW = torch.zeros((len(requests), width), dtype=torch.long)
    mask_BW = torch.zeros_like(ids_BW)
    for row, request in enumerate(requests):
        ids_BW[row, width - len(request.context) :] = torch.tensor(request.context)
        mask_BW[row, width - len(request.context) :] = 1
    # Padding stands on the left, and takes a place that every model has.
    places_BW = (mask_BW.cumsum(1) - 1).clamp(min=0)
    out = model(
        input_ids=ids_BW.to(device),
        attention_mask=mask_BW.to(device),
        position_ids=places_BW.to(device),
        use_cache=True,
        logits_to_keep=1,
    )
    first_BV = out.logits[:, -1].float().log_softmax(-1)
    rows = [(row, one) for row, request in enumerate(requests) for one in request.continuations]
    heads = torch.tensor([[row, one[0]] for row, one in rows], device=device)
    logps_R = first_BV[heads[:, 0], heads[:, 1]].double()
    greedy_R = first_BV.argmax(-1)[heads[:, 0]] == heads[:, 1]
    long = [place for place, (_, one) in enumerate(rows) if len(one) > 1]
    step = max(1, _LOGITS // (first_BV.shape[-1] * max((len(rows[place][1]) for place in long), default=1)))
    for begin in range(0, len(long), step):
        places = long[begin : begin + step]
        owners = torch.tensor([rows[place][0] for place in places])
        # The model appends to the cache that it is given, and the next rows need that of the contexts alone.
        cache = copy.deepcopy(out.past_key_values)
        cache.batch_select_indices(owners.to(device))
        more, same = _tails(model, [rows[place][1] for place in places], cache, mask_BW[owners], places_BW[owners])
        index = torch.tensor(places, device=device)
        logps_R[index] += more
        greedy_R[index] &= same
    return logps_R.tolist(), greedy_R.tolist()


def _tails(
    model: Any, continuations: Sequence[tuple[int, ...]], cache: Any, mask_RW: Tensor, places_RW: Tensor
) -> tuple[Tensor, Tensor]:
    """Return Σ log p of all tokens but each continuation's first, and whether all of those are greedy."""
    ids_RT, real_RT = _right_padded(continuations)
    length = ids_RT.shape[1] - 1
    # What predicts nothing has place 0: a place after the row's last might be one that the model does not have.
    places_RT = (places_RW[:, -1:] + 1 + torch.arange(length)) * real_RT[:, 1:]
    out = model(
        input_ids=ids_RT[:, :-1].to(model.device),
        attention_mask=torch.cat([mask_RW, real_RT[:, :-1]], 1).to(model.device),
        position_ids=places_RT.to(model.device),
        past_key_values=cache,
        use_cache=True,
    )
    return _of_targets(out.logits, ids_RT[:, 1:].to(model.device), real_RT[:, 1:].to(model.device))


def _apart(model: Any, requests: Sequence[ContinuationRequest]) -> tuple[list[float], list[bool]]:
    pairs = [(request.context, one) for request in requests for one in request.continuations]
    width = max(len(context) + len(one) for context, one in pairs)
    step = max(1, _LOGITS // (model.config.get_text_config().vocab_size * width))
    logps: list[float] = []
    greedy: list[bool] = []
    for begin in range(0, len(pairs), step):
        some = pairs[begin : begin + step]
        ids_RT, real_RT = _right_padded([(*context, *one) for context, one in some])
        out = model(
            input_ids=ids_RT[:, :-1].to(model.device),
            attention_mask=real_RT[:, :-1].to(model.device),
            use_cache=False,
        )
        asked_RT = real_RT[:, 1:].clone()
        for row, (context, _) in enumerate(some):
            asked_RT[row, : len(context) - 1] = 0
        more, same = _of_targets(out.logits, ids_RT[:, 1:].to(model.device), asked_RT.to(model.device))
        logps += more.tolist()
        greedy += same.tolist()
    return logps, greedy


def _right_padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, sequences))
    ids_RT = torch.zeros((len(sequences), width), dtype=torch.long)
    real_RT = torch.zeros_like(ids_RT)
    for row, one in enumerate(sequences):
        ids_RT[row, : len(one)] = torch.tensor(one)
        real_RT[row, : len(one)] = 1
    return ids_RT, real_RT


def _of_targets(logits_RTV: Tensor, targets_RT: Tensor, asked_RT: Tensor) -> tuple[Tensor, Tensor]:
    asked = asked_RT.bool()
    logits_RTV = logits_RTV.float()
    # A whole log_softmax would be the logits once more in memory.
    picked_RT = logits_RTV.gather(-1, targets_RT[..., None])[..., 0] - logits_RTV.logsumexp(-1)
    same_RT = (logits_RTV.argmax(-1) == targets_RT) | ~asked
    return picked_RT.double().masked_fill(~asked, 0.0).sum(-1), same_RT.all(-1)
