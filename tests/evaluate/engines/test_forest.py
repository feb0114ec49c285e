"""Requests in one layout: the same numbers as lm-eval's own class and as plain float64, in passes of any size."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from ratchet.evaluate.engines.forest import forest_likelihoods, layout_rows
from ratchet.evaluate.engines.likelihood import forest_reach, likelihoods
from ratchet.evaluate.engines.pool import units_of
from ratchet.model import attention
from ratchet.serving.requests import Answer, ContinuationRequest
from tests.evaluate.engines.test_local import plainly
from tiny_models import tiny

LONGEST = 64


def ids(seed: int, count: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(3, 61, count).tolist())


def subjects() -> list[ContinuationRequest]:
    """Two subjects of shots with documents of one-token choices, longer choices, prefixes and equal beginnings."""
    asked = []
    for subject in range(2):
        shots = ids(subject, 30)
        asked += [ContinuationRequest(shots + ids(10 * subject + n, 3 + n), ((4,), (5,), (6,))) for n in range(5)]
        asked.append(ContinuationRequest(shots, ((7, 8, 9), (7, 8), (7,), ids(3, 12))))
        asked.append(ContinuationRequest(shots + ids(10 * subject, 2), (ids(4, 5), ids(5, 1))))
    return [*asked, ContinuationRequest((5,), ((9,), (9, 9, 9, 9))), asked[3]]


def lm_eval_s_own(model: Any) -> HFLM:
    words = Tokenizer(models.WordLevel({"end": 0, "other": 1}, unk_token="other"))  # noqa: S106
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="end")  # noqa: S106
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=LONGEST)


def values(answers: list[Answer]) -> list[float]:
    return [value for answer in answers for value in answer.logprobs or () if value is not None]


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("llama-gqa-tied", 5),
        ("llama-gqa-tied", None),
        ("qwen3", 40),
        ("gpt2", 17),
        ("gemma3", 23),
        # Attention runs several times a module here, and transformers' cache has a place for each.
        ("diffllama", 5),
        ("hrm-text", 5),
    ],
)
def test_passes_of_any_size_give_what_each_sequence_gives_alone(name: str, tokens: int | None) -> None:
    model, asked = tiny(name), subjects()
    wanted = [plainly(model, request) for request in asked]
    for found, plain in zip(forest_likelihoods(model, asked, tokens), wanted, strict=True):
        assert found.logprobs == pytest.approx([value for value, _ in plain], abs=1e-5)
        assert found.greedy == tuple(same for _, same in plain)
    assert model.config._attn_implementation != "token_tree"  # texts are written with the model's own


def test_a_suite_s_requests_score_as_by_lm_evals_own_class() -> None:
    model, asked = tiny("llama", torch.float32), subjects()
    likeliest = int(model(torch.tensor([asked[0].context])).logits[0, -1].argmax())
    asked.append(ContinuationRequest(asked[0].context, ((likeliest,), (likeliest, 5))))
    rows = [((str(n), ""), list(one.context), list(each)) for n, one in enumerate(asked) for each in one.continuations]
    theirs = lm_eval_s_own(model)._loglikelihood_tokens(rows, disable_tqdm=True)
    for budget in (50, 500):
        by_request = {
            one: answer
            for unit in units_of(asked, lambda request: len(request.context), budget)  # type: ignore[union-attr]
            for one, answer in zip(unit, likelihoods(model, unit, share=True, reach=forest_reach(model)), strict=True)  # type: ignore[arg-type]
        }
        ours = [by_request[one] for one in asked]
        assert values(ours) == pytest.approx([float(value) for value, _ in theirs], abs=1e-4)
        assert [same for one in ours for same in one.greedy or ()] == [bool(same) for _, same in theirs]
    assert any(same for _, same in theirs)


def test_windows_of_a_long_text_score_as_by_lm_evals_own_class() -> None:
    model, text = tiny("llama", torch.float32), list(ids(1, 150))
    windows = [
        make_disjoint_window(one)
        for one in get_rolling_token_windows(token_list=text, prefix_token=0, max_seq_len=LONGEST, context_len=1)
    ]
    asked = [ContinuationRequest(tuple(context), (tuple(predicted),)) for context, predicted in windows]
    theirs = lm_eval_s_own(model)._loglikelihood_tokens(
        [(("", ""), context, predicted) for context, predicted in windows], disable_tqdm=True
    )
    found = forest_likelihoods(model, asked, 20)
    assert len(asked) == 3 and sum(values(found)) == pytest.approx(sum(float(value) for value, _ in theirs), abs=1e-3)


def test_shots_are_computed_once_for_their_subject_and_a_token_for_all_that_share_it() -> None:
    model, asked, computed = tiny("llama"), subjects(), 0

    def count(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal computed
        computed += inputs[0].numel()

    with model.get_input_embeddings().register_forward_pre_hook(count):
        forest_likelihoods(model, asked, 9)
    read = {(*one.context, *tail[:-1]) for one in asked for tail in one.continuations if len(one.context) > 8}
    prefixes = {sequence[:end] for sequence in read for end in range(1, len(sequence) + 1)}
    assert computed == layout_rows(asked) == len(prefixes) + 1 + 4  # beginnings of fewer than 8 tokens stand apart


def test_a_long_text_has_shorter_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked, passes = tiny("llama"), [ContinuationRequest(ids(1, 50), ((4, 5),))], []
    monkeypatch.setattr("ratchet.evaluate.engines.forest.MASKED", 51 * 20)
    with model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].numel())):
        (found,) = forest_likelihoods(model, asked)
    assert passes == [17, 17, 17] and found.logprobs == pytest.approx([plainly(model, asked[0])[0][0]], abs=1e-5)


def test_a_model_that_keeps_other_rows_takes_no_forest(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama", torch.float32)
    assert forest_reach(model) > LONGEST
    right = torch.Tensor.index_select
    monkeypatch.setattr(torch.Tensor, "index_select", lambda rows, axis, at: right(rows, axis, at.flip(0)))
    assert forest_reach(model) == 0


def test_a_sliding_window_is_no_end_of_a_forest(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("mistral")  # which sees 64 tokens back
    assert forest_reach(model) == forest_reach(tiny("mistral-narrow")) == sys.maxsize
    assert forest_reach(tiny("gemma2-capped")) == 0
    asked = [ContinuationRequest(ids(1, size), (ids(2, 3), ids(3, 2))) for size in (50, 62, 63, 80)]
    for reach in (64, sys.maxsize):  # beyond 64 tokens by padded rows, and all in one forest
        for request, found in zip(asked, likelihoods(model, asked, share=True, reach=reach), strict=True):
            assert found.logprobs == pytest.approx([value for value, _ in plainly(model, request)], abs=1e-5)
    attend = attention.attend

    def windowless(*args: Any, sliding_window: int | None = None, **named: Any) -> Any:
        return attend(*args, **named)

    monkeypatch.setattr(attention, "attend", windowless)  # as of a model that does not say its window
    assert forest_reach(model) == 64


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["qwen3.5", "lfm2", "mamba2"])
def test_layers_that_carry_a_state_share_within_a_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = tiny(name, torch.float32), subjects()
    assert forest_reach(model) == sys.maxsize
    passes: list[int] = []
    for tokens in (None, 50):
        passes.clear()
        with model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].numel())):
            answers = forest_likelihoods(model, asked, tokens)
        assert (len(passes) == 1) == (tokens is None)
        for request, found in zip(asked, answers, strict=True):
            wanted = [value for value, _ in plainly(model, request)]
            assert found.logprobs == pytest.approx(wanted, rel=1e-5, abs=1e-4)
    read = sum(len(one.context) + max(map(len, one.continuations)) - 1 for one in asked)
    assert sum(passes) < read
    monkeypatch.setattr("ratchet.evaluate.engines.likelihood.lost_states", lambda _model, _device: "a state is lost")
    assert forest_reach(model) == 0
