"""How tokens find their experts: without noise in training, whatever else is in a pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import MixtralConfig, PhimoeConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ratchet.model.forward import PairScorer, score
from tiny_models import GROUPED, family_of_pairs

EXPERTS = {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
NOISY: dict[str, Any] = {
    "mixtral": MixtralConfig(**EXPERTS, router_jitter_noise=0.5),
    "phimoe": PhimoeConfig(**EXPERTS, router_jitter_noise=0.3, input_jitter_noise=0.2),
}


def made(config: Any) -> Any:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model


@pytest.mark.parametrize("family", sorted(NOISY))
def test_a_model_with_routing_noise_trains_as_it_answers_and_shares(family: str) -> None:
    model, pairs = made(NOISY[family]), family_of_pairs()
    scorer = PairScorer(model)
    assert scorer.packing.why_padded is None
    scorer.eval()
    with torch.no_grad():
        asked = score(scorer, pairs, "cpu")
        scorer.train()
        trained = score(scorer, pairs, "cpu")
    assert model.training and torch.equal(asked.chosen_B, trained.chosen_B)
    assert torch.equal(asked.rejected_B, trained.rejected_B)
    plain = made(NOISY[family]).eval()
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():  # the threshold of a router stays that of the model as transformers answers with it
        assert torch.equal(model.eval()(input_ids=ids).logits, plain(input_ids=ids).logits)
