"""Under ZeRO-3 all workers call a module as often in a pass, whatever forks their forests have."""

from __future__ import annotations

import logging

import pytest
import torch

from ratchet.model.batch import collate
from ratchet.model.forward import PairScorer
from ratchet.train.scorer import call_alike
from tiny_models import family_of_pairs, tiny


def test_workers_under_zero_3_call_each_layer_alike(caplog: pytest.LogCaptureFixture) -> None:
    scorer, other = PairScorer(tiny("lfm2", torch.float32)), PairScorer(tiny("llama", torch.float32))
    with torch.no_grad():
        shared = scorer(collate(family_of_pairs(), scorer.packing))
    with caplog.at_level(logging.WARNING, "ratchet"):
        call_alike(scorer)
        call_alike(other)
    assert other.packing.why_padded is None
    assert caplog.text.count("shares no tokens") == 1 and "ZeRO-3 asks all workers" in caplog.text
    batch = collate(family_of_pairs(), scorer.packing)
    assert batch.plan is None
    with torch.no_grad():
        torch.testing.assert_close(scorer(batch), shared, rtol=1e-5, atol=1e-5)
