"""Endpoints that fail: what is asked again, after which wait, and what ends the work with which words."""

from __future__ import annotations

import json
import pickle
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoint_server import (
    NOW,
    Behaviour,
    Bench,
    chat,
    fields_for,
    hangs_up,
    says,
    serving,
    silent,
    stops_half_way,
)
from raised import raises
from ratchet.errors import EndpointError, StoppedError
from ratchet.serving.requests import CompletionRequest, ScoreRequest
from ratchet.serving.retry import RequestPace, asked_seconds, wait_seconds


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with serving() as server:
        yield Bench(server, tmp_path / "journal.jsonl")


def reply_with(**changes: object) -> Behaviour:
    """Answer with a choice of which some fields are others, or gone where they are `absent`."""

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


@pytest.mark.parametrize("ask", ["answer", "attempt"])
def test_who_is_asked_to_stop_sends_nothing_more_and_keeps_what_was_answered(bench: Bench, ask: str) -> None:
    def look() -> None:
        if len(bench.server.bodies) == 3:
            raise StoppedError("asked to stop")

    requests = [chat(f"{number}?") for number in range(8)]
    with bench.endpoint(look=look, concurrency=1) as endpoint, raises("stopped"):
        getattr(endpoint, ask)(requests)
    assert len(bench.server.bodies) == 3
    with bench.endpoint() as endpoint:
        assert len(getattr(endpoint, ask)(requests)) == 8
    assert len(bench.server.bodies) == 8


def test_who_is_asked_to_stop_does_not_rest_to_the_end(bench: Bench) -> None:
    """All requests are told to come back in nine minutes; the stop comes while they wait."""
    bench.server.always = says(429, Retry_After="540")

    def look() -> None:
        if len(bench.server.bodies) >= 4:
            raise StoppedError("asked to stop")

    with (
        bench.endpoint(real_pace=True, look=look, concurrency=4) as endpoint,
        raises("stopped"),
    ):
        endpoint.answer([chat(f"{number}?") for number in range(4)])
    assert len(bench.server.bodies) == 4


@pytest.mark.parametrize(
    ("request_", "fault", "says_"),
    [
        (
            ScoreRequest((5, 6, 7)),
            reply_with(logprobs={"token_logprobs": [None, -1.0]}),
            "one log-probability for each",
        ),
        (ScoreRequest((5,)), reply_with(logprobs={"token_logprobs": [None, -1.0]}), "one log-probability for each"),
        (ScoreRequest((5, 6)), reply_with(logprobs={"token_logprobs": [-1.0, -1.0]}), "the first token id"),
        (ScoreRequest((5, 6)), reply_with(logprobs={"token_logprobs": [None, float("nan")]}), "not a finite number"),
        (ScoreRequest((5, 6)), reply_with(logprobs={"token_logprobs": [None, 10**400]}), "OverflowError"),
        (ScoreRequest((5, 6)), reply_with(logprobs=None), "2 token ids: 5 6"),
        (CompletionRequest("Once"), reply_with(text="absent"), "the completion request 'Once'"),
        (
            chat("which?", choice=("A", "B")),
            reply_with(message={"content": "C"}),
            "'which?': 'C'",
        ),
    ],
)
def test_an_answer_that_cannot_be_used_is_told_at_the_end(
    bench: Bench, request_: ScoreRequest, fault: Behaviour, says_: str
) -> None:
    bench.server.always = fault
    with bench.endpoint(max_attempts=2) as endpoint, raises("endpoint.answer") as caught:
        endpoint.answer([request_])
    assert says_ in caught.value.what
    assert len(bench.server.bodies) == 2
    assert bench.path.read_bytes() == b""


@pytest.mark.parametrize(
    ("fault", "code", "says_"),
    [
        (says(400, '{"object": "error", "message": "too long"}'), "endpoint.refused", "'hi': too long"),
        (says(401, '{"error": "no key"}'), "endpoint.refused", "no key"),
        (says(401, '{"error": "no key"}'), "endpoint.refused", "key_variable"),
        (says(403), "endpoint.refused", "403"),
        (says(404, '{"detail": "Not Found"}'), "endpoint.refused", "base_url"),
        (says(422, '{"detail": [{"loc": ["max_tokens"]}]}'), "endpoint.refused", "max_tokens"),
        (says(302, Location="http://169.254.169.254/"), "endpoint.refused", "http://169.254.169.254/"),
        (says(429, Retry_After="86400"), "endpoint.failing", "86,400 s"),
    ],
)
def test_what_will_not_pass_fails_at_once(bench: Bench, fault: Behaviour, code: str, says_: str) -> None:
    bench.server.always = fault
    with bench.endpoint() as endpoint, raises(code) as caught:
        endpoint.answer([chat("hi")])
    assert says_ in str(caught.value)
    assert bench.server.said == ["hi"]
    assert bench.waits == []


def test_an_endpoint_that_is_down_or_slow_is_told(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        down = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with (
        bench.endpoint(base_url=down, max_attempts=3) as endpoint,
        raises("endpoint.unreachable") as caught,
    ):
        endpoint.answer([chat("hi")])
    assert "attempt 3" in caught.value.what
    assert bench.waits == [1, 2]
    bench.server.always = silent
    with (
        bench.endpoint(timeout_seconds=0.05, max_attempts=2) as endpoint,
        raises("endpoint.timeout") as caught,
    ):
        endpoint.answer([chat("hi")])
    assert "timeout_seconds" in caught.value.fix
    assert endpoint.sent == 2


def test_a_server_that_drips_does_not_get_more_time(bench: Bench) -> None:
    def drips(handler: object, _: object) -> None:
        handler.send(200, "", {"Content-Length": "20"})
        for _ in range(20):
            handler.wfile.write(b" ")
            time.sleep(0.03)

    bench.server.always = drips
    with (
        bench.endpoint(timeout_seconds=0.1, max_attempts=1) as endpoint,
        raises("endpoint.timeout"),
    ):
        endpoint.answer([chat("hi")])


@given(st.integers(1, 2000), st.floats(0, 1), st.integers(0, 10_000))
def test_a_wait_is_between_what_the_server_asks_and_a_minute_more(attempt: int, share: float, asked: int) -> None:
    pace = RequestPace(now=lambda: NOW, draw=lambda low, high: low + share * (high - low))
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
