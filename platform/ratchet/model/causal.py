"""Whether a model reads nothing but tokens, and predicts each from those before it: tried on a few.

Legend: _1T the ids of one sequence, _TV logits by position and vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ratchet.errors import ModelError
from ratchet.pairs.trust import first_words
from ratchet.store.machine import out_of_memory

_BROKEN = (AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)
"""What a model's code raises where it is asked for what it was not made for."""
_READ = 7
"""Tokens of the sequence that are also read without those after them."""


def probe_ids(causal: Any) -> Tensor:
    """Return a sequence of ids that are spread over the vocabulary, shape (1, T), on the model's device."""
    weight: Tensor = causal.get_input_embeddings().weight
    return (torch.arange(1, 13, device=weight.device) * 7919 % weight.shape[0])[None]


@torch.no_grad()
def need_causal(causal: Any, *, masked: bool = False) -> Tensor:
    """Return the logits that a model's own forward gives for `probe_ids`, float32, shape (T, V).

    `masked` gives a mask of ones with the ids, as evaluation does. The model is in evaluation mode.
    Raises ModelError where token ids are not enough for it, or later tokens change earlier logits.
    """
    with trying(causal, "does not run on token ids alone", "give a causal language model of texts"):
        ids_1T = probe_ids(causal)
        whole_TV, left_TV = (_logits(causal, some, masked=masked) for some in (ids_1T, ids_1T[:, :_READ]))
    need_equal(causal, left_TV, whole_TV[:_READ], "later tokens change earlier logits: it is not causal")
    return whole_TV


def _logits(causal: Any, ids_1T: Tensor, *, masked: bool) -> Tensor:
    mask = {"attention_mask": torch.ones_like(ids_1T)} if masked else {}
    return causal(input_ids=ids_1T, use_cache=False, **mask).logits[0].float()  # type: ignore[no-any-return]


@contextlib.contextmanager
def trying(causal: Any, what: str, fix: str) -> Iterator[None]:
    """Raise ModelError, saying `what` a model does, where its code fails within."""
    try:
        yield
    except _BROKEN as error:
        if out_of_memory(f"{type(error).__name__}: {error}"):  # which says nothing of the model
            raise
        dtype = causal.dtype
        half = f" in {str(dtype).removeprefix('torch.')}" if dtype.itemsize < torch.float32.itemsize else ""
        raise ModelError(
            f"{type(causal).__name__} {what}{half}: {first_words(error)}",
            where=causal.name_or_path,
            fix=fix + (", or try float32" if half else ""),
            code="model.unscorable",
        ) from error


def need_equal(causal: Any, found_TV: Tensor, wanted_TV: Tensor, what: str) -> None:
    """Raise ModelError, saying `what` is wrong, where two ways to a model's logits differ by more than they round."""
    rounds = 1e-4 if causal.get_input_embeddings().weight.dtype in {torch.float32, torch.float64} else 0.05
    off = float((found_TV - wanted_TV).abs().max())
    if not off <= rounds * float(wanted_TV.abs().max()):
        raise ModelError(
            f"{type(causal).__name__} cannot be scored: {what} (off by {off:.3g})",
            where=causal.name_or_path,
            fix="use another architecture",
            code="model.unscorable",
        )
