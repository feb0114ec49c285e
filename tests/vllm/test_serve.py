"""`vllm serve` as an engine behind a URL: scores, chat, and verdicts that can only be what was asked for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from raised import raises
from ratchet.pairs.pair import Turn
from ratchet.reference.models import Passes, ScoringModel
from ratchet.reference.rate import TrainerRater
from ratchet.serving.endpoint import Endpoint, EndpointSettings
from ratchet.serving.journal import Journal
from ratchet.serving.requests import ChatRequest, CompletionRequest, Sampling, ScoreRequest
from recorded_engine import RecordedEngine
from vllm_bench import needs_vllm, write_pairs
from wide_heads import widen_heads

pytestmark = [*needs_vllm, pytest.mark.slow]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def model(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return widen_heads(stories, tmp_path_factory.mktemp("wide"), 32)


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "chat.jinja").write_text(TEMPLATE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [
        *("--served-model-name", "ref", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"),
        *("--enforce-eager", "--max-model-len", "512", "--generation-config", "vllm", "--max-logprobs", "5"),
        *("--kv-cache-memory-bytes", str(64 << 20), "--chat-template", str(folder / "chat.jinja")),
        *("--api-key", "a-key-of-this-test"),
    ]
    program = str(Path(sys.executable).with_name("vllm"))
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "TORCHDYNAMO_DISABLE": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, "serve", str(model), *arguments], env={**os.environ, **settings}, stdout=log, stderr=log
        )
        try:
            for _ in range(600):
                assert process.poll() is None, (folder / "log").read_text()[-3000:]
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture
def settings(url: str, monkeypatch: pytest.MonkeyPatch) -> EndpointSettings:
    monkeypatch.setenv("REF_KEY", "a-key-of-this-test")
    return EndpointSettings(url, "ref", "REF_KEY", concurrency=4, allow_private=True)


def test_scores_are_the_trainer_s(settings: EndpointSettings, model: Path, tmp_path: Path) -> None:
    table = write_pairs(tmp_path / "train.arrow", 8)
    own = TrainerRater(Passes(2048), "cpu", 1.0).rate(ScoringModel(model, "w", "float32"), table, np.arange(8))
    requests = [ScoreRequest(tuple(np.concatenate([pair.prompt, pair.chosen]).tolist())) for pair in table]
    with Journal(tmp_path / "journal.jsonl") as journal:
        answers = Endpoint(settings, journal).answer(requests)
    for pair, answer, expected in zip(table, answers, own.chosen, strict=True):
        assert answer.logprobs is not None
        assert sum(answer.logprobs[len(pair.prompt) :]) == pytest.approx(expected, abs=1e-3)  # type: ignore[arg-type]


def test_chat_and_verdicts_come_back_and_are_asked_once(settings: EndpointSettings, tmp_path: Path) -> None:
    verdict = Sampling(max_tokens=8, choice=("[[A]]", "[[B]]", "[[C]]"))
    requests = [
        ChatRequest((Turn("user", "Tell me of a cat."),), Sampling(max_tokens=12)),
        ChatRequest((Turn("user", "Tell me of a dog."),), Sampling(max_tokens=12, temperature=1.0, seed=7)),
        ChatRequest((Turn("user", "Which answer is better?"),), verdict),
        CompletionRequest("Once upon a time", Sampling(max_tokens=40, stop=(".",))),
    ]
    with Journal(tmp_path / "journal.jsonl") as journal:
        first = Endpoint(settings, journal)
        answers = first.answer(requests)
        assert first.sent == 4
        again = Endpoint(settings, journal)
        assert again.answer(requests) == answers and again.sent == 0
    assert answers[2].text in verdict.choice
    assert answers[0].text.strip() and answers[0].completion_tokens == 12 and answers[0].finish_reason == "length"
    assert "." not in answers[3].text and answers[3].finish_reason == "stop"
    with RecordedEngine(tmp_path / "journal.jsonl", "ref") as recorded:
        assert recorded.answer(requests) == answers
    with Journal(tmp_path / "other.jsonl") as journal:
        assert Endpoint(settings, journal).answer(requests)[:2] == answers[:2]  # greedy, and with a seed


def test_refusals_name_what_to_do(settings: EndpointSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        with raises("endpoint.refused"):
            Endpoint(settings, journal).answer([ScoreRequest(tuple(range(3, 503)) * 2)])
        monkeypatch.setenv("REF_KEY", "another")
        with raises("endpoint.refused") as raised:
            Endpoint(settings, journal).answer([CompletionRequest("x", Sampling(max_tokens=1))])
        assert "REF_KEY" in str(raised.value) and "another" not in str(raised.value)
