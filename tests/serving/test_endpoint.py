"""Endpoints over real sockets: what is asked, how much at once, for how much, and with which key."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from endpoint_server import Behaviour, Bench, chat, says, serving, well
from raised import raises
from ratchet.errors import EndpointError, RatchetError
from ratchet.pairs.pair import Turn
from ratchet.serving.requests import ChatRequest, CompletionRequest, Sampling, ScoreRequest, answer_key

SECRET = "sk-" + "a1B2/c3" * 6


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with serving() as server:
        yield Bench(server, tmp_path / "journal.jsonl")


def test_a_chat_is_asked_as_the_protocol_says(bench: Bench) -> None:
    turns = (Turn("system", "be brief"), Turn("user", "hi"))
    sampling = Sampling(max_tokens=9, temperature=0.5, top_p=0.9, seed=3, stop=("\n",), choice=("no", "yes"))
    with bench.endpoint() as endpoint:
        # Half a surrogate pair, which has no UTF-8, comes through as well.
        judged, plain = endpoint.answer([ChatRequest(turns, sampling), chat("hallo \ud800")])
    assert (judged.text, judged.finish_reason, judged.prompt_tokens, judged.completion_tokens) == ("yes", "stop", 7, 2)
    assert plain.text == "re: hallo \ud800"
    asked = {body["messages"][-1]["content"]: body for body in bench.server.bodies}
    assert asked["hi"] == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["\n"],
        "structured_outputs": {"choice": ["no", "yes"]},
    }
    assert asked["hallo \ud800"].keys() == {"model", "messages", "max_tokens", "temperature", "top_p"}
    assert set(bench.server.paths) == {"/v1/chat/completions"}
    assert all("Authorization" not in headers for headers in bench.server.headers)


def test_texts_and_token_ids_go_on_and_token_ids_are_scored(bench: Bench) -> None:
    requests = [CompletionRequest("Once"), CompletionRequest((5, 6)), ScoreRequest((5, 6, 7))]
    with bench.endpoint(concurrency=1, base_url=bench.server.url + "/") as endpoint:
        text, ids, score = endpoint.answer(requests)
    assert (text.text, text.prompt_tokens, ids.text) == ("then", None, "then")
    assert (score.text, score.logprobs) == ("", (None, -1.0, -2.0))
    assert [body["prompt"] for body in bench.server.bodies] == ["Once", [5, 6], [5, 6, 7]]
    assert {"max_tokens": 0, "echo": True, "logprobs": 0}.items() <= bench.server.bodies[2].items()
    assert set(bench.server.paths) == {"/v1/completions"}


def test_answers_keep_the_order_of_requests_and_equal_requests_are_asked_once(bench: Bench) -> None:
    texts = [str(i % 5) for i in range(12)]
    with bench.endpoint(concurrency=4) as endpoint:
        answers = endpoint.answer([chat(text) for text in texts])
    assert [answer.text for answer in answers] == [f"re: {text}" for text in texts]
    assert sorted(bench.server.said) == list("01234")


def test_a_key_changes_with_all_that_changes_the_answer() -> None:
    base = chat("a")
    others = [chat("b"), chat("a", seed=1), chat("a", stop=("x",)), CompletionRequest("a"), CompletionRequest((1,))]
    keys = [answer_key("m", request) for request in [base, *others, ScoreRequest((1,))]]
    assert len({*keys, answer_key("n", base)}) == len(keys) + 1
    assert answer_key("m", chat("a", temperature=1)) == answer_key("m", chat("a", temperature=1.0))


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_requests_are_under_way_than_allowed(bench: Bench, limit: int) -> None:
    together = threading.Barrier(limit)

    def waits_for_the_others(handler: object, body: dict[str, object]) -> None:
        together.wait(600)
        well(handler, body)

    bench.server.always = waits_for_the_others
    with bench.endpoint(concurrency=limit) as endpoint:
        endpoint.answer([chat(str(i)) for i in range(9)])
    assert bench.server.most_at_once == limit


def test_a_budget_is_not_passed_and_nothing_that_it_bought_is_lost(bench: Bench) -> None:
    requests = [chat(str(i)) for i in range(10)]
    bench.server.script.append(says(500))  # it costs like any other
    with (
        bench.endpoint(budget=5, concurrency=3) as endpoint,
        raises("endpoint.budget") as caught,
    ):
        endpoint.answer(requests)
    assert "4 of 10 requests" in caught.value.fix
    assert len(bench.server.said) == 5
    with bench.endpoint(budget=6) as endpoint:
        assert len(endpoint.answer(requests)) == 10
        assert len(endpoint.answer(requests)) == 10, "answers that are there cost nothing"
        with raises("endpoint.budget"):
            endpoint.answer([chat("one more")])
    assert len(bench.server.said) == 11


def test_the_first_error_lets_the_others_finish_and_ends_every_wait(bench: Bench) -> None:
    refused = threading.Event()

    def refuses(handler: object, _: object) -> None:
        handler.send(401, "")
        refused.set()

    def late(behaviour: Behaviour) -> Behaviour:
        def behave(handler: object, body: dict[str, object]) -> None:
            refused.wait(600)
            time.sleep(0.2)
            behaviour(handler, body)

        return behave

    busy = says(503, Retry_After="500")
    replies = {"a": late(well), "b": busy, "c": refuses, "d": late(busy)}
    bench.server.always = lambda handler, body: replies[body["messages"][-1]["content"]](handler, body)
    with (
        bench.endpoint(real_pace=True, concurrency=4) as endpoint,
        raises("endpoint.refused") as caught,
    ):
        endpoint.answer([chat(text) for text in "abcde"])
    assert "1 of 5 requests" in caught.value.fix
    assert sorted(bench.server.said) == ["a", "b", "c", "d"]
    assert [json.loads(line)["answer"]["text"] for line in bench.path.read_text().splitlines()] == ["re: a"]


@pytest.mark.parametrize("status", [401, 429, 500, 302])
def test_the_key_goes_to_the_server_and_nowhere_else(
    bench: Bench, status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", f"{SECRET}\n")
    # Below INFO, httpcore writes down what headers a server sends; this one sends the key in one.
    caplog.set_level(logging.INFO if status == 302 else logging.DEBUG)
    headers = {"Location": f"/?{SECRET}"} if status == 302 else {}
    told = "x" * 390 + json.dumps({"message": f"bad key {SECRET}"}).replace("/", "\\/") + SECRET
    told = json.dumps({"error": {"message": told}})
    bench.server.script.extend([says(500, f"who is {SECRET}?"), says(status, told, **headers)])
    with bench.endpoint(key_variable="JUDGE_KEY", max_attempts=2) as endpoint:
        with pytest.raises(EndpointError) as caught:
            endpoint.answer([chat("hi")])
        endpoint.answer([chat("hi")])
        shown = f"{caught.value} {caught.value!r} {endpoint!r} {endpoint.settings!r} {caplog.text}"
    assert {headers["Authorization"] for headers in bench.server.headers} == {f"Bearer {SECRET}"}
    assert "who is ***?" in caplog.text
    assert SECRET[:12] not in shown + bench.path.read_text()
    assert caught.value.__cause__ is caught.value.__context__ is None
    if status == 401:
        assert "environment variable JUDGE_KEY" in caught.value.fix


@pytest.mark.parametrize(
    ("settings", "at"),
    [
        ({"key_variable": "NOT_SET_AT_ALL"}, "key_variable"),
        ({"key_variable": "TWO_LINES"}, "key_variable"),
        ({"key_variable": SECRET}, "key_variable"),
        ({"base_url": f"https://me:{SECRET}@host/v1"}, "base_url"),
        ({"base_url": "ftp://host/v1"}, "base_url"),
        ({"base_url": "file:///etc/passwd"}, "base_url"),
        ({"base_url": "host/v1"}, "base_url"),
        ({"base_url": "http://[::1/v1"}, "base_url"),
        ({"base_url": "http://host:99999/v1"}, "base_url"),
        ({"base_url": "http://0177.0.0.1/v1"}, "base_url"),
        ({"base_url": f"http://host/v1?key={SECRET}"}, "base_url"),
        ({"base_url": "http://ho st/v1"}, "base_url"),
        ({"base_url": f"http://{'a' * 64}.b/v1"}, None),  # where the resolver refuses the name, or where it is read
        ({"concurrency": 0}, "concurrency"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"budget": 0}, "budget"),
    ],
)
def test_settings_that_cannot_be_are_told(
    bench: Bench, settings: dict[str, object], at: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWO_LINES", f"{SECRET}\n{SECRET}")
    with raises("plan") as caught, bench.endpoint(**settings) as endpoint:
        endpoint.answer([chat("hi")])
    assert caught.value.where == at if at else "." in str(caught.value.where) or caught.value.where == "base_url"
    assert SECRET not in str(caught.value)
    assert isinstance(caught.value, RatchetError)
