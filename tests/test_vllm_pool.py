"""Answers by vLLM on Ray's processes: each request once, whatever was asked before."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import ModelError
from ratchet.evaluate.vllm_pool import BatchAnswerer, VllmPool
from ratchet.pairs.pair import Turn
from ratchet.pipeline.session import ray_session
from ratchet.plan.cluster import Cluster
from ratchet.serving.journal import Journal
from ratchet.serving.requests import ChatRequest, CompletionRequest, Sampling, ScoreRequest
from ratchet.serving.vllm import Served, VllmEngine
from vllm_bench import needs_vllm
from wide_heads import widen_heads

pytestmark = needs_vllm


def test_a_pool_answers_each_request_once(stories: Path, tmp_path: Path) -> None:
    served = Served(widen_heads(stories, tmp_path / "model", 32), "float32", 128, gpu=False, tokenizer=True)
    texts = ("Once upon a time", "The dog", "A little girl")
    requests = [CompletionRequest(text, Sampling(max_tokens=12)) for text in texts]
    drawn = [CompletionRequest(texts[0], Sampling(max_tokens=12, temperature=1.0, seed=seed)) for seed in (1, 2)]
    stopped = CompletionRequest(texts[0], Sampling(max_tokens=60, stop=(".",)))
    with ray_session(Cluster()):
        with Journal(tmp_path / "journal.jsonl") as journal:
            pool = VllmPool(served, "w", journal, actors=1, gpus=0, batch=2)
            first = pool.answer([*requests, *drawn, stopped, requests[0]])
        before = (tmp_path / "journal.jsonl").read_bytes()
        assert before.count(b"\n") == 6  # equal requests are one
        with Journal(tmp_path / "journal.jsonl") as journal:
            again = VllmPool(served, "w", journal, actors=1, gpus=0, batch=2)
            assert again.answer([stopped, *requests]) == [first[5], *first[:3]]
        assert (tmp_path / "journal.jsonl").read_bytes() == before
        with Journal(tmp_path / "other.jsonl") as journal:  # in other company
            assert VllmPool(served, "w", journal, actors=1, gpus=0, batch=9).answer(drawn[::-1]) == first[4:2:-1]
    assert first[6] == first[0] and first[3] != first[4]
    assert all(answer.completion_tokens == 12 for answer in first[:5])
    assert first[5].finish_reason == "stop" and "." not in first[5].text


@pytest.mark.filterwarnings("default")  # vLLM's own, in a thread of its own, would become a failed request
def test_an_answering_engine_chats_chooses_and_is_started_again(
    stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import LLM

    folder = widen_heads(stories, tmp_path / "model", 32)
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    served = Served(folder, "float32", 128, gpu=False, tokenizer=True, chat_template=template)
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
    answerer = BatchAnswerer(served, tmp_path / "notes", "run", None)
    chat, verdict, plain = answerer._twice(requests)
    assert sizes[1] == sizes[0] // 2
    assert verdict.text in {"[[A]]", "[[B]]"}
    assert chat.text and chat.completion_tokens == 8
    assert plain.prompt_tokens is not None and chat.prompt_tokens is not None
    assert abs(plain.prompt_tokens - chat.prompt_tokens) <= 2  # the same words; a text also gets its beginning token
    assert answerer.engine is not None
    with pytest.raises(ModelError, match=r"no text is drawn|gives scores by"):
        answerer.engine.answer([ScoreRequest((1, 2, 3))])
    answerer.engine.close()
    bare = VllmEngine(dataclasses.replace(served, chat_template=None))
    with pytest.raises(ModelError, match="no chat template"):
        bare.answer(requests[:1])
    bare.close()
