"""Scores of a batch: their sides, their types, and models that cannot be scored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raised import raises
from ratchet.model.batch import PADDED, collate
from ratchet.model.forward import PairScorer, score
from ratchet.pairs.pair import TokenisedPair
from tiny_models import make_pairs, tiny


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_float32_whatever_the_chunk(dtype: torch.dtype) -> None:
    model, pairs = tiny("llama", dtype), make_pairs(8, seed=2)
    with torch.no_grad():
        whole, small = (score(PairScorer(model, head_rows=rows), pairs, "cpu") for rows in (512, 3))
    assert whole.chosen_B.dtype == torch.float32
    torch.testing.assert_close(whole.chosen_B, small.chosen_B, rtol=1e-4 if dtype == torch.float32 else 3e-2, atol=0)


def test_demonstrations_have_no_rejected_side() -> None:
    scorer, pairs = PairScorer(tiny("llama")), make_pairs(3, demonstrations=True)
    scores = score(scorer, pairs, "cpu")
    assert scores.rejected_B.isnan().all() and scores.rejected_tokens_B.tolist() == [0, 0, 0]
    mixed = score(scorer, [*make_pairs(2, seed=5), *pairs], "cpu")
    assert mixed.rejected_B.isnan().tolist() == [False, False, True, True, True]
    torch.testing.assert_close(mixed.chosen_B[2:], scores.chosen_B)
    full = make_pairs(3, seed=6)
    both, one = score(scorer, full, "cpu"), score(scorer, full, "cpu", chosen_only=True)
    torch.testing.assert_close(both.chosen_B, one.chosen_B)
    assert one.rejected_B.isnan().all() and collate(full, PADDED, chosen_only=True).sequences == 3


def test_collate_marks_answer_positions_only() -> None:
    pair = TokenisedPair("a" * 32, *(np.array(ids, np.int32) for ids in ([5, 6, 7], [8, 9], [10])))
    batch = collate([pair], PADDED)
    assert batch.input_ids_RT.tolist() == [[5, 6, 7, 8, 9], [5, 6, 7, 10, 0]]
    assert batch.rows_E.tolist() == [2, 3, 7]
    assert batch.targets_E.tolist() == [8, 9, 10]
    assert batch.sequence_C.tolist() == [0, 0, 1]
    with raises("data.empty-answer"):
        collate([TokenisedPair("a" * 32, pair.prompt[:0], pair.chosen, pair.rejected)], PADDED)


def test_a_model_that_treats_its_logits_otherwise_is_refused() -> None:
    model = tiny("llama")
    inner = model.forward
    model.forward = lambda *a, **k: (out := inner(*a, **k), setattr(out, "logits", out.logits * 1.01))[0]
    with raises("model.unscorable", "logits"):
        PairScorer(model)


def test_a_model_that_sees_ahead_is_refused() -> None:
    model = tiny("llama")
    head = model.lm_head
    hook = lambda module, args: (args[0] + args[0].mean(-2, keepdim=True),)  # noqa: E731
    head.register_forward_pre_hook(hook)
    with raises("model.unscorable", "causal"):
        PairScorer(model)


def test_check_leaves_mode_and_random_state_alone() -> None:
    model = tiny("llama").train()
    before = torch.random.get_rng_state()
    PairScorer(model)
    assert model.training and torch.equal(before, torch.random.get_rng_state())
    assert not score(PairScorer(model), make_pairs(1), "cpu").chosen_B.isnan().any()
