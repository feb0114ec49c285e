"""Answer log-probabilities against a plain forward pass of one sequence at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    Qwen2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ratchet.errors import DataError, ModelError
from ratchet.model.forward import PairScorer, collate, score
from ratchet.pairs.pair import TokenisedPair

SMALL = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CONFIGS = {
    "llama": LlamaConfig(**SMALL, **ENDS),
    "llama-gqa-tied": LlamaConfig(**SMALL, **ENDS, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SMALL, **ENDS, num_key_value_heads=2),
    "gemma2-capped": Gemma2Config(
        **SMALL, **ENDS, num_key_value_heads=2, head_dim=4, final_logit_softcapping=0.02, sliding_window=8
    ),
    "gpt-neox": GPTNeoXConfig(**SMALL, **ENDS),
    "gpt2": GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=4, n_positions=64, **ENDS),
    "cohere": CohereConfig(**SMALL, **ENDS, logit_scale=0.25),
    "granite": GraniteConfig(**SMALL, **ENDS, logits_scaling=3.0),
}


def tiny(name: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(3)
    config = CONFIGS[name]
    for key in ("attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop", "attn_pdrop"):
        if hasattr(config, key):
            setattr(config, key, 0.0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def make_pairs(count: int, seed: int = 0, *, demonstrations: bool = False) -> list[TokenisedPair]:
    random = np.random.default_rng(seed)
    ids = lambda low, high: random.integers(3, 61, random.integers(low, high)).astype(np.int32)  # noqa: E731
    return [
        TokenisedPair(f"{i:032x}", ids(1, 12), ids(1, 15), ids(0, 1) if demonstrations else ids(1, 15))
        for i in range(count)
    ]


def plain(model: Any, prompt: np.ndarray, answer: np.ndarray) -> torch.Tensor:
    ids = torch.tensor(np.concatenate([prompt, answer]).astype(np.int64))[None]
    logps = model(input_ids=ids).logits[0].log_softmax(-1)
    at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return torch.stack([logps[t, ids[0, t + 1]] for t in at]).sum()


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_and_every_gradient_equal_a_plain_forward(name: str) -> None:
    model, pairs = tiny(name), make_pairs(5)
    scores = score(PairScorer(model, head_rows=7), pairs, "cpu")
    weights = torch.linspace(-1, 2, 5, dtype=torch.float64)
    ((scores.chosen_B - 0.7 * scores.rejected_B) * weights).sum().backward()
    ours = {key: weight.grad.clone() for key, weight in model.named_parameters()}
    model.zero_grad()
    chosen = torch.stack([plain(model, pair.prompt, pair.chosen) for pair in pairs])
    rejected = torch.stack([plain(model, pair.prompt, pair.rejected) for pair in pairs])
    ((chosen - 0.7 * rejected) * weights).sum().backward()
    torch.testing.assert_close(scores.chosen_B, chosen, rtol=0, atol=1e-10)
    torch.testing.assert_close(scores.rejected_B, rejected, rtol=0, atol=1e-10)
    assert ours.keys() == dict(model.named_parameters()).keys()
    single = name in {"gemma2-capped", "cohere"}  # their norms work in float32 inside a float64 model
    allowed = 1e-6 if single else 1e-10
    for key, weight in model.named_parameters():
        torch.testing.assert_close(ours[key], weight.grad, rtol=0, atol=allowed, msg=lambda m, key=key: f"{key}: {m}")
    assert scores.chosen_tokens_B.tolist() == [len(pair.chosen) for pair in pairs]
    assert scores.rejected_tokens_B.tolist() == [len(pair.rejected) for pair in pairs]


@pytest.mark.parametrize("name", ["llama-gqa-tied", "gemma2-capped", "gpt2"])
def test_company_and_padding_change_nothing(name: str) -> None:
    scorer, pairs = PairScorer(tiny(name)), make_pairs(6, seed=1)
    long = TokenisedPair("f" * 32, *(np.full(20, k, np.int32) for k in (5, 6, 7)))
    with torch.no_grad():
        together = score(scorer, [*pairs, long], "cpu")
        for i, pair in enumerate(pairs):
            alone = score(scorer, [pair], "cpu")
            assert abs(float(alone.chosen_B[0] - together.chosen_B[i])) < 1e-10
            assert abs(float(alone.rejected_B[0] - together.rejected_B[i])) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_float32_whatever_the_chunk(dtype: torch.dtype) -> None:
    model, pairs = tiny("llama", dtype), make_pairs(8, seed=2)
    with torch.no_grad():
        whole, small = (score(PairScorer(model, head_rows=rows), pairs, "cpu") for rows in (512, 3))
    assert whole.chosen_B.dtype == torch.float32
    torch.testing.assert_close(whole.chosen_B, small.chosen_B, rtol=1e-4 if dtype == torch.float32 else 3e-2, atol=0)


def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        model = tiny("llama-gqa-tied")
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        score(PairScorer(model, head_rows=9), make_pairs(4), "cpu").chosen_B.sum().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


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
    assert one.rejected_B.isnan().all() and collate(full, "cpu", chosen_only=True).sequences == 3


def test_collate_marks_answer_positions_only() -> None:
    pair = TokenisedPair("a" * 32, *(np.array(ids, np.int32) for ids in ([5, 6, 7], [8, 9], [10])))
    batch = collate([pair], "cpu")
    assert batch.input_ids_ST.tolist() == [[5, 6, 7, 8, 9], [5, 6, 7, 10, 0]]
    assert batch.attention_mask_ST.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.rows_E.tolist() == [2, 3, 7]
    assert batch.targets_E.tolist() == [8, 9, 10]
    assert batch.owner_E.tolist() == [0, 0, 1]
    with pytest.raises(DataError, match="cannot be scored"):
        collate([TokenisedPair("a" * 32, pair.prompt[:0], pair.chosen, pair.rejected)], "cpu")


def test_a_model_that_treats_its_logits_otherwise_is_refused() -> None:
    model = tiny("llama")
    inner = model.forward
    model.forward = lambda *a, **k: (out := inner(*a, **k), setattr(out, "logits", out.logits * 1.01))[0]
    with pytest.raises(ModelError, match="scales them in a way not known here"):
        PairScorer(model)


def test_a_model_that_sees_ahead_is_refused() -> None:
    model = tiny("llama")
    head = model.lm_head
    hook = lambda module, args: (args[0] + args[0].mean(-2, keepdim=True),)  # noqa: E731
    head.register_forward_pre_hook(hook)
    with pytest.raises(ModelError, match="not causal"):
        PairScorer(model)


def test_check_leaves_mode_and_random_state_alone() -> None:
    model = tiny("llama").train()
    before = torch.random.get_rng_state()
    PairScorer(model)
    assert model.training and torch.equal(before, torch.random.get_rng_state())
    assert not score(PairScorer(model), make_pairs(1), "cpu").chosen_B.isnan().any()
