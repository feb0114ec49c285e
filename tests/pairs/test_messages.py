"""Messages with thoughts, calls of tools and results: how they are read, kept, checked and identified."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from ratchet.pairs.checks import Reason, Unfit, characters_of, check_pair
from ratchet.pairs.messages import calls_of, tools_of, turn_of, turns_of
from ratchet.pairs.pair import PreferencePair, Skipped, Turn, answer_turn
from ratchet.pairs.source import SourceReading, pairs_of
from ratchet.pairs.span import SourceRow
from ratchet.plan.data import Source

ASK = (Turn("user", "q"),)
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
CALLED = json.dumps([CALL], separators=(",", ":"))
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_ids_of_plain_texts_are_the_recorded_ones() -> None:
    """The digests are those that pairs of two texts had before turns held more."""
    first = PreferencePair(
        (Turn("system", "Sei kurz ✓"), Turn("user", "Wie viel ist 2 + 2?")), answer_turn("4"), answer_turn("5"), "f", 1
    )
    assert (first.pair_id, first.prompt_id) == ("e7a0643d90e32760316d524265b62f2e", "bd174987e8ac6a8fc1974d7aaed5c527")
    turns = (Turn("user", "q"), Turn("assistant", "a"), Turn("user", "\ud800 r"))
    other = PreferencePair(turns, answer_turn(" x\n"), None, "f", 1)
    assert (other.pair_id, other.prompt_id) == ("f629ee2340dbf21462997e70666bbd59", "26a9c8404494925aec6aa74e3d7ea254")


def test_each_field_of_a_turn_and_the_tools_change_the_ids() -> None:
    plain = PreferencePair(ASK, answer_turn("a"), answer_turn("b"), "f", 1)
    answers = [dataclasses.replace(plain.chosen, **{key: "x"}) for key in ("reasoning", "tool_calls")]
    prompts = [
        (dataclasses.replace(ASK[0], **{field.name: "x"}),)
        for field in dataclasses.fields(Turn)
        if field.name not in {"role", "content"}
    ]
    pairs = [
        plain,
        *(dataclasses.replace(plain, chosen=turn) for turn in answers),
        *(dataclasses.replace(plain, rejected=turn) for turn in answers),
        *(dataclasses.replace(plain, prompt=prompt) for prompt in prompts),
        dataclasses.replace(plain, tools="[]"),
    ]
    assert len({pair.pair_id for pair in pairs}) == len(pairs)
    assert len({pair.prompt_id for pair in pairs}) == 1 + len(prompts) + 1


MESSAGES: list[tuple[dict[str, Any], Turn]] = [
    ({"role": "assistant", "content": "a", "reasoning_content": "t"}, Turn("assistant", "a", "t")),
    ({"role": "assistant", "content": "a", "reasoning": "t"}, Turn("assistant", "a", "t")),
    ({"from": "gpt", "value": "a", "thinking": "t"}, Turn("assistant", "a", "t")),
    ({"role": "assistant", "content": "a", "thinking_content": "t", "id": 7}, Turn("assistant", "a", "t")),
    ({"role": "assistant", "content": "a", "thought": "t", "prefix": False, "images": []}, Turn("assistant", "a", "t")),
    ({"role": "assistant", "content": "a", "tool_plan": "t"}, Turn("assistant", "a", "t")),
    (
        {"role": "assistant", "content": "a", "reasoning_details": [{"type": "reasoning.text", "text": "t"}]},
        Turn("assistant", "a", "t"),
    ),
    (
        {"role": "assistant", "content": "a", "reasoning": "t", "reasoning_details": [{"data": "x"}]},
        Turn("assistant", "a", "t"),
    ),
    ({"role": "assistant", "content": "a", "reasoning_content": "", "tool_calls": []}, Turn("assistant", "a")),
    ({"role": "assistant", "content": None, "tool_calls": [CALL]}, Turn("assistant", "", None, CALLED)),
    ({"role": "assistant", "content": "a", "tool_calls": CALLED}, Turn("assistant", "a", None, CALLED)),
    ({"role": "assistant", "tool_calls": [CALL["function"]]}, Turn("assistant", "", None, CALLED)),
    (
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a":1,"b": 2}'}},
        Turn("assistant", "", None, CALLED),
    ),
    ({"from": "function_call", "value": json.dumps(CALL["function"])}, Turn("assistant", "", None, CALLED)),
    ({"role": "tool_call", "content": json.dumps(CALL["function"])}, Turn("assistant", "", None, CALLED)),
    (
        {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"},
        Turn("tool", "3", tool_call_id="c1", name="add"),
    ),
    ({"role": "function", "name": "add", "content": "3"}, Turn("tool", "3", name="add")),
    ({"from": "observation", "value": "3"}, Turn("tool", "3")),
    ({"role": "tool", "content": {"sum": 3}}, Turn("tool", '{"sum":3}')),
    ({"role": "developer", "content": "s"}, Turn("system", "s")),
    (
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image": None}]},
        Turn("user", "ab"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("message", "turn"), MESSAGES)
def test_what_a_message_means(message: dict[str, Any], turn: Turn) -> None:
    assert turn_of(message, "m") == turn


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "assistant", "content": None}, Reason.MISSING),
        ({"role": "assistant", "content": "a", "reasoning": "t", "thinking": "u"}, Reason.MESSAGES),
        ({"role": "user", "content": "a", "reasoning": "t"}, Reason.MESSAGES),
        ({"role": "user", "content": "a", "images": ["x.png"]}, Reason.MESSAGES),
        ({"role": "user", "content": "a", "attachments": ["x.pdf"]}, Reason.MESSAGES),
        ({"role": "user", "content": "a", "image_url": "x.png"}, Reason.MESSAGES),
        ({"role": "user", "content": "a", "documents": [{"text": "d"}]}, Reason.MESSAGES),
        ({"role": "system", "content": "a", "functions": "[{}]"}, Reason.MESSAGES),
        ({"role": "assistant", "content": "a", "prefix": True}, Reason.MESSAGES),
        ({"role": "assistant", "content": "a", "reasoning_details": [{"data": "x"}]}, Reason.MISSING),
        ({"role": "user", "content": [{"type": "image_url"}]}, Reason.WRONG_TYPE),
        ({"role": "critic", "content": "a"}, Reason.MESSAGES),
        ({"role": "assistant", "content": "a", "tool_calls": "{"}, Reason.NOT_JSON),
        ({"role": "assistant", "content": "a", "tool_calls": [{"arguments": {}}]}, Reason.MISSING),
        ({"role": "assistant", "content": "a", "tool_calls": [{"name": "f", "arguments": "1"}]}, Reason.WRONG_TYPE),
    ],
)
def test_a_message_that_cannot_be_read_says_why(message: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(Unfit) as caught:
        turns_of([message], "messages")
    assert caught.value.reason == reason


def test_calls_keep_their_ids_and_order_and_lose_what_a_table_filled_in() -> None:
    calls = [{"id": "c1", "function": {"name": "f", "arguments": {"z": 1, "a": None}}}, {"name": "g", "arguments": ""}]
    assert json.loads(calls_of(calls, "calls")) == [
        {"type": "function", "id": "c1", "function": {"name": "f", "arguments": {"z": 1}}},
        {"type": "function", "function": {"name": "g", "arguments": {}}},
    ]
    assert calls_of([{"name": "f", "arguments": {"z": 1, "a": 2}}], "c").index('"z"') < 60


def test_tools_are_a_list_or_its_json() -> None:
    text = json.dumps([TOOL], separators=(",", ":"))
    assert tools_of({"tools": [TOOL]}) == tools_of({"tools": json.dumps([TOOL])}) == text
    assert tools_of({"tools": [{**TOOL, "strict": None}]}) == text
    assert [tools_of(row) for row in ({}, {"tools": None}, {"tools": ""}, {"tools": []}, {"tools": "[]"})] == [None] * 5
    for wrong in ("search", {"name": "f"}, [{"type": "function"}]):
        with pytest.raises(Unfit):
            tools_of({"tools": wrong})


def test_a_row_s_tools_calls_and_thoughts_are_in_its_pair() -> None:
    row = {
        "prompt": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "3"},
        ],
        "chosen": [{"role": "assistant", "content": "a", "reasoning_content": "t"}],
        "rejected": [{"role": "assistant", "content": "", "tool_calls": [CALL]}],
        "tools": [TOOL],
    }
    reading = SourceReading(Source(path="f"), "pair", {}, (), None)
    (pair,) = pairs_of(SourceRow("f", 1, row), reading)
    assert isinstance(pair, PreferencePair)
    assert pair.prompt == (*ASK, Turn("assistant", "", None, CALLED), Turn("tool", "3"))
    assert (pair.chosen, pair.rejected) == (Turn("assistant", "a", "t"), Turn("assistant", "", None, CALLED))
    assert pair.tools is not None and json.loads(pair.tools) == [TOOL]
    (skipped,) = pairs_of(SourceRow("f", 2, {**row, "tools": "{"}), reading)
    assert isinstance(skipped, Skipped) and skipped.reason == Reason.NOT_JSON


def test_checks_look_at_every_text_of_a_turn() -> None:
    plain = PreferencePair(ASK, answer_turn("a"), answer_turn("b"), "f", 1)
    thinks = dataclasses.replace(plain, rejected=Turn("assistant", "a", "t"))
    check_pair(thinks, 4)
    assert characters_of(thinks) == 4
    for pair, limit, reason in (
        (thinks, 3, Reason.TOO_LONG),
        (dataclasses.replace(plain, rejected=Turn("assistant", " a ")), 9, Reason.SAME),
        (dataclasses.replace(plain, chosen=Turn("assistant", "a", "\0")), 9, Reason.NUL),
        (dataclasses.replace(plain, chosen=Turn("assistant", "", "t")), 9, Reason.EMPTY),
        (dataclasses.replace(plain, prompt=(*ASK, Turn("tool", "x"))), 9, Reason.MESSAGES),
    ):
        with pytest.raises(Unfit) as caught:
            check_pair(pair, limit)
        assert caught.value.reason == reason
