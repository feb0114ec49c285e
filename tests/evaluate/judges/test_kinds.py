"""Judges that misbehave: what becomes no score, what ends the judging, and what a rerun asks again."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path

import pytest

from endpoint_server import NOW, Behaviour, Server, hangs_up, says, serving, silent, stops_half_way, well
from raised import raises
from ratchet.errors import DataError, ModelError, RatchetError
from ratchet.evaluate.judges.judge import NO_RATING, OUT_OF_RANGE, JudgeCase, Verdict, judge_cases
from ratchet.evaluate.judges.kinds import endpoint_judge, engine_judge
from ratchet.evaluate.thoughts import UNCLOSED
from ratchet.plan.judge import EndpointJudge
from ratchet.serving.requests import Answer, Request
from ratchet.serving.retry import RequestPace


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state


def speaks(text: object, finish_reason: object = "stop") -> Behaviour:
    """Answer a chat with a text of one's own."""
    body = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish_reason}]})
    return lambda handler, _: handler.send(200, body)


def only_for(mark: str, fault: Behaviour) -> Behaviour:
    """Misbehave where the prompt holds `mark`, and rate everything else 7."""
    good = speaks("Fine. Rating: [[7]]")
    return lambda handler, body: (fault if mark in body["messages"][-1]["content"] else good)(handler, body)


def judged(server: Server, path: Path, count: int = 4, retries: int = 2, **changes: object) -> list[Verdict]:
    """Verdicts on `count` cases by the server, whose waits are not waited."""

    async def sleep(_: float) -> None:
        return

    pace = RequestPace(sleep, lambda: NOW, lambda low, high: high)
    fields = {"base_url": server.url, "model": "gpt-4", "allow_private": True, "max_attempts": 2, **changes}
    cases = [JudgeCase("Be fair.", f"case {n}", ("answer",)) for n in range(count)]
    with endpoint_judge(EndpointJudge(kind="endpoint", **fields), path / "judge.jsonl", pace) as judge:
        return judge_cases(judge, cases, retries)


MALFORMED = "judge failed: an answer that is not as the protocol says"


@pytest.mark.parametrize(
    ("fault", "problem", "requests"),
    [
        (says(500, "boom"), "judge failed: 500 Internal Server Error", 2),
        (says(503, Retry_After="3"), "judge failed: 503 Service Unavailable", 2),
        (says(529), "judge failed: 529", 2),
        (says(400, '{"error": {"message": "content filter"}}'), "judge failed: 400 Bad Request", 1),
        (says(413), f"judge failed: 413 {HTTPStatus(413).phrase}", 1),
        (says(422), "judge failed: 422 Unprocessable Entity", 1),
        (hangs_up, "judge failed: cannot be reached", 2),
        (stops_half_way, "judge failed: cannot be reached", 2),
        (says(200, "<html>"), MALFORMED, 2),
        (says(200, '{"choices": []}'), MALFORMED, 2),
        (says(200, '{"choices": "[[10]]"}'), MALFORMED, 2),
        (speaks(10), MALFORMED, 2),
        (speaks(["[[10]]"]), MALFORMED, 2),
        (speaks("[[10]]", None), MALFORMED, 2),
        # The others are answered in time on a machine that is busy too: 5 s, which the nightly tier has.
        pytest.param(silent, "judge failed: no answer within 5 s", 2, marks=pytest.mark.slow),
        (speaks(None), NO_RATING, 3),
        (speaks(None, "content_filter"), f"{NO_RATING} (content_filter)", 3),
        (speaks("It is so long that", "length"), f"{NO_RATING} (length)", 3),
        (speaks("It is good: [[9]]. So", "length"), f"{NO_RATING} (length)", 3),
        (speaks("<think>Maybe [[4]]?"), f"{NO_RATING} ({UNCLOSED})", 3),
        (speaks("<think>[[4]]? [[3]]?</think>\nWell."), NO_RATING, 3),
        (speaks("I cannot rate this."), NO_RATING, 3),
        (speaks("Rating: 9/10"), NO_RATING, 3),
        (speaks("Rating: [[11]]"), OUT_OF_RANGE, 3),
        (speaks("Rating: [[0]]"), OUT_OF_RANGE, 3),
    ],
)
def test_what_a_judge_does_wrong_is_no_score_and_spoils_no_other(
    server: Server, tmp_path: Path, fault: Behaviour, problem: str, requests: int
) -> None:
    server.always = only_for("case 2", fault)
    found = judged(server, tmp_path, timeout_seconds=5.0 if "within" in problem else 30.0)
    assert [one.rating for one in found] == [7.0, 7.0, None, 7.0]
    assert [one.problem for one in found if one.rating is None] == [problem]
    assert server.said.count("case 2") == requests
    assert len(server.said) == requests + 3


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (says(401), "endpoint.refused"),
        (says(403), "endpoint.refused"),
        (says(404), "endpoint.refused"),
        (says(302, Location="/x"), "endpoint.refused"),
        (says(429), "endpoint.failing"),
        (says(429, Retry_After="86400"), "endpoint.failing"),
        (says(503, Retry_After="86400"), "endpoint.failing"),
    ],
)
def test_what_every_request_would_meet_ends_the_judging_and_a_rerun_goes_on(
    server: Server, tmp_path: Path, fault: Behaviour, code: str
) -> None:
    server.always = only_for("case 2", fault)
    with raises(code) as caught:
        judged(server, tmp_path, concurrency=1)
    assert "2 of 4 requests" in caught.value.fix
    before = len(server.said)
    server.always = only_for("none", well)
    assert [one.rating for one in judged(server, tmp_path)] == [7.0] * 4
    assert sorted(server.said[before:]) == ["case 2", "case 3"]


def test_a_server_that_is_not_there_or_is_on_a_private_address_ends_the_judging(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        down = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with raises("endpoint.unreachable") as caught:
        judged(server, tmp_path, base_url=down)
    assert "0 of 4 requests" in caught.value.fix
    with raises("plan.private-address") as caught:
        judged(server, tmp_path, allow_private=False)
    assert "127.0.0.1" in caught.value.what
    server.always = only_for("none", well)
    judged(server, tmp_path, count=1)
    with raises("endpoint.unreachable") as caught:
        judged(server, tmp_path, base_url=down)
    assert "1 of 4 requests" in caught.value.fix


def test_a_budget_ends_the_judging_and_what_it_bought_is_kept(server: Server, tmp_path: Path) -> None:
    server.always = only_for("none", well)
    with raises("endpoint.budget") as caught:
        judged(server, tmp_path, budget=3, concurrency=2)
    assert "3 of 4 requests" in caught.value.fix
    assert [one.rating for one in judged(server, tmp_path, budget=3)] == [7.0] * 4
    assert len(server.said) == 4


def test_a_server_that_only_fails_is_given_up(server: Server, tmp_path: Path) -> None:
    server.always = says(500)
    with raises("endpoint.failing"):
        judged(server, tmp_path, count=40, concurrency=2, max_attempts=1)
    assert len(server.said) <= 12
    server.always = only_for("case 3", well)  # a journal with answers: the rest may fail, one by one
    judged(server, tmp_path, count=3)
    server.always = says(500)
    assert sum(one.rating is None for one in judged(server, tmp_path, count=40, max_attempts=1)) == 37


def test_a_rating_that_comes_late_counts_and_each_attempt_is_another_request(server: Server, tmp_path: Path) -> None:
    server.script.extend([says(429, Retry_After="9"), speaks("Hm."), speaks("[[12]]"), speaks("Rating: [[6]]")])
    (found,) = judged(server, tmp_path, count=1)
    assert found == Verdict(6.0, "", ("Hm.", "[[12]]", "Rating: [[6]]"))
    told = [(body["temperature"], body.get("seed"), body["max_tokens"]) for body in server.bodies]
    assert told == [(0.0, None, 2048), (0.0, None, 2048), (0.1, 1, 2048), (0.2, 2, 2048)]
    assert server.bodies[0]["messages"] == [
        {"role": "system", "content": "Be fair."},
        {"role": "user", "content": "case 0"},
    ]
    assert judged(server, tmp_path, count=1) == [found]
    assert len(server.said) == 4, "the journal answers for every attempt"


def test_what_was_said_before_a_failure_is_what_is_told(server: Server, tmp_path: Path) -> None:
    server.script.extend([speaks("Hm."), says(400, "no")])
    (found,) = judged(server, tmp_path, count=1)
    assert (found.rating, found.problem, len(found.texts)) == (None, NO_RATING, 2)


class Local:
    """An engine that refuses what is too long, and all that comes with it."""

    def __init__(self, error: type[RatchetError]) -> None:
        self.error = error

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        if any("long" in request.turns[-1].content for request in requests):
            raise self.error("vLLM refuses a request: too many tokens")
        return [Answer("[[4]]", "stop") for _ in requests]


@pytest.mark.parametrize("error", [ModelError, DataError])
def test_a_local_judge_that_refuses_one_prompt_judges_the_others(error: type[RatchetError]) -> None:
    judge = engine_judge("local", "model", Local(error))
    cases = [JudgeCase("", text, ("x",)) for text in ("short", "long", "brief")]
    found = judge_cases(judge, cases, 2)
    assert [one.rating for one in found] == [4.0, None, 4.0]
    assert found[1].problem == "judge failed: vLLM refuses a request"
    with pytest.raises(error):
        judge_cases(judge, cases[1:2], 0)


def test_the_journal_is_of_one_judge(server: Server, tmp_path: Path) -> None:
    server.always = speaks("[[7]]")
    judged(server, tmp_path)
    judged(server, tmp_path, model="gpt-5")
    assert len(server.said) == 8
