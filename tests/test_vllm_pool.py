"""Answers by vLLM on Ray's processes: each request once, whatever was asked before."""

from __future__ import annotations

from pathlib import Path

from ratchet.evaluate.vllm_pool import VllmPool
from ratchet.pipeline.session import ray_session
from ratchet.plan.cluster import Cluster
from ratchet.serving.journal import Journal
from ratchet.serving.requests import CompletionRequest, Sampling
from ratchet.serving.vllm import Served
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
