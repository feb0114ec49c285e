"""Shared, packed and chunked gives what one plain forward pass for each sequence gives."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nightly import examples, nightly
from plain_scores import EXPERTS, largest, plain_model, plain_scores
from ratchet.losses.preference import LOSSES, PairLogps, preference_loss, sft
from ratchet.model.batch import PADDED, Packing, collate
from ratchet.model.forward import PairScorer, SideScores, by_side, score
from ratchet.pairs.pair import TokenisedPair
from ratchet.plan.stage_kinds import STAGE_KINDS
from tiny_models import CONFIGS, UNSHARED, family_of_pairs, ids, make_pairs, tiny

pytestmark = pytest.mark.heavy

IN_FLOAT32 = {"cohere", "mixtral", "diffllama", "granite-swa", "mimo-v2"}
"""Rotary embeddings, expert routing, factors of attention or of sinks are float32 inside their float64 models."""


@pytest.mark.parametrize(
    ("name", "sharing"),
    nightly(
        itertools.product(CONFIGS, ["auto", "prompt", "none"]),
        lambda name, sharing: sharing == "auto" or name in {"llama-gqa-tied", "gpt-neox"},
    ),
)
def test_scores_and_every_gradient_equal_a_plain_forward(name: str, sharing: Any) -> None:
    extra = {"experts_implementation": "eager"} if name in EXPERTS else {}
    ours, theirs = tiny(name, **extra), plain_model(name, **extra)
    pairs, weights = family_of_pairs(), torch.linspace(-1, 2, 8, dtype=torch.float64)
    scorer = PairScorer(ours, sharing=sharing, head_rows=7)
    assert scorer.packing.why_padded is None and scorer.packing.sharing == sharing
    scores = score(scorer, pairs, "cpu")
    ((scores.chosen_B - 0.7 * scores.rejected_B) * weights).sum().backward()
    chosen, rejected = plain_scores(theirs, pairs)
    ((chosen - 0.7 * rejected) * weights).sum().backward()
    allowed = 1e-6 if name in IN_FLOAT32 else 1e-10
    torch.testing.assert_close(scores.chosen_B, chosen, rtol=allowed, atol=0)
    torch.testing.assert_close(scores.rejected_B, rejected, rtol=allowed, atol=0)
    assert largest(ours, theirs) < allowed
    assert scores.chosen_tokens_B.tolist() == [len(pair.chosen) for pair in pairs]
    assert scores.rejected_tokens_B.tolist() == [len(pair.rejected) for pair in pairs]


answers = st.lists(st.integers(3, 5), min_size=1, max_size=6)
random_pairs = st.lists(st.tuples(st.integers(0, 2), answers, answers), min_size=1, max_size=7)
PROMPTS = [np.arange(10, 19, dtype=np.int32), np.arange(10, 20, dtype=np.int32), ids(7)]


@pytest.fixture(scope="module")
def models() -> tuple[PairScorer, Any]:
    return PairScorer(tiny("llama-gqa-tied"), head_rows=5), tiny("llama-gqa-tied")


@settings(max_examples=examples(15), deadline=None)
@given(sides=random_pairs)
def test_random_trees(models: tuple[PairScorer, Any], sides: list[tuple[int, list[int], list[int]]]) -> None:
    """Prompts that begin alike, answers over three tokens: prefixes, equal sides, forks at any depth."""
    scorer, model = models
    pairs = [
        TokenisedPair(str(i), PROMPTS[p], ids(*chosen), ids(*rejected)) for i, (p, chosen, rejected) in enumerate(sides)
    ]
    scorer.zero_grad()
    model.zero_grad()
    scores = score(scorer, pairs, "cpu")
    (scores.chosen_B - 0.5 * scores.rejected_B).sum().backward()
    chosen, rejected = plain_scores(model, pairs)
    (chosen - 0.5 * rejected).sum().backward()
    torch.testing.assert_close(scores.chosen_B, chosen, rtol=1e-10, atol=0)
    torch.testing.assert_close(scores.rejected_B, rejected, rtol=1e-10, atol=0)
    assert largest(scorer.model, model) < 1e-10


OPTIONS: dict[str, dict[str, Any]] = {
    **{kind: STAGE_KINDS[kind].settings.model_validate({"kind": kind, "data": ["a"]}).model_dump() for kind in LOSSES},
    "dpo": {"beta": 0.3, "label_smoothing": 0.1},
    "dpop": {"beta": 0.3, "penalty": 5.0},
    "ipo": {"beta": 0.2, "length_normalised": True},
}
"""Of every loss: those that try more than its defaults do, else its defaults."""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", [*OPTIONS, "sft"])
def test_every_loss_and_its_gradient(kind: str, dtype: torch.dtype) -> None:
    """float32 against a float64 forward of the same (float32) weights."""
    pairs = family_of_pairs(1)
    ours, theirs = tiny("qwen2", dtype), tiny("qwen2")
    theirs.load_state_dict(ours.state_dict())
    reference = -torch.linspace(20, 50, len(pairs), dtype=torch.float64)

    def loss(sides: SideScores) -> Tensor:
        if kind == "sft":
            return sft(sides.chosen_B)
        tokens = sides.chosen_tokens_B, sides.rejected_tokens_B
        known = reference.to(sides.chosen_B.dtype)
        return preference_loss(kind, PairLogps(sides.chosen_B, sides.rejected_B, known, known, *tokens), OPTIONS[kind])

    found_B = loss(score(PairScorer(ours), pairs, "cpu", chosen_only=kind == "sft"))
    found_B.mean().backward()
    chosen, rejected = plain_scores(theirs, pairs)
    counts = [torch.tensor([len(getattr(pair, side)) for pair in pairs]) for side in ("chosen", "rejected")]
    wanted_B = loss(SideScores(chosen, rejected, *counts))
    wanted_B.mean().backward()
    allowed = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found_B.double(), wanted_B, rtol=allowed, atol=allowed)
    assert largest(ours, theirs) < allowed


def test_bfloat16_autocast_and_weights_stay_within_what_was_measured() -> None:
    """Against float64 a score was at most 0.45 % off under autocast and 0.51 % with bfloat16 weights, over 15
    families and two seeds; one plain forward for each sequence, log-softmax in bfloat16, was up to 0.80 % off.
    """
    for name in ("llama-gqa-tied", "gemma"):
        pairs, exact = [*make_pairs(12, seed=1), *family_of_pairs(1)], tiny(name)
        with torch.no_grad():
            chosen, _ = plain_scores(exact, pairs)
        weights = exact.state_dict()
        single, half = tiny(name, torch.float32), tiny(name, torch.bfloat16)
        single.load_state_dict(weights)
        half.load_state_dict(weights)
        with torch.no_grad():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                autocast = score(PairScorer(single), pairs, "cpu").chosen_B
            weights_too = score(PairScorer(half), pairs, "cpu").chosen_B
        for found in (autocast, weights_too):
            assert found.dtype == torch.float32
            assert float(((found - chosen) / chosen).abs().max()) < 0.01


@pytest.mark.parametrize("name", ["llama-gqa-tied", "gemma3", "gpt-neox", "phi"])
def test_a_branch_does_not_see_another_branch(name: str) -> None:
    """Changing a token of one rejected answer changes that answer's score and no bit of any other."""
    scorer, pairs = PairScorer(tiny(name, torch.float32)), family_of_pairs()
    other = pairs[2].rejected.copy()
    other[-1] = other[-1] % 50 + 3
    changed = [*pairs[:2], TokenisedPair(pairs[2].pair_id, pairs[2].prompt, pairs[2].chosen, other), *pairs[3:]]
    with torch.no_grad():
        batches = [collate(some, scorer.packing) for some in (pairs, changed)]
        assert torch.equal(batches[0].positions_RT, batches[1].positions_RT)  # type: ignore[arg-type]
        before, after = (by_side(batch, scorer(batch)) for batch in batches)
    assert torch.equal(before.chosen_B, after.chosen_B)
    differs = before.rejected_B != after.rejected_B
    assert differs.nonzero().flatten().tolist() == [2]


def test_recomputing_activations_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        model = tiny("llama-gqa-tied").train()
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        score(PairScorer(model, head_rows=9), family_of_pairs(), "cpu").chosen_B.sum().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", UNSHARED)
def test_a_model_that_cannot_share_says_so_once_and_scores_all_the_same(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, pairs = tiny(name, torch.float32), family_of_pairs()
    with caplog.at_level(logging.WARNING, "ratchet"):
        scorer = PairScorer(model)
    said = [record.message.split(":")[0] for record in caplog.records if record.name.startswith("ratchet")]
    assert said == [f"{type(model).__name__} shares no tokens"]
    assert scorer.packing.why_padded and collate(pairs, scorer.packing).plan is None
    with torch.no_grad():
        scores = score(scorer, pairs, "cpu")
        chosen, rejected = plain_scores(model, pairs)
    torch.testing.assert_close(scores.chosen_B, chosen, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores.rejected_B, rejected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"expert_capacity": 4}, "its experts take a share of the batch (expert_capacity)"),
        (
            {"layer_types": ["full_attention", "conv"]},
            "its layers are conv, whose state is kept in a way not known here",
        ),
        (
            {"layer_types": ["indexed_attention", "heavily_compressed_attention", "full_attention"]},
            "its layers are heavily_compressed_attention, which see "
            "keys that several tokens are compressed to, and indexed_attention, which choose each row's keys by an "
            "index",
        ),
    ],
)
def test_what_forbids_sharing_is_read_from_the_configuration(change: dict[str, Any], reason: str) -> None:
    model = tiny("mixtral", torch.float32)
    before = model.config._attn_implementation
    for key, value in change.items():
        setattr(model.config, key, value)
    try:
        assert PairScorer(model).packing == Packing(why_padded=reason, vocabulary=61)
        assert model.config._attn_implementation == before
    finally:
        for key in change:
            delattr(model.config, key)


def test_a_model_whose_routing_depends_on_its_company_is_found_out() -> None:
    model = tiny("llama", torch.float32)
    inner = model.model.layers[0].mlp.forward
    model.model.layers[0].mlp.forward = lambda x: inner(x) * (1 + (x.shape[1] > 20) / 10)  # capacity by the row
    packing = PairScorer(model).packing
    assert packing.why_padded is not None and "its scores of shared tokens are off by" in packing.why_padded


def test_adapters_on_the_head() -> None:
    from peft import LoraConfig, get_peft_model

    pairs = family_of_pairs()
    models = []
    for _ in range(2):
        torch.manual_seed(5)
        config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
        models.append(get_peft_model(tiny("llama"), config).double())
    scores = score(PairScorer(models[0], head_rows=6), pairs, "cpu")
    scores.chosen_B.sum().backward()
    chosen, _ = plain_scores(models[1], pairs)
    chosen.sum().backward()
    torch.testing.assert_close(scores.chosen_B, chosen, rtol=1e-10, atol=0)
    assert largest(*models) < 1e-10
    assert any("lm_head" in name and weight.grad is not None for name, weight in models[0].named_parameters())


def test_a_frozen_head_needs_no_second_pass_and_gives_the_same() -> None:
    gradients = []
    for frozen in (False, True):
        model = tiny("gemma2-capped")
        model.lm_head.weight.requires_grad_(not frozen)  # tied: the embeddings are frozen too
        score(PairScorer(model, head_rows=6), family_of_pairs(), "cpu").chosen_B.sum().backward()
        gradients.append([weight.grad for name, weight in model.named_parameters() if "embed" not in name])
    for trained, frozen_ in zip(*gradients, strict=True):
        torch.testing.assert_close(trained, frozen_, rtol=1e-9, atol=1e-11)


def test_no_tensor_of_tokens_times_vocabulary_lives() -> None:
    """The largest tensor that any operation makes, forward and backward, is a chunk of the head's or the head's own."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, Tensor) and tensor.ndim == 2 and tensor.shape[1] == 61:
                    self.elements = max(self.elements, tensor.shape[0])
            return out

    scorer, pairs = PairScorer(tiny("llama"), head_rows=4), family_of_pairs()
    assert len(collate(pairs, scorer.packing).targets_E) > 30
    with Largest() as seen:
        score(scorer, pairs, "cpu").chosen_B.sum().backward()
    assert seen.elements == 16  # hidden × vocabulary: the transposed weight; chunks have 4 rows


@pytest.mark.parametrize("name", ["llama-gqa-tied", "gemma2-capped", "gpt2"])
def test_company_and_padding_change_nothing(name: str) -> None:
    scorer, pairs = PairScorer(tiny(name)), make_pairs(6, seed=1)
    long = TokenisedPair("f" * 32, *(np.full(20, k, np.int32) for k in (5, 6, 7)))
    with torch.no_grad():
        together = score(scorer, [*pairs, long], "cpu")
        padded = by_side(collate(pairs, PADDED), scorer(collate(pairs, PADDED)))
        for i, pair in enumerate(pairs):
            alone = score(scorer, [pair], "cpu")
            for found in (together.chosen_B[i], padded.chosen_B[i]):
                assert abs(float(alone.chosen_B[0] - found)) < 1e-10
            assert abs(float(alone.rejected_B[0] - together.rejected_B[i])) < 1e-10
