"""Which experts tokens went to, against tokens routed alone, and families without a router loss."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DeepseekV3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from raised import raises
from ratchet.model.batch import PADDED, Packing, collate
from ratchet.model.forward import PairScorer
from ratchet.model.lora import add_lora
from ratchet.model.routing import load_metrics
from ratchet.pairs.pair import TokenisedPair
from ratchet.plan.training import Lora
from routed_models import made, sequences
from tiny_models import ENDS, SMALL, family_of_pairs, tiny

LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}


def loads(scorer: PairScorer, pairs: list[TokenisedPair], packing: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        scorer(collate(pairs, packing))
    return scorer.routers.take().chosen


@pytest.mark.parametrize("family", ["jamba", "mixtral"])
def test_rows_of_a_pass_are_routed_as_alone_and_padding_is_counted_nowhere(family: str) -> None:
    """Experts as chosen by transformers for each sequence alone, against forests and padded rows."""
    model, pairs = made(family), family_of_pairs()
    each = [model(input_ids=ids, output_router_logits=True, use_cache=False).router_logits for ids in sequences(pairs)]
    wanted = [
        torch.bincount(torch.cat([part.topk(2, -1).indices.flatten() for part in layer]), minlength=4).double()
        for layer in zip(*each, strict=True)
    ]
    scorer = PairScorer(model).eval()
    assert (scorer.packing.why_padded is None) == (family == "mixtral")
    packings = [PADDED] + [replace(Packing(one), whole=True) for one in ("auto", "none") if family == "mixtral"]
    for packing in packings:
        found = loads(scorer, pairs, packing)
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True)), packing
    assert sum(float(one.sum()) for one in wanted) == len(wanted) * 2 * sum(ids.shape[1] for ids in sequences(pairs))


def test_a_last_layer_that_computes_scored_rows_alone_counts_those(tmp_path: Path) -> None:
    scorer, pairs = PairScorer(made("mixtral")).eval(), family_of_pairs()
    first, last = loads(scorer, pairs, scorer.packing)
    batch = collate(pairs, scorer.packing)
    assert batch.plan is not None and batch.plan.scored_K is not None
    assert float(first.sum()) == 2 * float(batch.times_RT.sum())
    assert float(last.sum()) == 2 * float(batch.times_RT[0, batch.plan.scored_K].sum()) < float(first.sum())


@pytest.mark.parametrize("layout", ["auto", "none"])
def test_a_row_stands_for_as_many_tokens_as_sequences_have_it(layout: Any) -> None:
    pairs = family_of_pairs()
    times_RT = collate(pairs, Packing(layout)).times_RT
    assert int(times_RT.sum()) == sum(ids.shape[1] for ids in sequences(pairs))
    assert (int(times_RT.max()) > 1) == (layout == "auto") and int(times_RT.min()) == 1


def test_a_family_without_a_router_loss_is_refused_and_its_load_is_known_all_the_same() -> None:
    torch.manual_seed(0)
    config = DeepseekV3Config(
        **SMALL, **ENDS, **LATENT, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
        moe_intermediate_size=16, first_k_dense_replace=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with raises("model.router-loss", "balance by a bias"):
        PairScorer(model, router_loss=0.1)
    with torch.no_grad():  # so that the bias decides: an expert that probability alone would not choose
        model.model.layers[1].mlp.gate.e_score_correction_bias[3] = 9.0
    scorer, pairs = PairScorer(model).eval(), family_of_pairs()
    (found,) = loads(scorer, pairs, replace(scorer.packing, whole=True))
    assert scorer.routers.places == [1] and float(found[3]) == float(found.sum()) / 2
    with raises("model.router-loss", "no routers"):
        PairScorer(tiny("llama"), router_loss="model")


def test_a_router_with_an_adapter_is_heard_with_it(tmp_path: Path) -> None:
    model = add_lora(made("jamba", torch.float32), Lora(rank=2, targets=("router",)))
    scorer, pairs = PairScorer(model).eval(), family_of_pairs()
    before = loads(scorer, pairs, PADDED)[0]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=5.0)
    after = loads(scorer, pairs, PADDED)[0]
    assert before.sum() == after.sum() and not torch.equal(before, after)


def test_load_metrics_by_hand() -> None:
    found = load_metrics([1, 3], [torch.tensor([6.0, 2.0, 0.0, 0.0]), torch.tensor([2.0, 2.0, 2.0, 2.0])])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4)
    assert found == {
        "experts/most": 0.75,
        "experts/least": 0.0,
        "experts/peak": 3.0,
        "experts/entropy": pytest.approx((entropy + 1) / 2),
        "experts/dead": 2.0,
        "experts/peak/1": 3.0,
        "experts/peak/3": 1.0,
    }
    assert load_metrics([], []) == {}
