"""Sequences beyond a sliding window are shared, or padded where that cannot be proven."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import numpy as np
import pytest
import torch

from plain_scores import EXPERTS, assert_near_plain, long_pairs, plain_model, plain_scores
from ratchet.model import attention, support
from ratchet.model.batch import collate
from ratchet.model.forward import PairScorer, score
from ratchet.pairs.pair import TokenisedPair
from tiny_models import tiny

pytestmark = pytest.mark.heavy

LONG = long_pairs(answer=80, prompt=40, chosen=20, rejected=20)
"""Of up to 150 tokens: many times the windows here."""


@pytest.mark.parametrize("name", ["mistral-narrow", "gemma2-capped", "gpt-oss", "granite-swa", "mimo-v2"])
def test_sequences_beyond_a_sliding_window_are_shared_in_float32_too(name: str) -> None:
    extra = {"experts_implementation": "eager"} if name in EXPERTS else {}
    ours, theirs = tiny(name, torch.float32, **extra), plain_model(name, **extra)
    ours.load_state_dict({key: 0.5 * weight for key, weight in ours.state_dict().items()})
    theirs.load_state_dict(ours.state_dict())
    scorer, pairs = PairScorer(ours), LONG
    batch = collate(pairs, scorer.packing)
    assert batch.plan is not None and scorer.packing.longest is None
    assert batch.computed < 0.6 * sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in pairs)
    assert_near_plain(scorer, theirs, pairs)


def test_a_window_that_attention_does_not_know_of_pads_what_is_longer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs, attend = tiny("mistral"), tiny("mistral"), attention.attend

    def windowless(*args: Any, sliding_window: int | None = None, **named: Any) -> Any:
        return attend(*args, **named)

    monkeypatch.setattr(attention, "attend", windowless)
    with caplog.at_level(logging.WARNING, "ratchet"):
        scorer = PairScorer(ours)
    assert "MistralForCausalLM pads what is longer than its window of 64" in caplog.text
    long = [TokenisedPair("long", *(np.arange(3, 3 + n, dtype=np.int32) % 58 + 3 for n in (50, 30, 20)))]
    assert scorer.packing.longest == 64 and collate(long, scorer.packing).plan is None
    scores = score(scorer, long, "cpu")
    chosen, _ = plain_scores(theirs, long)
    torch.testing.assert_close(scores.chosen_B, chosen, rtol=1e-10, atol=0)
    monkeypatch.undo()
    assert PairScorer(tiny("mistral")).packing.longest is None


def test_a_window_that_cannot_be_tried_pads_what_is_longer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(support, "narrowed", lambda _model, _window: contextlib.nullcontext())  # as of copied settings
    with caplog.at_level(logging.WARNING, "ratchet"):
        assert PairScorer(tiny("mistral")).packing.longest == 64
    assert "a narrower one changes no score" in caplog.text
