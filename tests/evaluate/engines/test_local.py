"""The engine that holds a model: likelihoods by another route, draws by their distribution, stops to the letter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.cache_utils import DynamicLayer

from raised import raises
from ratchet.evaluate.engines.likelihood import forest_reach, likelihoods, may_share
from ratchet.evaluate.engines.local import Draw, LocalEngine, cut_answers, end_ids_of, prompt_ids
from ratchet.model.scratch import make_scratch
from ratchet.pairs.pair import Turn
from ratchet.plan.model import Scratch
from ratchet.serving.requests import ChatRequest, CompletionRequest, ContinuationRequest, Sampling, ScoreRequest
from tiny_models import tiny

RAGGED = [
    ContinuationRequest((5, 9, 33, 7), ((4,), (8, 2, 11), (6, 6))),
    ContinuationRequest((12,), ((3, 3, 3, 3, 3),)),
    ContinuationRequest((7, 7, 7, 21, 40, 41, 42, 43), ((1,), (2,), (3,))),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    spec = Scratch(tokenizer_from=("a",), vocab_size=280, hidden_size=16, layers=1, heads=2, key_value_heads=1,
                   intermediate_size=32, max_positions=64)  # fmt: skip
    make_scratch(spec, ["What is 1 + 2?", "The answer is 3."], made)
    return made


@pytest.fixture(scope="module")
def engine(folder: Path) -> LocalEngine:
    return LocalEngine(folder, "float32", "cpu")


def plainly(model, request: ContinuationRequest) -> list[tuple[float, bool]]:
    """One sequence at a time, no padding, no cache, softmax in float64 numpy."""
    found = []
    for one in request.continuations:
        with torch.inference_mode():
            logits = model(torch.tensor([[*request.context, *one[:-1]]])).logits[0].double().numpy()
        logps = (
            logits
            - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - logits.max(-1, keepdims=True)
        )
        at = [len(request.context) - 1 + place for place in range(len(one))]
        total = float(sum(logps[place, token] for place, token in zip(at, one, strict=True)))
        found.append((total, all(logits[place].argmax() == token for place, token in zip(at, one, strict=True))))
    return found


@pytest.mark.parametrize("name", ["llama", "llama-gqa-tied", "qwen3", "gemma2-capped", "gpt2", "mixtral", "phi"])
@pytest.mark.parametrize("way", ["forest", "shared contexts", "apart"])
def test_likelihoods_are_those_of_each_sequence_alone(name: str, way: str) -> None:
    exact = name != "mixtral"  # whose grouped matrix product knows no float64
    model = tiny(name, torch.float64 if exact else torch.float32)
    reach, share = forest_reach(model) if way == "forest" else 0, way != "apart"
    assert way != "forest" or reach or name == "gemma2-capped"
    greedy_one = ContinuationRequest((5, 9), ((int(model(torch.tensor([[5, 9]])).logits[0, -1].argmax()),),))
    for asked in ([*RAGGED, greedy_one], RAGGED[:1]):
        for request, answer in zip(asked, likelihoods(model, asked, share=share, reach=reach), strict=True):
            wanted = plainly(model, request)
            assert answer.logprobs == pytest.approx([value for value, _ in wanted], abs=1e-5 if exact else 2e-3)
            assert list(answer.greedy or ()) == [same for _, same in wanted]
    assert likelihoods(model, [greedy_one], share=share, reach=reach)[0].greedy == (True,)


def test_many_continuations_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    whole = likelihoods(model, RAGGED, share=True)
    monkeypatch.setattr("ratchet.evaluate.engines.likelihood._LOGITS", 61 * 5)  # room for one row
    for share in (True, False):
        for mine, other in zip(likelihoods(model, RAGGED, share=share), whole, strict=True):
            assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.mark.parametrize(
    "name", ["bloom", "mamba", "mistral-narrow", "gpt-oss", "qwen3.5", "falcon-h1", "gemma3", "cohere", "gpt-neox"]
)
def test_models_of_other_kinds_share_only_what_they_can(name: str) -> None:
    model = tiny(name, torch.float32)
    for request, answer in zip(
        RAGGED, likelihoods(model, RAGGED, share=may_share(model), reach=forest_reach(model)), strict=True
    ):
        assert answer.logprobs == pytest.approx([value for value, _ in plainly(model, request)], abs=2e-3)


def test_a_model_whose_cache_cannot_be_shared_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert may_share(tiny("llama", torch.float32)) and may_share(tiny("llama", torch.bfloat16))
    right = DynamicLayer.batch_select_indices
    for wrong in (lambda self, rows: right(self, rows * 0), lambda self, rows: None):  # other rows; all of them
        monkeypatch.setattr(DynamicLayer, "batch_select_indices", wrong)
        assert not may_share(tiny("llama", torch.float32))


def test_a_draw_follows_the_softmax_of_its_temperature() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]])
    drawn = np.zeros(4)
    for seed in range(4000):
        picked = Draw([Sampling(temperature=0.7, seed=seed)])(torch.zeros(1, 1), logits)
        drawn[int(picked.argmax())] += 1
    wanted = np.exp(np.array([1.0, 0.0, -1.0, 2.0]) / 0.7)
    wanted /= wanted.sum()
    assert np.abs(drawn / 4000 - wanted).max() < 0.03  # four standard deviations


def test_a_nucleus_holds_the_most_likely_tokens_alone() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    seen = {
        int(Draw([Sampling(temperature=1.0, top_p=0.75, seed=seed)])(torch.zeros(1, 1), logits).argmax())
        for seed in range(300)
    }
    assert seen == {0, 1}


def test_a_row_s_draw_does_not_hang_on_its_batch(engine: LocalEngine) -> None:
    asked = [
        CompletionRequest("What is", Sampling(max_tokens=12, temperature=1.0, seed=1)),
        CompletionRequest("What is", Sampling(max_tokens=5, temperature=1.0, seed=2)),
        CompletionRequest("The answer is 1 + 2, ", Sampling(max_tokens=9)),
        ChatRequest((Turn("user", "What is 1 + 2?"),), Sampling(max_tokens=7, temperature=0.5, seed=3)),
    ]
    together = engine.answer(asked)
    assert together == [engine.answer([request])[0] for request in asked]
    assert together[0].text != together[1].text
    assert [answer.completion_tokens for answer in together[:3]] == [12, 5, 9] or any(
        answer.finish_reason == "stop" for answer in together[:3]
    )
    assert engine.answer([asked[0]]) == engine.answer([asked[0]])


def test_an_answer_ends_before_its_stop_text(stories: Path) -> None:
    engine = LocalEngine(stories, "float32", "cpu")
    (free,) = engine.answer([CompletionRequest("Once upon a time", Sampling(max_tokens=60))])
    stop = free.text[60:63], free.text[40:43]  # whatever the model writes
    (stopped,) = engine.answer([CompletionRequest("Once upon a time", Sampling(max_tokens=60, stop=stop))])
    assert free.finish_reason == "length" and free.completion_tokens == 60
    first = min(free.text.find(one) for one in stop)
    assert stopped.text == free.text[:first] and stopped.finish_reason == "stop"
    assert (stopped.completion_tokens or 99) < 60  # and it did not go on to the end
    assert cut_answers("a b c", ()) == "a b c" and cut_answers("a. b", (".", "a")) == ""


def test_kinds_may_stand_in_one_call(engine: LocalEngine) -> None:
    asked = [RAGGED[1], CompletionRequest("What", Sampling(max_tokens=3)), RAGGED[0]]
    found = engine.answer(asked)
    assert found[1].text == engine.answer(asked[1:2])[0].text
    assert found[0].logprobs is not None and len(found[2].logprobs or ()) == 3


def test_what_no_model_is_asked_is_an_error(engine: LocalEngine, folder: Path) -> None:
    with raises("model.request"):
        engine.answer([ScoreRequest((1, 2, 3))])
    with raises("model.request"):
        prompt_ids(engine.tokenizer, CompletionRequest(()))
    with raises("model.no-tokenizer") as caught:
        LocalEngine(folder.parent / "nothing", "float32", "cpu")
    assert caught.value.where.startswith(str(folder.parent))


def test_a_conversation_begins_as_in_training(engine: LocalEngine) -> None:
    ids = prompt_ids(
        engine.tokenizer, ChatRequest((Turn("user", "1 + 2?"), Turn("assistant", "3."), Turn("user", "And?")))
    )
    text = engine.tokenizer.decode(ids)
    assert text.index("1 + 2?") < text.index("3.") < text.index("And?")
    assert set(end_ids_of(engine.tokenizer)) >= {engine.tokenizer.eos_token_id}


def test_a_model_without_a_template_is_not_chatted_with(stories: Path) -> None:
    engine = LocalEngine(stories, "float32", "cpu")
    if engine.tokenizer.chat_template is None:
        with raises("model.no-template"):
            engine.answer([ChatRequest((Turn("user", "Hello"),))])


def test_memory_that_runs_out_says_what_to_lower(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("ratchet.evaluate.engines.local.likelihoods", full)
    with raises("engine") as caught:
        engine.answer([RAGGED[0]])
    assert "batch_tokens" in caught.value.fix


def test_a_model_s_own_settings_of_generation_decide_nothing(folder: Path, tmp_path: Path) -> None:
    asked = [CompletionRequest(text, Sampling(max_tokens=20)) for text in ("What is", "The answer")]
    wanted = LocalEngine(folder, "float32", "cpu").answer(asked)
    own = {"no_repeat_ngram_size": 1, "num_beams": 3, "suppress_tokens": [5, 6, 7], "repetition_penalty": 3.0}
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(own))
    assert LocalEngine(tmp_path / "model", "float32", "cpu").answer(asked) == wanted


def test_an_answer_ends_where_the_model_has_no_more_positions(engine: LocalEngine) -> None:
    long, short = (
        CompletionRequest((5,) * 60, Sampling(max_tokens=50)),
        CompletionRequest((5, 9), Sampling(max_tokens=9)),
    )
    found = engine.answer([long, short])
    assert found[0].completion_tokens == 4 or found[0].finish_reason == "stop"
    assert found[1] == engine.answer([short])[0]


@pytest.mark.parametrize("name", ["gpt2", "opt"])
@pytest.mark.parametrize("share", [True, False])
def test_contexts_that_fill_a_model_with_learned_positions_are_scored(name: str, share: bool) -> None:
    model = tiny(name)  # 64 positions: a sequence has 65 tokens at most, the last of which is no input
    full = [
        ContinuationRequest(tuple(range(3, 60)) + (7,) * (62 - 57), ((1, 2, 3),)),
        ContinuationRequest((5,) * 55, (tuple(range(4, 14)),)),
    ]
    for request, answer in zip(full, likelihoods(model, full, share=share), strict=True):
        assert answer.logprobs == pytest.approx([value for value, _ in plainly(model, request)], abs=1e-5)


def test_long_prompts_and_long_answers_are_not_written_in_one_batch(engine: LocalEngine) -> None:
    asked = [
        CompletionRequest((5,) * 60, Sampling(max_tokens=50)),
        CompletionRequest((5, 9), Sampling(max_tokens=50)),
        CompletionRequest((6,) * 10, Sampling(max_tokens=50)),
    ]
    batches = engine._batches(asked)
    assert batches == [[0], [1, 2]]
    assert engine.answer(asked) == [engine.answer([one])[0] for one in asked]
