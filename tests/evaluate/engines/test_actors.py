"""Processes that compute units: as many as there are, killed or not, they give the same answers to the bit."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from raised import raises
from ratchet.errors import ModelError, StoppedError
from ratchet.evaluate.engines.actors import Actors
from ratchet.evaluate.engines.local import LocalEngine
from ratchet.evaluate.engines.pool import AnswerPool, Unit
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.reference.processes import still_there
from ratchet.serving.journal import UnitJournal
from ratchet.serving.requests import Answer, CompletionRequest, ContinuationRequest, Request, Sampling

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def by_value(session: None) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # its classes are nowhere to be imported from


@pytest.fixture(scope="module")
def asked(stories: Path) -> dict[str, list[Request]]:
    tokenizer = load_tokenizer(stories, None)
    texts = ["Once upon a time", "The dog ran", "Lily", "A big red ball was", "One day, a little girl named"]
    ids = [tuple(tokenizer(text)["input_ids"]) for text in texts]
    likely = [ContinuationRequest(ids[n % 5] + ids[n % 3], (ids[n % 4][1:], (9,), ids[(n + 1) % 5])) for n in range(12)]
    written = [CompletionRequest(one, Sampling(max_tokens=20)) for one in ids]
    drawn = [CompletionRequest(ids[0], Sampling(max_tokens=20, temperature=1.0, seed=n)) for n in range(4)]
    return {"likely": likely, "written": [*written, *drawn]}


def answers(
    stories: Path, journal: Path, asked: dict[str, list[Request]], count: int, *, kill_after: int | None = None
) -> tuple[dict[str, list[Answer]], int]:
    actors = Actors(functools.partial(LocalEngine, stories, "float32", "cpu"), count=count)
    done = 0

    def compute(units: Sequence[Unit]) -> Iterator[tuple[int, list[Answer]]]:
        nonlocal done
        for found in actors.compute(units):
            done += 1
            if done == kill_after:
                os.kill(next(iter(actors._known))[1], signal.SIGKILL)
            yield found

    try:
        with UnitJournal(journal) as kept:
            return AnswerPool(compute, "w", load_tokenizer(stories, None), kept, 60, 512).answer_groups(asked), done
    finally:
        known = [pid for _, pid in actors._known]
        actors.close()
        assert known or not done
        assert not still_there(known, 0.0)


def test_one_process_and_two_and_a_killed_one_say_the_same_to_the_bit(
    stories: Path, tmp_path: Path, asked: dict[str, list[Request]]
) -> None:
    one, units = answers(stories, tmp_path / "one.jsonl", asked, 1)
    assert units > 8
    assert answers(stories, tmp_path / "two.jsonl", asked, 2) == (one, units)
    assert answers(stories, tmp_path / "killed.jsonl", asked, 2, kill_after=2) == (one, units)
    assert answers(stories, tmp_path / "killed.jsonl", asked, 2) == (one, 0)  # all of it is in the journal


class Deadly:
    """Ends its process over one request; is slow over the others."""

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        if any(request.prompt == "die" for request in requests):  # type: ignore[union-attr]
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return [Answer("alive", "stop") for _ in requests]


def test_a_request_that_kills_every_process_is_named_and_the_others_are_kept() -> None:
    texts = ["a", "b", "die", "c", "d"]
    units: list[Unit] = [(CompletionRequest(text),) for text in texts]
    actors, kept = Actors(Deadly, count=1), {}
    with raises("data.deadly") as caught:
        kept.update(actors.compute(units))
    assert "'die'" in caught.value.what
    actors.close()
    assert {0, 1} <= kept.keys()


def test_an_error_of_loading_comes_back_as_it_is(tmp_path: Path) -> None:
    actors = Actors(functools.partial(LocalEngine, tmp_path, "float32", "cpu"), count=1)
    with raises("model.no-tokenizer") as caught:
        list(actors.compute([(CompletionRequest("a"),)]))
    assert caught.value.where.startswith(str(tmp_path))
    actors.close()


def test_what_is_under_way_when_another_fails_is_kept() -> None:
    texts = ["slow", "refused", "never"] + ["later"] * 4
    units: list[Unit] = [(CompletionRequest(text + str(n)),) for n, text in enumerate(texts)]
    done: list[int] = []
    actors = Actors(Refuses, count=1)
    with raises("model"):
        for place, _ in actors.compute(units):
            done.append(place)
    actors.close()
    assert done == [0, 2]  # the process had one more waiting, and was given no other


class Refuses:
    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        word = requests[0].prompt  # type: ignore[union-attr]
        if str(word).startswith("refused"):
            raise ModelError("no such word")
        time.sleep(1.0 if str(word).startswith("slow") else 0.1)
        return [Answer(str(word), "stop") for _ in requests]


def test_a_process_that_finds_no_room_holds_nothing_up() -> None:
    actors = Actors(Slow, count=9)  # more than the machine has processors
    units: list[Unit] = [(CompletionRequest(str(n)),) for n in range(30)]
    assert sorted(place for place, _ in actors.compute(units)) == list(range(30))
    actors.close()


def test_who_is_asked_to_stop_does_not_wait_for_room() -> None:
    looks: list[None] = []

    def look() -> None:
        looks.append(None)
        if len(looks) == 3:
            raise StoppedError("asked to stop")

    actors = Actors(Slow, count=1, cpus=1000, look=look)
    with pytest.raises(StoppedError):
        list(actors.compute([(CompletionRequest("a"),)]))
    actors.close()


class Slow:
    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        time.sleep(0.02)
        return [Answer("done", "stop") for _ in requests]


def test_a_process_that_is_killed_as_it_starts_is_replaced(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    actors = Actors(functools.partial(Alive, Bomb(mark)), count=1)
    assert [found[0].text for _, found in actors.compute([(CompletionRequest("a"),)])] == ["alive"]
    actors.close()
    assert mark.exists()


class Bomb:
    """Ends the first process that it is sent to, before that has done anything."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__dict__ |= state
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Alive:
    def __init__(self, bomb: Bomb) -> None:
        self.bomb = bomb

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        return [Answer("alive", "stop") for _ in requests]
