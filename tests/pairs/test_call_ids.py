"""Ids of calls where a template reads them: as the name (Kimi), of nine letters alone (Mistral), or as they are."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import pytest

from families import FAMILIES
from family_text import tokenizer_of
from ratchet.pairs.call_ids import ID_FORMS, calls_in, with_ids
from ratchet.pairs.chat import ChatTemplate, bind
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.pairs.pair_table import pairs_table
from ratchet.pairs.style import apply_messages, find_style, messages_of
from ratchet.pairs.tokens import Policy, tokenise

BEGIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{{ m.content or '' }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}"
)
END = (
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
RESULT = "{% if m.role == 'tool' %}{{ ' of ' + m.tool_call_id }}{% endif %}"
ARGUMENTS = "(c.function.arguments if c.function.arguments is string else c.function.arguments | tojson)"
SHORT = "{%% if %s is not defined or %s | length != 9 %%}{{ raise_exception('an id has nine letters') }}{%% endif %%}"
TEMPLATES = {
    "named": BEGIN.replace("{{ m.content", RESULT + "{{ m.content")
    + "{{ '<call>' + c.id + ' ' + "
    + ARGUMENTS
    + " }}"
    + END,
    "nine": BEGIN
    + (SHORT % ("c.id", "c.id"))
    + "{{ c.function.name + ' ' + c.id + ' ' + "
    + ARGUMENTS
    + " }}"
    + END.replace(
        "{{ '<|im_end|>\\n' }}",
        "{% if m.role == 'tool' %}"
        + (SHORT % ("m.tool_call_id", "m.tool_call_id"))
        + "{{ ' of ' + m.tool_call_id }}{% endif %}{{ '<|im_end|>\\n' }}",
    ),
    "any": BEGIN + "{{ c.function.name }}{{ c.id }}{{ ' ' + " + ARGUMENTS + " }}" + END,
    "numbers": BEGIN
    + "{{ c.function.name + ' ' + "
    + ARGUMENTS
    + " }}"
    + END.replace(
        "{{ '<|im_end|>\\n' }}",
        "{% if m.role == 'tool' %}{% set ns = namespace(at=0, of=none) %}{% for o in messages %}"
        "{% for c in o.tool_calls or [] %}{% if c.id == m.tool_call_id and ns.of is none %}{% set ns.of = ns.at %}"
        "{% endif %}{% set ns.at = ns.at + 1 %}{% endfor %}{% endfor %}{{ ' of ' ~ ns.of }}{% endif %}"
        "{{ '<|im_end|>\\n' }}",
    ),
    "names": BEGIN
    + "{{ c.function.name + ' ' + "
    + ARGUMENTS
    + " }}"
    + END.replace(
        "{{ '<|im_end|>\\n' }}",
        "{% if m.role == 'tool' %}{{ ' from ' ~ m.name }}{% endif %}{{ '<|im_end|>\\n' }}",
    ),
    "none": BEGIN + "{{ c.function.name + ' ' + " + ARGUMENTS + " }}" + END,
}
ASK = Turn("user", "What is 2 + 2, and 3?")


@functools.cache
def tokenizer_with(template: str) -> Any:
    (family,) = (one for one in FAMILIES if one.name == "yi")
    tokenizer = tokenizer_of(dataclasses.replace(family))
    del tokenizer.apply_chat_template
    bind(tokenizer, ChatTemplate(TEMPLATES[template]))
    return tokenizer


def call(name: str, at: int, own: str | None = None) -> dict[str, Any]:
    known_as = {} if own is None else {"id": own}
    return {"type": "function", **known_as, "function": {"name": name, "arguments": {"left": at}}}


def called(*calls: dict[str, Any]) -> Turn:
    return Turn("assistant", "", tool_calls=json.dumps(calls))


def text_of(template: str, prompt: tuple[Turn, ...], answer: Turn) -> str:
    """Return the text of the tokens that a pair trains with."""
    tokenizer = tokenizer_with(template)
    pair = PreferencePair(prompt, answer, Turn("assistant", "No."), "data.jsonl", 1)
    (row,) = tokenise(pairs_table([pair]), tokenizer, find_style(tokenizer), Policy(10_000, "drop")).to_pylist()
    assert row["reason"] is None, row["detail"]
    text: str = tokenizer.decode(row["prompt"] + row["chosen"])
    return text


@pytest.mark.parametrize(
    ("template", "form"), [("named", "named"), ("nine", "nine"), ("any", "any"), ("numbers", "any"), ("none", None)]
)
def test_what_a_template_reads_of_an_id_is_found(template: str, form: str | None) -> None:
    style = find_style(tokenizer_with(template))
    assert (style.ids, style.calls, style.results) == (form, "object", True)


@pytest.mark.parametrize("ids", [(None, None, None), ("call_a", "call_b", "call_c"), ("x", "x", "x")])
def test_calls_have_the_name_and_the_place_where_the_id_is_written_as_the_name(ids: tuple[str | None, ...]) -> None:
    first, second, third = (call(name, at, own) for at, (name, own) in enumerate(zip(("add", "add", "sub"), ids)))  # noqa: B905
    results = [Turn("tool", text, tool_call_id=own) for text, own in zip(("4", "6"), ids, strict=False)]
    text = text_of("named", (ASK, called(first, second), *results), called(third))
    assert text == (
        "<|im_start|>user\nWhat is 2 + 2, and 3?<|im_end|>\n"
        '<|im_start|>assistant\n<call>functions.add:0 {"left": 0}<call>functions.add:1 {"left": 1}<|im_end|>\n'
        "<|im_start|>tool\n of functions.add:04<|im_end|>\n<|im_start|>tool\n of functions.add:16<|im_end|>\n"
        '<|im_start|>assistant\n<call>functions.sub:2 {"left": 2}<|im_end|>'
    )


def test_ids_of_the_form_stay_as_they_are() -> None:
    prompt = (ASK, called(call("add", 0, "functions.add:7")), Turn("tool", "4", tool_call_id="functions.add:7"))
    text = text_of("named", prompt, called(call("add", 1, "functions.add:8"), call("sub", 2, "functions.add:9")))
    assert "<call>functions.add:7" in text and " of functions.add:7" in text and "<call>functions.add:8" in text
    # The last has the name of another tool in its id.
    assert "<call>functions.sub:2" in text
    nine = text_of("nine", (ASK,), called(call("add", 0, "abcdefghi")))
    assert "add abcdefghi " in nine


def test_no_id_that_is_made_is_one_that_another_call_has() -> None:
    turns = (called(call("add", 0, "functions.add:1"), call("add", 1, None)),)
    told = with_ids((*turns, Turn("tool", "1"), Turn("tool", "2")), "named")
    assert [one["id"] for one in json.loads(told[0].tool_calls or "")] == ["functions.add:1", "functions.add:2"]
    assert [turn.tool_call_id for turn in told[1:]] == ["functions.add:1", "functions.add:2"]


def test_results_that_come_in_another_order_go_with_their_calls() -> None:
    turns = (called(call("add", 0, "a"), call("sub", 1, "b")), Turn("tool", "1", tool_call_id="b"), Turn("tool", "4"))
    told = with_ids(turns, "named")
    assert [turn.tool_call_id for turn in told[1:]] == ["functions.sub:1", "functions.add:0"]
    by_name = with_ids((called(call("add", 0), call("sub", 1)), Turn("tool", "1", name="sub")), "named")
    assert by_name[1].tool_call_id == "functions.sub:1"
    # The first call has no result, and both turns use one id.
    later = (called(call("add", 0, "x")), ASK, called(call("sub", 1, "x")), Turn("tool", "1", tool_call_id="x"))
    assert with_ids(later, "named")[-1].tool_call_id == "functions.sub:1"
    lone = (Turn("tool", "4", tool_call_id="z"),)
    assert [*with_ids(lone, "named")] == [*lone]


@pytest.mark.parametrize("own", [None, "call_1234567890", "call_00000001"])
def test_long_and_absent_ids_become_nine_letters_where_others_are_refused(own: str | None) -> None:
    prompt = (ASK, called(call("add", 0, own), call("add", 1, own)), Turn("tool", "4", tool_call_id=own))
    text = text_of("nine", prompt, called(call("sub", 2, own)))
    ids = [word for word in text.replace("<", " ").split() if len(word) == 9 and set(word) <= set("0123456789abcdef")]
    first, second, result, last = ids
    assert first == result and len({first, second, last}) == 3
    assert text == text_of("nine", prompt, called(call("sub", 2, own)))


def test_an_id_that_is_written_as_it_is_stays_and_is_made_where_there_is_none() -> None:
    text = text_of("any", (ASK,), called(call("add", 0, "call_a"), call("add", 1)))
    assert "addcall_a " in text and "add " not in text


@pytest.mark.parametrize("ids", [(None, None), ("call_a", "call_b")])
def test_a_result_has_the_number_of_its_call_where_a_template_finds_it_by_the_id(ids: tuple[str | None, ...]) -> None:
    first, second = (call("add", at, own) for at, own in enumerate(ids))
    results = [Turn("tool", text, tool_call_id=own) for text, own in zip(("4", "6"), ids, strict=True)]
    text = text_of("numbers", (ASK, called(first, second), *results), called(call("sub", 2)))
    assert "4 of 0<|im_end|>" in text and "6 of 1<|im_end|>" in text and "call_" not in text


def test_calls_are_counted_on_through_a_conversation() -> None:
    style = find_style(tokenizer_with("named"))
    prompt = (ASK, called(call("add", 0), call("add", 1)), Turn("tool", "4"), ASK)
    answer = called(call("sub", 2))
    assert calls_in(prompt) == 2
    apart = [*messages_of(style, prompt), *messages_of(style, [answer], prompt)]
    assert apart == messages_of(style, [*prompt, answer])
    text = apply_messages(tokenizer_with("named"), apart, None, asks=False)
    assert "functions.sub:2" in text


def test_where_no_id_is_read_a_call_is_handed_over_as_it_is() -> None:
    turns = (ASK, called(call("add", 0, "call_a")))
    assert with_ids(turns, None) is turns
    assert set(ID_FORMS) == {"own", "any", "nine", "named"}


@pytest.mark.parametrize("ids", [(None, None), ("call_a", "call_b"), ("call_b", "call_a")])
def test_a_result_has_the_name_of_its_tool_where_a_template_writes_it(ids: tuple[str | None, ...]) -> None:
    """OpenAI's results have the id of their call alone."""
    style = find_style(tokenizer_with("names"))
    assert (style.ids, style.names, style.results) == (None, True, True)
    first, second = (call(name, 0, own) for name, own in zip(("add", "sub"), ("call_a", "call_b"), strict=True))
    results = [Turn("tool", text, tool_call_id=own) for text, own in zip(("4", "6"), ids, strict=True)]
    text = text_of("names", (ASK, called(first, second), *results), Turn("assistant", "Yes."))
    one, other = ("sub", "add") if ids[0] == "call_b" else ("add", "sub")
    assert f"4 from {one}<" in text and f"6 from {other}<" in text
    named = (ASK, called(first), Turn("tool", "4", name="mine"))
    assert "4 from mine<" in text_of("names", named, Turn("assistant", "Yes."))
    assert not find_style(tokenizer_with("none")).names
