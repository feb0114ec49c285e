"""Ids of pairs are what the standard library's JSON and SHA-256 give, whatever stands in the texts."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ratchet.pairs.pair import PreferencePair, Turn

TEXTS = st.text(max_size=40) | st.sampled_from(['"', "\\", "\n\t\0\x7f", "é – 😀", "\ud800", "</s>"])
ASCII = st.text(st.characters(max_codepoint=127), max_size=40)
MAYBE = st.none() | TEXTS
TURNS = st.builds(Turn, st.sampled_from(["assistant", "system", "tool", "user"]), TEXTS, MAYBE, MAYBE, MAYBE, MAYBE)
PLAIN = st.builds(Turn, st.sampled_from(["system", "user"]), TEXTS)


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()[:32]


def beyond(turn: Turn) -> list[dict[str, str]]:
    keys = ("name", "reasoning", "tool_call_id", "tool_calls")
    found = {key: getattr(turn, key) for key in keys if getattr(turn, key) is not None}
    return [found] if found else []


def answer(turn: Turn | None) -> Any:
    return None if turn is None else [turn.content, *beyond(turn)] if beyond(turn) else turn.content


@given(st.lists(TURNS | PLAIN, max_size=3), TURNS | PLAIN, st.none() | TURNS | PLAIN, MAYBE)
def test_ids_are_digests_of_json(prompt: list[Turn], chosen: Turn, rejected: Turn | None, tools: str | None) -> None:
    pair = PreferencePair(tuple(prompt), chosen, rejected, "file", 1, tools)
    turns = [[turn.role, turn.content, *beyond(turn)] for turn in prompt]
    offered = [] if tools is None else [tools]
    assert pair.pair_id == digest([turns, answer(chosen), answer(rejected), *offered])
    assert pair.prompt_id == digest([turns, *offered] if offered else turns)


@given(ASCII, ASCII, ASCII)
def test_a_contest_has_one_key_whichever_side_won(prompt: str, one: str, other: str) -> None:
    asked = (Turn("user", prompt),)
    won, lost = (
        PreferencePair(asked, Turn("assistant", chosen), Turn("assistant", rejected), "file", 1).contest
        for chosen, rejected in ((one, other), (other, one))
    )
    assert won is not None and lost is not None
    same = "".join(one.lower().split()) == "".join(other.lower().split())
    assert won.key == lost.key and (won.first_won == lost.first_won) == same
