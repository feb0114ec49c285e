"""Models whose rotary frequencies follow the longest sequence of a call: no number depends on what else is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

from ratchet.evaluate.engines.likelihood import likelihoods, may_share
from ratchet.evaluate.engines.local import LocalEngine
from ratchet.model.batch import collate
from ratchet.model.forward import PairScorer, score
from ratchet.model.load import original_length, put_back
from ratchet.model.scratch import make_scratch
from ratchet.pairs.pair import TokenisedPair
from ratchet.plan.model import Scratch
from ratchet.serving.requests import CompletionRequest, ContinuationRequest, Sampling

ORIGINAL = 24
SMALL: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def config_of(kind: str) -> Any:
    if kind == "dynamic":
        rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
        return LlamaConfig(**SMALL, max_position_embeddings=ORIGINAL, rope_parameters=rope)
    rope = {
        "rope_type": "longrope", "rope_theta": 100.0, "factor": 4.0, "short_factor": [1.0] * 4,
        "long_factor": [3.0, 4.0, 5.0, 6.0], "original_max_position_embeddings": ORIGINAL,
    }  # fmt: skip
    longest = {"max_position_embeddings": 4 * ORIGINAL, "original_max_position_embeddings": ORIGINAL}
    return Phi3Config(**SMALL, **longest, rope_parameters=rope)


@pytest.fixture(params=["dynamic", "longrope"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(5)
    made = AutoModelForCausalLM.from_config(config_of(request.param)).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(4.0)  # so that positions matter
    return made


def ids(seed: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(3, 300, count).tolist())


def alone(model: Any, sequence: tuple[int, ...], after: int) -> float:
    """The definition: one call of the model, as it was loaded, over this sequence."""
    fresh = AutoModelForCausalLM.from_config(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        logps = fresh(torch.tensor([sequence[:-1]])).logits[0].double().log_softmax(-1)
    return float(sum(logps[at - 1, sequence[at]] for at in range(after, len(sequence))))


def requests() -> list[ContinuationRequest]:
    lengths = [(8, (2, 5)), (20, (3, 9)), (40, (4, 1)), (12, (1, 2)), (60, (6, 2))]
    return [
        ContinuationRequest(ids(n, context), tuple(ids(100 + 10 * n + k, size) for k, size in enumerate(sizes)))
        for n, (context, sizes) in enumerate(lengths)
    ]


def test_the_original_length_is_read_from_the_configuration(model: Any) -> None:
    assert original_length(model.config) == ORIGINAL
    assert original_length(LlamaConfig(**SMALL, max_position_embeddings=ORIGINAL)) is None


@pytest.mark.parametrize("share", [True, False])
def test_likelihoods_do_not_depend_on_the_batch_or_on_what_came_before(model: Any, share: bool) -> None:
    asked = requests()
    wanted = [[alone(model, one.context + more, len(one.context)) for more in one.continuations] for one in asked]
    together = likelihoods(model, asked, share=share)
    turned = likelihoods(model, asked[::-1], share=share)[::-1]
    single = [likelihoods(model, [one], share=share)[0] for one in asked]
    for found in (together, turned, single):
        assert [list(one.logprobs or ()) for one in found] == [pytest.approx(one, abs=2e-4) for one in wanted]
    assert [one.greedy for one in together] == [one.greedy for one in single]


def test_the_fault_is_there_without_it(model: Any) -> None:
    long, short = torch.tensor([ids(1, 60)]), torch.tensor([ids(2, 10)])
    with torch.no_grad():
        before = model(short).logits
        beside = model(torch.cat([torch.nn.functional.pad(short, (0, 50)), long])).logits[:1, :10]
        assert float((beside - before).abs().max()) > 1e-2
        put_back(model)
        assert torch.equal(model(short).logits, before)


def test_sharing_is_still_tried_on_the_model(model: Any) -> None:
    assert may_share(model)


def pairs() -> list[TokenisedPair]:
    def array(seed: int, count: int) -> Any:
        return np.array(ids(seed, count), np.int32)

    sizes = [(10, 5, 30), (6, 4, 3), (30, 12, 8), (12, 3, 5)]
    return [TokenisedPair(str(n), array(n, a), array(50 + n, b), array(80 + n, c)) for n, (a, b, c) in enumerate(sizes)]


def test_pairs_score_alike_in_any_company_and_gradients_flow(model: Any) -> None:
    scorer = PairScorer(model).eval()
    with torch.no_grad():
        whole = score(scorer, pairs(), "cpu")
        single = [score(scorer, [pair], "cpu") for pair in pairs()]
    for side in ("chosen_B", "rejected_B"):
        assert getattr(whole, side).tolist() == pytest.approx(
            [float(getattr(one, side)[0]) for one in single], abs=2e-4
        )
    pair = pairs()[0]
    sequence = (*pair.prompt.tolist(), *pair.rejected.tolist())
    with torch.no_grad():  # the definition reads the whole sequence, as the trainer does
        fresh = AutoModelForCausalLM.from_config(model.config).eval()
        fresh.load_state_dict(scorer.model.state_dict())
        logps = fresh(torch.tensor([sequence])).logits[0].log_softmax(-1)
    wanted = float(sum(logps[at - 1, sequence[at]] for at in range(10, len(sequence))))
    assert float(whole.rejected_B[0]) == pytest.approx(wanted, abs=2e-4)
    scorer(collate(pairs(), scorer.packing)).sum().backward()
    assert all(weight.grad is not None and bool(weight.grad.isfinite().all()) for weight in model.parameters())


def test_texts_do_not_depend_on_the_batch(tmp_path: Path, model: Any) -> None:
    spec = Scratch(tokenizer_from=("a",), vocab_size=300, hidden_size=32, layers=1, heads=4, key_value_heads=2)
    make_scratch(spec, [f"text {n}" for n in range(50)], tmp_path / "made")
    config = model.config
    model.save_pretrained(tmp_path / "made")
    assert config.rope_parameters["rope_type"] in {"dynamic", "longrope"}
    engine = LocalEngine(tmp_path / "made", "float32", "cpu")
    engine.longest = 4 * ORIGINAL
    asked = [CompletionRequest(ids(n, size), Sampling(max_tokens=8)) for n, size in enumerate((5, 30, 9, 50, 12))]
    together = engine.answer(asked)
    assert together == [engine.answer([one])[0] for one in asked]
    assert together == engine.answer(asked[::-1])[::-1]
