"""Endpoints over real sockets: what is asked and read, retries, budgets, limits, and keys that stay secret."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.errors import PlanError, RatchetError
from ratchet.pairs.pair import Turn
from ratchet.serving.endpoint import Endpoint, EndpointError, EndpointSettings
from ratchet.serving.journal import Journal
from ratchet.serving.requests import ChatRequest, CompletionRequest, Sampling, ScoreRequest, key_of
from ratchet.serving.retry import Pace, asked_seconds, wait_seconds
from tests.endpoint_server import Behaviour, Server, fields_for, hangs_up, says, serving, slow, stops_half_way, well

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT
SECRET = "sk-" + "a1B2/c3" * 6


def chat(text: str, **sampling: object) -> ChatRequest:
    return ChatRequest((Turn("user", text),), Sampling(**sampling))


@dataclasses.dataclass
class Bench:
    """One server, and endpoints of it whose waits are written down and not waited."""

    server: Server
    path: Path
    waits: list[float] = dataclasses.field(default_factory=list)

    @contextlib.contextmanager
    def endpoint(self, *, real_pace: bool = False, **settings: object) -> Iterator[Endpoint]:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        pace = Pace() if real_pace else Pace(sleep, lambda: NOW, lambda low, high: high)
        with Journal(self.path) as journal:
            fields = {"base_url": self.server.url, "model": "m", "allow_private": True, **settings}
            yield Endpoint(EndpointSettings(**fields), journal, pace)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with serving() as server:
        yield Bench(server, tmp_path / "journal.jsonl")


def test_a_chat_is_asked_as_the_protocol_says(bench: Bench) -> None:
    turns = (Turn("system", "be brief"), Turn("user", "hi"))
    sampling = Sampling(max_tokens=9, temperature=0.5, top_p=0.9, seed=3, stop=("\n",), choice=("no", "yes"))
    with bench.endpoint() as endpoint:
        judged, plain = endpoint.answer([ChatRequest(turns, sampling), chat("hallo")])
    assert (judged.text, judged.finish_reason, judged.prompt_tokens, judged.completion_tokens) == ("yes", "stop", 7, 2)
    assert plain.text == "re: hallo"
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
    assert asked["hallo"].keys() == {"model", "messages", "max_tokens", "temperature", "top_p"}
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
        assert [answer.text for answer in endpoint.answer([chat(text) for text in texts])] == [
            f"re: {t}" for t in texts
        ]
    assert sorted(bench.server.said) == list("01234")


def test_a_key_changes_with_all_that_changes_the_answer() -> None:
    base = chat("a")
    others = [chat("b"), chat("a", seed=1), chat("a", stop=("x",)), CompletionRequest("a"), CompletionRequest((1,))]
    keys = [key_of("m", request) for request in [base, *others, ScoreRequest((1,))]]
    assert len({*keys, key_of("n", base)}) == len(keys) + 1
    assert key_of("m", chat("a", temperature=1)) == key_of("m", chat("a", temperature=1.0))


def reply_with(**changes: object) -> Behaviour:
    """Answer with a choice of which some fields are others, or gone (None as text: `absent`)."""

    def behave(handler: object, body: dict[str, object]) -> None:
        fields = fields_for(body)
        fields["choices"][0].update(changes)
        fields["choices"][0] = {key: value for key, value in fields["choices"][0].items() if value != "absent"}
        handler.send(200, json.dumps(fields))

    return behave


@pytest.mark.parametrize(
    ("fault", "waits"),
    [
        (says(429, Retry_After="7"), [8.0, 2.0]),
        (says(503, Retry_After="Fri, 15 Jan 2027 08:01:30 GMT"), [91.0, 2.0]),
        (says(429, Retry_After="Fri, 15 Jan 2021 08:00:00 GMT"), [1.0, 2.0]),
        (says(429, Retry_After="soon"), [1.0, 2.0]),
        (says(408), [1.0, 2.0]),
        (says(409), [1.0, 2.0]),
        (says(500, "<html>\x1b[31moops"), [1.0, 2.0]),
        (says(529), [1.0, 2.0]),
        (says(200, "not json"), [1.0, 2.0]),
        (says(200, "[" * 100_000), [1.0, 2.0]),
        (says(200, "[]"), [1.0, 2.0]),
        (says(200, '{"choices": []}'), [1.0, 2.0]),
        (says(200, "\xff\xfe", Content_Encoding="gzip"), [1.0, 2.0]),
        (reply_with(message={"role": "assistant"}), [1.0, 2.0]),
        (reply_with(message={"role": "assistant", "content": 3}), [1.0, 2.0]),
        (reply_with(finish_reason="absent"), [1.0, 2.0]),
        (hangs_up, [1.0, 2.0]),
        (stops_half_way, [1.0, 2.0]),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_what_may_pass_is_asked_again_after_a_wait(bench: Bench, fault: Behaviour, waits: list[float]) -> None:
    bench.server.script.extend([fault, says(500)])
    with bench.endpoint() as endpoint:
        assert endpoint.answer([chat("hi")])[0].text == "re: hi"
        assert endpoint.sent == 3
    assert bench.waits == waits
    assert bench.server.said == ["hi"] * 3


def test_an_answer_without_content_is_an_empty_text_with_its_reason(bench: Bench) -> None:
    bench.server.always = reply_with(finish_reason="content_filter", message={"role": "assistant", "content": None})
    with bench.endpoint() as endpoint:
        (answer,) = endpoint.answer([chat("hi")])
    assert (answer.text, answer.finish_reason) == ("", "content_filter")


def test_waits_double_up_to_a_minute_and_the_attempts_end(bench: Bench) -> None:
    bench.server.always = says(500, '{"error": {"message": "out of\\nmemory"}}')
    with bench.endpoint(max_attempts=9) as endpoint, pytest.raises(EndpointError) as caught:
        endpoint.answer([chat("hi")])
    assert bench.waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert caught.value.what == "500 Internal Server Error: out of memory (attempt 9, the last)"
    assert caught.value.where == f"{bench.server.url}/chat/completions"
    assert "0 of 1 requests are answered" in caught.value.fix
    assert caught.value.exit_code == 69
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


@pytest.mark.parametrize(
    ("request_", "fault", "says_"),
    [
        (
            ScoreRequest((5, 6, 7)),
            reply_with(logprobs={"token_logprobs": [None, -1.0]}),
            "one log-probability for each",
        ),
        (ScoreRequest((5, 6)), reply_with(logprobs={"token_logprobs": [-1.0, -1.0]}), "the first token id"),
        (ScoreRequest((5, 6)), reply_with(logprobs={"token_logprobs": [None, float("nan")]}), "not a finite number"),
        (ScoreRequest((5, 6)), reply_with(logprobs={"token_logprobs": [None, 10**400]}), "OverflowError"),
        (ScoreRequest((5, 6)), reply_with(logprobs=None), "2 token ids: 5 6"),
        (CompletionRequest("Once"), reply_with(text="absent"), "the completion request 'Once'.*'text'"),
        (chat("which?", choice=("A", "B")), reply_with(message={"content": "C"}), "'C'.*none of the 2 allowed"),
    ],
)
def test_an_answer_that_cannot_be_used_is_told_at_the_end(
    bench: Bench, request_: ScoreRequest, fault: Behaviour, says_: str
) -> None:
    bench.server.always = fault
    with bench.endpoint(max_attempts=2) as endpoint, pytest.raises(EndpointError, match=says_):
        endpoint.answer([request_])
    assert len(bench.server.bodies) == 2
    assert bench.path.read_bytes() == b""


@pytest.mark.parametrize(
    ("fault", "says_"),
    [
        (
            says(400, '{"object": "error", "message": "too long"}'),
            "400 Bad Request for the chat request 'hi': too long",
        ),
        (says(401, '{"error": "no key"}'), "(?s)401 Unauthorized: no key.*an environment variable .* as key_variable"),
        (says(403), "403 Forbidden: it says no more"),
        (says(404, '{"detail": "Not Found"}'), "(?s)404 Not Found: Not Found.*check base_url .* has 'm'"),
        (says(422, '{"detail": [{"loc": ["max_tokens"]}]}'), "max_tokens"),
        (says(302, Location="http://169.254.169.254/"), "(?s)redirects to http://169.254.169.254/.*not followed"),
        (says(429, Retry_After="86400"), "not to come back before 86,400 s"),
    ],
)
def test_what_will_not_pass_fails_at_once(bench: Bench, fault: Behaviour, says_: str) -> None:
    bench.server.always = fault
    with bench.endpoint() as endpoint, pytest.raises(EndpointError, match=says_):
        endpoint.answer([chat("hi")])
    assert bench.server.said == ["hi"]
    assert bench.waits == []


def test_an_endpoint_that_is_down_or_slow_is_told(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        down = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with (
        bench.endpoint(base_url=down, max_attempts=3) as endpoint,
        pytest.raises(EndpointError, match=r"cannot be reached: ConnectError.*attempt 3"),
    ):
        endpoint.answer([chat("hi")])
    assert bench.waits == [1, 2]
    bench.server.always = slow(0.3)
    with (
        bench.endpoint(timeout_seconds=0.05, max_attempts=2) as endpoint,
        pytest.raises(EndpointError, match=r"(?s)no answer within 0.05 s.*raise timeout_seconds"),
    ):
        endpoint.answer([chat("hi")])
    assert endpoint.sent == 2


def test_a_server_that_drips_does_not_get_more_time(bench: Bench) -> None:
    def drips(handler: object, _: object) -> None:
        handler.send(200, "", {"Content-Length": "1000"})
        for _ in range(20):
            handler.wfile.write(b" ")
            time.sleep(0.03)

    bench.server.always = drips
    with (
        bench.endpoint(timeout_seconds=0.1, max_attempts=1) as endpoint,
        pytest.raises(EndpointError, match="no answer within"),
    ):
        endpoint.answer([chat("hi")])


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_requests_are_under_way_than_allowed(bench: Bench, limit: int) -> None:
    together = threading.Barrier(limit)

    def waits_for_the_others(handler: object, body: dict[str, object]) -> None:
        together.wait(10)
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
        pytest.raises(EndpointError, match=r"(?s)budget of 5 requests is used up.* 4 of 10 requests are answered"),
    ):
        endpoint.answer(requests)
    assert len(bench.server.said) == 5
    with bench.endpoint(budget=6) as endpoint:
        assert len(endpoint.answer(requests)) == 10
        assert len(endpoint.answer(requests)) == 10, "answers that are there cost nothing"
        with pytest.raises(EndpointError, match="budget of 6"):
            endpoint.answer([chat("one more")])
    assert len(bench.server.said) == 11


def test_the_first_error_lets_the_others_finish_and_ends_every_wait(bench: Bench) -> None:
    refused = threading.Event()

    def refuses(handler: object, _: object) -> None:
        handler.send(401, "")
        refused.set()

    def is_late(handler: object, body: dict[str, object]) -> None:
        refused.wait(10)
        slow(0.2)(handler, body)

    replies = {"a": is_late, "b": says(503, Retry_After="500"), "c": refuses}
    bench.server.always = lambda handler, body: replies[body["messages"][-1]["content"]](handler, body)
    began = time.monotonic()
    with (
        bench.endpoint(real_pace=True, concurrency=3) as endpoint,
        pytest.raises(EndpointError, match=r"(?s)401.*1 of 4 requests are answered"),
    ):
        endpoint.answer([chat(text) for text in "abcd"])
    assert time.monotonic() - began < 60
    assert sorted(bench.server.said) == ["a", "b", "c"]
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
    ("settings", "says_"),
    [
        ({"key_variable": "NOT_SET_AT_ALL"}, "(?s)NOT_SET_AT_ALL is not set.*export NOT_SET_AT_ALL"),
        ({"key_variable": "TWO_LINES"}, "TWO_LINES holds no key"),
        ({"key_variable": SECRET}, "not the name of an environment variable"),
        ({"base_url": f"https://me:{SECRET}@host/v1"}, "a name or a password"),
        ({"base_url": "ftp://host/v1"}, "not an http or https URL"),
        ({"base_url": "file:///etc/passwd"}, "not an http or https URL"),
        ({"base_url": "host/v1"}, "not an http or https URL"),
        ({"base_url": "http://[::1/v1"}, "not a URL"),
        ({"base_url": "http://host:99999/v1"}, "not a URL"),
        ({"base_url": "http://0177.0.0.1/v1"}, "not a URL"),
        ({"base_url": f"http://host/v1?key={SECRET}"}, "a query"),
        ({"base_url": "http://ho st/v1"}, "not an http or https URL"),
        ({"base_url": f"http://{'a' * 64}.b/v1"}, "not a URL|not the name of a host"),
        ({"concurrency": 0}, "concurrency: must be above 0, not 0"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds: must be above 0"),
        ({"max_attempts": 0}, "max_attempts: must be"),
        ({"budget": 0}, "budget: must be"),
    ],
)
def test_settings_that_cannot_be_are_told(
    bench: Bench, settings: dict[str, object], says_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWO_LINES", f"{SECRET}\n{SECRET}")
    with pytest.raises(PlanError, match=says_) as caught, bench.endpoint(**settings) as endpoint:
        endpoint.answer([chat("hi")])
    assert SECRET not in str(caught.value)
    assert isinstance(caught.value, RatchetError)


@given(st.integers(1, 2000), st.floats(0, 1), st.integers(0, 10_000))
def test_a_wait_is_between_what_the_server_asks_and_a_minute_more(attempt: int, share: float, asked: int) -> None:
    pace = Pace(now=lambda: NOW, draw=lambda low, high: low + share * (high - low))
    longest = min(60.0, 2.0 ** min(attempt - 1, 10))
    assert wait_seconds(attempt, None, pace) == pytest.approx(share * longest)
    assert wait_seconds(attempt, str(asked), pace) == pytest.approx(asked + share * longest)


NUMBER = st.integers(0, 10**6).map(str)


@given(
    st.text(max_size=20)
    | st.tuples(NUMBER, NUMBER, NUMBER, NUMBER).map("Mon, {0[0]} Feb {0[1]} {0[2]}:00:{0[3]}".format)
)
def test_no_retry_after_breaks_the_client(header: str) -> None:
    assert asked_seconds(header, NOW) >= 0


def test_a_date_without_a_zone_is_in_utc() -> None:
    assert asked_seconds("Fri, 15 Jan 2027 08:00:05 -0000", NOW) == 5
