"""Templates that read texts as parts of a list alone, as those of models that see do."""

from __future__ import annotations

import pytest

from families import FAMILIES, Family
from family_text import template_of, tokenizer_of
from ratchet.pairs.chat import Applied, ChatTemplate, bind
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.pairs.render import render_pair
from ratchet.pairs.style import chat_ids, find_style

PARTS = """
{%- set found = namespace(all=[]) -%}
{%- for message in messages -%}
{%- set text -%}
{%- for part in message.content -%}{%- if part.type == 'text' -%}{{ part.text }}{%- endif -%}{%- endfor -%}
{%- endset -%}
{%- set found.all = found.all + [dict(message, content=text)] -%}
{%- endfor -%}
{%- set messages = found.all -%}
"""
SOME = [family for family in FAMILIES if family.name in {"gemma2", "llama3", "mistral", "qwen2.5", "qwen3", "zephyr"}]
PROMPT = (Turn("user", "Hi"), Turn("assistant", "Hello."), Turn("user", "What is 2 + 2?"))
ANSWERS = Turn("assistant", "It is 4."), Turn("assistant", "It is 5.")


def in_parts(family: Family) -> ChatTemplate:
    return ChatTemplate(PARTS + template_of(family))


@pytest.mark.parametrize("family", SOME, ids=lambda one: one.name)
def test_pairs_are_written_as_by_the_same_template_of_texts(family: Family) -> None:
    plain, tokenizer = tokenizer_of(family), tokenizer_of(family)
    tokenizer.apply_chat_template = tokenizer.apply_chat_template.apply  # as it comes
    bind(tokenizer, in_parts(family))
    pair = PreferencePair(PROMPT, *ANSWERS, "f", 1)
    found = render_pair(tokenizer, find_style(tokenizer), pair)
    assert found == render_pair(plain, find_style(plain), pair)
    assert "What is 2 + 2?" in found.prompt
    assert chat_ids(tokenizer, PROMPT) == chat_ids(plain, PROMPT) != []


def test_a_template_of_texts_gets_texts() -> None:
    bound = tokenizer_of(SOME[0]).apply_chat_template
    assert isinstance(bound, Applied) and not bound.parts


def test_messages_that_are_parts_already_stay() -> None:
    family = SOME[0]
    tokenizer = tokenizer_of(family)
    tokenizer.apply_chat_template = tokenizer.apply_chat_template.apply
    bind(tokenizer, in_parts(family))
    asked = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "assistant", "content": "Ho"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False)
    assert "Hi" in text and "Ho" in text
