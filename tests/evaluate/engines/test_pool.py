"""Units follow from the requests alone, and what was computed is never computed again."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raised import raises
from ratchet.evaluate.engines.pool import AnswerPool, Unit, units_of
from ratchet.serving.journal import UnitJournal
from ratchet.serving.requests import Answer, CompletionRequest, ContinuationRequest, Request, Sampling


def length(request: Request) -> int:
    return len(request.context) if isinstance(request, ContinuationRequest) else len(request.prompt)  # type: ignore[union-attr]


asked = st.one_of(
    st.builds(
        ContinuationRequest,
        st.lists(st.integers(0, 9), min_size=1, max_size=12).map(tuple),
        st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4).map(tuple),
    ),
    st.builds(
        lambda ids, most: CompletionRequest(ids, Sampling(max_tokens=most)),
        st.lists(st.integers(0, 9), min_size=1, max_size=12).map(tuple),
        st.integers(1, 9),
    ),
)


@given(st.lists(asked, max_size=30), st.randoms(), st.integers(1, 80))
def test_units_hold_every_request_once_whatever_the_order(requests, random, budget) -> None:
    units = units_of(requests, length, budget)
    shuffled = list(requests)
    random.shuffle(shuffled)
    assert units_of([*shuffled, *shuffled], length, budget) == units
    held = [request for unit in units for request in unit]
    assert len(held) == len(set(held)) and set(held) == set(requests)
    for unit in units:
        assert len({request.kind for request in unit}) == 1
        if len(unit) > 1:
            assert tokens(unit) <= budget


def tokens(unit: Unit) -> int:
    """What a unit computes: texts are padded; of continuations, prefixes of 8 tokens and more are computed once."""
    if isinstance(unit[0], CompletionRequest):
        return len(unit) * (max(map(length, unit)) + max(one.sampling.max_tokens for one in unit))  # type: ignore[union-attr]
    read = sorted({(*one.context, *tail[:-1]) for one in unit for tail in one.continuations})  # type: ignore[union-attr]
    alike = [
        next((n for n, (a, b) in enumerate(zip(*two, strict=False)) if a != b), min(map(len, two)))
        for two in itertools.pairwise(read)
    ]
    return sum(map(len, read)) - sum(common for common in alike if common >= 8)


def test_requests_that_begin_alike_are_one_unit_while_their_own_tokens_fit() -> None:
    shots = [tuple(range(100 * subject, 100 * subject + 50)) for subject in (1, 2)]
    asked = [ContinuationRequest((*shots[n % 2], 1000 + n, 7, 8, 9), ((1,), (2,), (3,))) for n in range(20)]
    units = units_of(asked, length, 90)  # 50 + 10 times 4
    assert [len(unit) for unit in units] == [10, 10] and [tokens(unit) for unit in units] == [90, 90]
    assert {one.context[:50] for one in units[0]} in ({shots[0]}, {shots[1]})
    assert [len(unit) for unit in units_of(asked, length, 70)] == [5, 5, 5, 5]
    assert [len(unit) for unit in units_of(asked, length, 3)] == [1] * 20


class Echo:
    """Computes by spelling out what it was asked; counts, and may stop like a killed process."""

    def __init__(self, dies_after: int | None = None, backwards: bool = False) -> None:
        self.units: list[Unit] = []
        self.dies_after, self.backwards = dies_after, backwards

    def __call__(self, units: Sequence[Unit]) -> Iterator[tuple[int, list[Answer]]]:
        order = reversed(range(len(units))) if self.backwards else range(len(units))
        for place in order:
            if self.dies_after is not None and len(self.units) >= self.dies_after:
                raise KeyboardInterrupt
            self.units.append(units[place])
            # The company stands in the answer, as it does in the last bits of a number.
            yield place, [Answer(f"{one} among {len(units[place])}", "stop") for one in units[place]]


REQUESTS = [CompletionRequest((n, *range(n % 5)), Sampling(max_tokens=4)) for n in range(40)]
OTHERS = [ContinuationRequest((n, 1), ((2, 3), (4,))) for n in range(9)]


@contextlib.contextmanager
def pool(path: Path, compute: Echo, identity: str = "w") -> Iterator[AnswerPool]:
    with UnitJournal(path) as journal:
        made = AnswerPool(compute, identity, None, journal, 30, 100)
        made._length = length  # type: ignore[method-assign]
        yield made


def answers(path: Path, groups: dict[str, list[Request]], compute: Echo | None = None, identity: str = "w"):
    with pool(path, compute or Echo(), identity) as one:
        return one.answer_groups(groups)


def test_a_killed_run_goes_on_with_the_same_units_and_says_the_same(tmp_path: Path) -> None:
    groups = {"a": [*REQUESTS, REQUESTS[3]], "b": OTHERS}
    straight = answers(tmp_path / "straight.jsonl", groups)
    assert straight["a"][40] == straight["a"][3]
    path, computed, found = tmp_path / "killed.jsonl", 0, None
    while found is None:
        compute = Echo(dies_after=3, backwards=bool(computed % 2))
        with contextlib.suppress(KeyboardInterrupt):
            found = answers(path, groups, compute)
        computed += len(compute.units)
        with path.open("ab") as file:
            file.write(b'{"key": "half a li')  # a kill in the middle of a line
    assert found == straight
    assert computed == sum(len(units_of(some, length, 30)) for some in groups.values())  # none twice
    assert computed > 6


def test_a_group_s_answers_do_not_hang_on_the_others(tmp_path: Path) -> None:
    both = answers(tmp_path / "both.jsonl", {"a": REQUESTS, "b": OTHERS})
    assert answers(tmp_path / "a.jsonl", {"a": REQUESTS})["a"] == both["a"]
    with pool(tmp_path / "b.jsonl", Echo()) as one:
        assert one.answer(OTHERS) == both["b"]


def test_other_weights_are_asked_again(tmp_path: Path) -> None:
    second = Echo()
    answers(tmp_path / "j.jsonl", {"a": REQUESTS}, identity="weights 1")
    answers(tmp_path / "j.jsonl", {"a": REQUESTS}, second, identity="weights 2")
    assert second.units


def test_the_longest_units_come_first(tmp_path: Path) -> None:
    compute = Echo()
    answers(tmp_path / "j.jsonl", {"b": OTHERS, "a": REQUESTS}, compute)
    sizes = [tokens(unit) for unit in compute.units]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 2


def test_a_journal_is_one_process_s_and_no_line_of_it_is_trusted_blindly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "j.jsonl"
    with pool(path, Echo()) as one:
        before = one.answer(REQUESTS)
        with raises("run.held"):
            UnitJournal(path)
    lines = path.read_bytes().splitlines(keepends=True)
    changed = json.loads(lines[1])
    changed["answers"][0]["text"] = "better"
    path.write_bytes(lines[0] + json.dumps(changed).encode() + b"\n" + b"".join(lines[2:]))
    again = Echo()
    with pool(path, again) as one:
        assert one.answer(REQUESTS) == before
    assert len(again.units) == 1 and "line 2: its check does not fit" in caplog.text


def test_two_answers_to_a_unit_are_refused(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two")):
        with UnitJournal(tmp_path / name) as journal:
            journal.append("k", [Answer(text, "stop")])
    both = tmp_path / "both"
    both.write_bytes((tmp_path / "a").read_bytes() * 2)
    UnitJournal(both).close()  # the same line twice is one
    both.write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    with raises("corrupt.two-answers") as caught:
        UnitJournal(both)
    assert caught.value.where == f"{both}:2"


def test_a_full_disk_leaves_the_journal_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    with UnitJournal(path) as journal:
        journal.append("a", [Answer("one", "stop")])
        right = os.fsync

        def full(handle):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with raises("storage.full"):
            journal.append("b", [Answer("two", "stop")])
        monkeypatch.setattr(os, "fsync", right)
        journal.append("c", [Answer("three", "stop", logprobs=(-1.0,), greedy=(True,))])
    with UnitJournal(path) as journal:
        assert "b" not in journal and journal.find("a")[0].text == "one"
        assert journal.find("c") == [Answer("three", "stop", logprobs=(-1.0,), greedy=(True,))]


def test_a_prompt_that_leaves_no_room_is_not_asked(tmp_path: Path) -> None:
    compute = Echo()
    with pool(tmp_path / "j.jsonl", compute) as one:
        one.longest = 4
        found = one.answer([CompletionRequest((1, 2, 3, 4)), CompletionRequest((1, 2, 3))])
    assert (found[0].text, found[0].finish_reason, found[0].prompt_tokens) == ("", "prompt too long", 4)
    assert found[1].text and [len(unit) for unit in compute.units] == [1]
