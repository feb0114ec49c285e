"""Answers by vLLM on Ray's processes: each request once, whatever was asked before."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest

from raised import raises
from ratchet.evaluate.engines.actors import Actors
from ratchet.evaluate.engines.kinds import RevivingVllm
from ratchet.evaluate.engines.local import LocalEngine
from ratchet.evaluate.engines.pool import AnswerPool
from ratchet.pairs.chat import ChatTemplate
from ratchet.pairs.pair import Turn
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pipeline.session import ray_session
from ratchet.plan.cluster import Cluster
from ratchet.serving.journal import UnitJournal
from ratchet.serving.requests import (
    Answer,
    ChatRequest,
    CompletionRequest,
    ContinuationRequest,
    Request,
    Sampling,
    ScoreRequest,
)
from ratchet.serving.served import Served
from ratchet.serving.vllm import VllmEngine
from vllm_bench import needs_vllm
from wide_heads import widen_heads

pytestmark = needs_vllm


def answers(served: Served, journal: Path, requests: list[Request], budget: int) -> list[Answer]:
    actors = Actors(functools.partial(RevivingVllm, served), count=1)
    try:
        with UnitJournal(journal) as kept:
            return AnswerPool(
                actors.compute, "w", load_tokenizer(served.folder, None), kept, budget, served.longest
            ).answer(requests)
    finally:
        actors.close()


def test_a_pool_answers_each_request_once(stories: Path, tmp_path: Path) -> None:
    served = Served(widen_heads(stories, tmp_path / "model", 32), "float32", 128, gpu=False, tokenizer=True)
    texts = ("Once upon a time", "The dog", "A little girl")
    requests = [CompletionRequest(text, Sampling(max_tokens=12)) for text in texts]
    drawn = [CompletionRequest(texts[0], Sampling(max_tokens=12, temperature=1.0, seed=seed)) for seed in (1, 2)]
    path = tmp_path / "journal.jsonl"
    with ray_session(Cluster()):
        # What the model says decides where it can be stopped: one of random weights may write no full stop at all.
        (whole,) = answers(served, tmp_path / "whole.jsonl", [CompletionRequest(texts[0], Sampling(max_tokens=60))], 40)
        end = next(sign for sign in whole.text[len(whole.text) // 2 :] if sign.isascii() and not sign.isspace())
        stopped = CompletionRequest(texts[0], Sampling(max_tokens=60, stop=(end,)))
        first = answers(served, path, [*requests, *drawn, stopped, requests[0]], 40)
        before = path.read_bytes()
        assert before.count(b"\n") > 2  # so many units
        again = answers(served, path, [stopped, *drawn, *requests], 40)
        assert again == [first[5], *first[3:5], *first[:3]]
        assert path.read_bytes() == before
        others = answers(served, tmp_path / "other.jsonl", drawn[::-1], 4000)  # in other company
    assert others == first[4:2:-1]
    assert first[6] == first[0] and first[3] != first[4]
    assert all(answer.completion_tokens == 12 for answer in first[:5])
    assert first[5].finish_reason == "stop" and first[5].text == whole.text.partition(end)[0]


def test_vllm_finds_continuations_as_likely_as_the_trainer_does(stories: Path, tmp_path: Path) -> None:
    folder = widen_heads(stories, tmp_path / "model", 32)
    tokenizer = load_tokenizer(folder, None)
    texts = ["Once upon a time", "The dog ran to", "Lily"]
    ids = [tuple(tokenizer(text)["input_ids"]) for text in texts]
    asked = [ContinuationRequest(one, (ids[n - 1][1:], (9,), ids[n - 2])) for n, one in enumerate(ids)]
    local = LocalEngine(folder, "float32", "cpu")
    greedy = ContinuationRequest(
        ids[0], (tuple(tokenizer(local.answer([CompletionRequest(ids[0], Sampling(max_tokens=4))])[0].text,
                                 add_special_tokens=False)["input_ids"])[-3:],)
    )  # fmt: skip
    engine = VllmEngine(Served(folder, "float32", 128, gpu=False, tokenizer=True))
    mixed: list[Request] = [*asked, CompletionRequest(texts[0], Sampling(max_tokens=3)), greedy]
    found, wanted = engine.answer(mixed), local.answer(mixed)
    engine.close()
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.text == theirs.text and mine.greedy == theirs.greedy
        assert mine.logprobs is None or mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)


@pytest.mark.filterwarnings("default")  # vLLM's own, in a thread of its own, would become a failed request
def test_an_answering_engine_chats_chooses_and_is_started_again(
    stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import LLM

    folder = widen_heads(stories, tmp_path / "model", 32)
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    served = Served(folder, "float32", 128, gpu=False, tokenizer=True, chat_template=ChatTemplate(template))
    turns = (Turn("user", "Tell me of a cat."),)
    requests = [
        ChatRequest(turns, Sampling(max_tokens=8)),
        ChatRequest(turns, Sampling(max_tokens=8, choice=("[[A]]", "[[B]]"))),
        CompletionRequest("user: Tell me of a cat.\nassistant:", Sampling(max_tokens=8)),
    ]
    right, sizes = LLM.generate, []

    def dies_once(self: Any, prompts: Any, *arguments: Any, **named: Any) -> Any:
        if len(prompts) > 1:  # the warm-up is one
            sizes.append(self.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens)
            if len(sizes) == 1:
                raise RuntimeError("out of memory")
        return right(self, prompts, *arguments, **named)

    monkeypatch.setattr(LLM, "generate", dies_once)
    answerer = RevivingVllm(served)
    chat, verdict, plain = answerer.answer(requests)
    assert sizes[1] == sizes[0] // 2
    assert verdict.text in {"[[A]]", "[[B]]"}
    assert chat.text and chat.completion_tokens == 8
    assert plain.prompt_tokens is not None and chat.prompt_tokens is not None
    assert abs(plain.prompt_tokens - chat.prompt_tokens) <= 2  # the same words; a text also gets its beginning token
    assert answerer.engine is not None
    with raises("model.request"):
        answerer.engine.answer([ScoreRequest((1, 2, 3))])
    answerer.engine.close()
    bare = VllmEngine(dataclasses.replace(served, chat_template=None))
    with raises("model.no-template"):
        bare.answer(requests[:1])
    bare.close()
