"""The check of the first step in models with experts: rounding turns choices there, and stops no healthy run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV3Config, LlamaConfig, MixtralConfig, OlmoeConfig

from raised import raises
from ratchet.model.forward import PairScorer, score
from ratchet.model.load import keep_rotary_in_float32
from ratchet.model.noise import Noise
from ratchet.pairs.pair import TokenisedPair
from ratchet.train import first_step
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from ratchet.train.first_step import FirstStep
from ratchet.train.objective import Data, Reference, answer_logps, loss_function, passes_over
from train_bench import CPU, Pairs, reference_of, spec_of

pytestmark = pytest.mark.heavy

SMALL = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
GROUPED = {
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
}
CONFIGS: dict[str, Any] = {
    "mixtral": lambda: MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4, sliding_window=None),
    "olmoe": lambda: OlmoeConfig(**SMALL, num_experts=8, num_experts_per_tok=2),
    "deepseek-v3": lambda: DeepseekV3Config(**SMALL, **LATENT, **GROUPED, num_experts_per_tok=2),
    "llama": lambda: LlamaConfig(**SMALL),
}
EXPERTS = ("mixtral", "olmoe", "deepseek-v3")


def made(family: str, seed: int, dtype: torch.dtype) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), dtype=torch.float32)
    for weight in model.parameters():
        weight.data = torch.randn_like(weight) * 0.12 if weight.ndim > 1 else weight + torch.randn_like(weight) * 0.05
    model = model.to(dtype)
    keep_rotary_in_float32(model)
    return model.eval()


def pairs_of(count: int, seed: int) -> Pairs:
    """Prompts of up to 60 tokens with common beginnings, answers of up to 20, half of them near twins."""
    table, draw = Pairs(count, seed), np.random.default_rng(seed)
    ids = lambda size: draw.integers(14, 320, size).astype(np.int32)  # noqa: E731
    prompt, answer = ids(60), ids(20)
    for i in range(count):
        chosen = answer[: draw.integers(1, 21)] if i % 2 else ids(draw.integers(1, 21))
        rejected = chosen.copy() if i % 2 else ids(draw.integers(1, 21))
        if i % 2:
            rejected[len(rejected) // 2] = draw.integers(14, 320)
        length = int(draw.integers(2, 61))
        table.rows[i] = TokenisedPair(table.pair_ids[i], prompt[:length] if i % 3 else ids(length), chosen, rejected)
    table.lengths_N3 = np.array([(len(p.prompt), len(p.chosen), len(p.rejected)) for p in table.rows], np.int32)
    return table


def one_update_on(family: str, seed: int, dtype: torch.dtype, table: Pairs, rate: float) -> Any:
    spec = spec_of(Path("unused"), dtype=str(dtype).removeprefix("torch."))
    engine = TorchEngine(spec, PairScorer(made(family, seed, dtype)), CPU)
    sides = score(engine, table.rows, CPU)
    engine.backward((sides.rejected_B - sides.chosen_B).mean(), last=True)
    engine.step(rate, float(engine.finish_gradient()))
    return engine.scorer.causal


def checked(family: str, seed: int, dtype: torch.dtype, table: Pairs, reference: Reference) -> FirstStep:
    """As the first step of DPO does, in one batch."""
    options = {"beta": 0.1}
    spec = spec_of(
        Path("unused"), dtype=str(dtype).removeprefix("torch."), options=options, batch=len(table), token_budget=4096
    )
    engine = TorchEngine(spec, PairScorer(made(family, seed, dtype)), CPU)
    works = list(passes_over(spec, Data(table, reference), np.arange(len(table)), engine, 4096, Alone()))
    parts, loss = [first_step.measured(engine, works)], 0.0
    for work in works:
        with torch.no_grad():
            logps = answer_logps(engine, work)
        loss += float(loss_function(spec)(logps).sum())
        parts.append(first_step.figures(work.ids, logps))
    return first_step.check(spec, first_step.combine(parts), loss / len(table), len(table))


@pytest.mark.parametrize("family", EXPERTS)
@pytest.mark.parametrize(("seeds", "pairs"), [(range(6), 14), pytest.param(range(20), 84, marks=pytest.mark.slow)])
def test_no_healthy_model_with_experts_is_stopped(family: str, seeds: range, pairs: int) -> None:
    """References scored one pair at a time, training in one batch: other passes turn other choices."""
    for seed in seeds:
        table = pairs_of(pairs, seed)
        first = checked(family, seed, torch.bfloat16, table, reference_of(made(family, seed, torch.bfloat16), table))
        assert first.answers == 2 * pairs and first.off <= max(1, 0.1 * first.answers), seed


@pytest.mark.parametrize("family", [*EXPERTS, "llama"])
@pytest.mark.parametrize(("dtype", "rate"), [(torch.bfloat16, 3e-4), (torch.float32, 1e-6)])
def test_a_reference_one_small_update_away_is_refused(family: str, dtype: torch.dtype, rate: float) -> None:
    table = pairs_of(42, 1)
    stale = reference_of(one_update_on(family, 1, dtype, table, rate), table)
    fresh = reference_of(made(family, 1, dtype), table)
    moved = float(np.median(np.abs(stale.chosen_N - fresh.chosen_N)))
    assert 1e-4 < moved < 2.0 and checked(family, 1, dtype, table, fresh).off <= 8
    with raises("training.first-step") as error:
        checked(family, 1, dtype, table, stale)
    assert ("experts" in error.value.what) == (family in EXPERTS)


def test_a_turned_choice_does_not_widen_what_all_answers_may_be_off() -> None:
    """Of 16 answers two jump: the others tell what rounding does."""
    each = (*(1e-3 * (0.5 + i / 14) for i in range(14)), 0.3, 0.8)
    noise = Noise(sum(one**2 for one in each), 16.0, each)
    assert noise.a_token(torch.bfloat16) > 0.2 and noise.without_jumps().a_token(torch.bfloat16) < 3e-3
    assert Noise(1.0, 4.0).without_jumps() == Noise(1.0, 4.0)
    few = Noise(0.09, 16.0, (0.0,) * 15 + (0.3,))
    assert few.without_jumps().a_token(torch.bfloat16) == pytest.approx(few.a_token(torch.bfloat16))
