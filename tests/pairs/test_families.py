"""Conversations of every shape through the templates of many families: ids are those that the facts say."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families import FAMILIES, Family
from family_text import expected, tokenizer_of
from ratchet.pairs import sides
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.pairs.pair_table import pairs_table
from ratchet.pairs.refusals import RefusalReason
from ratchet.pairs.style import Style, apply_messages, chat_ids, find_style, messages_of
from ratchet.pairs.tokens import Policy, tokenise

TOOL = {"type": "function", "function": {"name": "add", "description": "Adds two numbers.", "parameters": {}}}
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "add", "arguments": {"left": 2, "right": "two"}}}
CALLS = json.dumps([CALL])
Turns = tuple[Turn, ...]


def user(text: str) -> Turn:
    return Turn("user", text)


def says(text: str, thought: str | None = None) -> Turn:
    return Turn("assistant", text, thought)


RULE, ASK, HI = Turn("system", "Be brief."), user("What is 2 + 2?"), user("Hi")
HELLO, WELCOME, RESULT = says("Hello."), says("Welcome."), Turn("tool", "4", tool_call_id="abcdefghi", name="add")
CALLED = Turn("assistant", "", tool_calls=CALLS)
MULLED = says("<think>\nGreet.\n</think>\n\nHello.")
RIGHT, WRONG = says("It is 4."), says("It is 5.")
THOUGHT = says("<think>\nTwo, and two.\n</think>\n\nIt is 4."), says("<think>\nHm.\n</think>\n\nIt is 5.")
PLAIN = RIGHT, WRONG
SHAPES: dict[str, tuple[Turns, tuple[Turn, Turn]]] = {
    "one turn": ((ASK,), PLAIN),
    "system": ((RULE, ASK), PLAIN),
    "turns": ((HI, HELLO, ASK), PLAIN),
    "system and turns": ((RULE, HI, HELLO, ASK), PLAIN),
    "thoughts": ((ASK,), THOUGHT),
    "thoughts of one": ((ASK,), (THOUGHT[0], WRONG)),
    "thoughts apart": ((RULE, ASK), (says("It is 4.", "Two, and two."), says("It is 5.", "Hm."))),
    "thoughts before": ((HI, MULLED, ASK), PLAIN),
    "thoughts throughout": ((HI, MULLED, ASK), THOUGHT),
    "thoughts without a beginning": ((ASK,), (says("Two.\n</think>\n\nIt is 4."), says("Hm.\n</think>\n\nIt is 5."))),
    "blanks in answers": ((ASK,), (says(" It is 4.\n"), says("\nIt is 5. "))),
    "blanks in questions": ((user("  What is 2 + 2?\n\n"),), PLAIN),
    "two turns of the user": ((HI, ASK), PLAIN),
    "system and two turns of the user": ((RULE, HI, ASK, user("Well?")), PLAIN),
    "one text three times": ((HI, says("Hi"), HI), (says("Hi"), says("Ho"))),
    "code": ((user("Write <b>code</b>: {{ x }}"),), (says("```python\nprint(1)\n```\n"), says("    x = 1"))),
    "other writing": ((user("¿Qué? 好 😀"),), (says("是 👍🏽"), says("否"))),
    "begun by the assistant": ((WELCOME, ASK), PLAIN),
}
WITH_TOOLS: dict[str, tuple[Turns, tuple[Turn, Turn]]] = {
    "tools": ((RULE, ASK), PLAIN),
    "a call": ((ASK,), (CALLED, Turn("assistant", "I add.", tool_calls=CALLS))),
    "a call or a text": ((ASK,), (CALLED, WRONG)),
    "a result": ((ASK, CALLED, RESULT), PLAIN),
}


@functools.cache
def known(family: Family) -> tuple[Any, Style]:
    tokenizer = tokenizer_of(family)
    return tokenizer, find_style(tokenizer)


def made(family: Family, prompt: Turns, answers: tuple[Turn, Turn], tools: str | None = None) -> dict[str, Any]:
    pair = PreferencePair(prompt, *answers, "data.jsonl", 1, tools)
    tokenizer, style = known(family)
    (row,) = tokenise(pairs_table([pair]), tokenizer, style, Policy(10_000, "drop")).to_pylist()
    return row  # type: ignore[no-any-return]


def check(family: Family, prompt: Turns, answers: tuple[Turn, Turn], tools: list[Any] | None = None) -> None:
    """Compare ids with those of the texts that the facts say, and with the template's own text."""
    row = made(family, prompt, answers, json.dumps(tools) if tools else None)
    tokenizer, style = known(family)
    texts = expected(family, prompt, answers, tools)
    assert row["reason"] is None, (family.name, row["detail"])
    begins = [] if not family.bos or texts.prompt.startswith(family.bos) else [tokenizer.bos_token_id]
    for side, text in (("chosen", texts.chosen), ("rejected", texts.rejected)):
        whole = begins + tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(row["prompt"] + row[side]) == tokenizer.decode(whole), (family.name, side)
        assert row["prompt"] + row[side] == whole
        assert row[side][-1] in style.ends
    assert row["prompt"] == begins + tokenizer(texts.prompt, add_special_tokens=False)["input_ids"], family.name
    if family.place == "very last" or (family.thinks and family.thinks.key is None):
        return  # its own text of an answered prompt lacks thoughts, or the system text
    for turn, text in zip(answers, (texts.chosen, texts.rejected), strict=True):
        messages = messages_of(style, [*prompt, turn])
        if family.thinks or turn.reasoning is None:
            own = apply_messages(tokenizer, messages, tools, asks=False)
            assert own.startswith(text if family.ends in family.assistant[1] else text.removesuffix(family.ends))


def test_there_are_forty_families_with_names_of_their_own() -> None:
    assert len(FAMILIES) == len({family.name for family in FAMILIES}) >= 40


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_ids_are_those_that_the_facts_of_a_family_say(family: Family) -> None:
    for name, (prompt, answers) in SHAPES.items():
        if name == "begun by the assistant" and family.alternates:
            assert made(family, prompt, answers)["reason"] == RefusalReason.REFUSED
        else:
            check(family, prompt, answers)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_tools_calls_and_results_are_written_or_refused(family: Family) -> None:
    for prompt, answers in WITH_TOOLS.values():
        if family.tools:
            check(family, prompt, answers, [TOOL])
        else:
            assert made(family, prompt, answers, json.dumps([TOOL]))["reason"] == RefusalReason.TOOLS


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.thinks is None], ids=lambda family: family.name)
def test_a_model_is_asked_with_the_prompt_that_it_is_trained_with(family: Family) -> None:
    for name in ("one turn", "system and turns", "two turns of the user"):
        prompt, answers = SHAPES[name]
        assert chat_ids(known(family)[0], prompt) == made(family, prompt, answers)["prompt"], name


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_prefix_that_only_opens_thoughts_ends_the_prompt_where_they_begin(family: Family) -> None:
    go_on = says("Two, and two.\n</think>\n\nIt is 4."), says("Hm.\n</think>\n\nIt is 5.")
    texts = expected(family, (ASK,), THOUGHT, None)
    tokenizer, _ = known(family)
    for start in ("<think>\n", "<think>"):
        row = made(family, (ASK, says(start)), go_on)
        assert row["reason"] is None, (family.name, row["detail"])
        given = tokenizer.decode(row["prompt"])
        chosen, rejected = (given + tokenizer.decode(row[side]) for side in ("chosen", "rejected"))
        begins = family.bos if family.bos and not texts.chosen.startswith(family.bos) else ""
        if start == "<think>\n" or (family.thinks and family.thinks.key):  # else the text is the row's own
            assert (chosen, rejected) == (begins + texts.chosen, begins + texts.rejected)
        # The line break that some templates write behind the mark is the prompt's or the answer's.
        assert (
            given.rstrip()
            == (chosen[: chosen.index("Two, and")]).rstrip()
            == rejected[: rejected.index("Hm.")].rstrip()
        )
        assert start == "<think>" or given == chosen[: chosen.index("Two, and")]


def test_answers_behind_a_thought_that_the_prompt_closes_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    (small,) = (family for family in FAMILIES if family.name == "qwen3.5-small")
    sides._tell_closed.cache_clear()
    for _ in range(2):
        made(small, (ASK,), PLAIN)
        assert not caplog.records[1:]
        made(small, (ASK,), THOUGHT)
    (record,) = caplog.records
    assert "enable_thinking: true" in record.getMessage()


def test_plain_answers_behind_a_prompt_that_opens_thoughts_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    (opens,) = (family for family in FAMILIES if family.name == "deepseek-r1")
    sides.tell_opened.cache_clear()
    made(opens, (ASK,), THOUGHT)
    assert not caplog.records
    for _ in range(2):
        made(opens, (ASK,), PLAIN)
    (record,) = caplog.records
    assert "enable_thinking: false" in record.getMessage()


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0<>[]"), min_size=1, max_size=30).filter(str.strip)


@pytest.mark.heavy
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_texts_come_out_as_the_facts_say(family: Family, data: st.DataObject) -> None:
    roles = data.draw(st.sampled_from(["u", "su", "uau", "suau", "uu", "suuau"]))
    kinds = {"u": "user", "s": "system", "a": "assistant"}
    prompt = tuple(Turn(kinds[role], data.draw(texts)) for role in roles)
    thought = st.none() if data.draw(st.booleans()) else texts.map(str.strip)
    answers = [Turn("assistant", data.draw(texts).strip(), data.draw(thought)) for _ in "12"]
    if answers[0] != answers[1]:
        check(family, prompt, (answers[0], answers[1]))
