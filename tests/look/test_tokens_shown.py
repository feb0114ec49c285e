"""Pairs token by token: the tokens shown are those that are trained, and each is marked as what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ratchet.documents.data_report import ShownPart
from ratchet.look.shown import shown_pair
from ratchet.look.words import part_text
from ratchet.model.scratch_tokenizer import write_scratch_tokenizer
from ratchet.pairs.chat import ChatTemplate
from ratchet.pairs.pair import PreferencePair, Turn, answer_turn
from ratchet.pairs.render import Rendered, render_pair
from ratchet.pairs.style import find_style
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pairs.tokens import Policy, split_ids
from token_pairs import CHATML, OPEN, SPEC, TEXTS, TRIMS, pair

LARGE = Policy(10_000, "drop")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer")
    write_scratch_tokenizer(SPEC, TEXTS, made)
    return made


def loaded(folder: Path, template: str) -> tuple[Any, Any]:
    tokenizer = load_tokenizer(folder, ChatTemplate(template))
    return tokenizer, find_style(tokenizer)


def text_of(part: ShownPart) -> str:
    return "".join(token.text for token in (*part.head, *part.tail))


@pytest.mark.parametrize("template", [CHATML, OPEN, TRIMS], ids=["chatml", "without marks", "trimming"])
@pytest.mark.parametrize("answer", ["It is 5.", " Très bien 🙂, 5.\n", "<think>2 + 3</think>\n5"])
def test_tokens_are_those_that_are_trained(folder: Path, template: str, answer: str) -> None:
    tokenizer, style = loaded(folder, template)
    one = pair(system="Be brief.", chosen=answer)
    rendered = render_pair(tokenizer, style, one)
    assert isinstance(rendered, Rendered)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in vars(rendered).values()]
    encoded = split_ids(style, *ids)
    shown = shown_pair(one, tokenizer, style, LARGE)
    assert {part.name: part.length for part in shown.parts} == {
        key: len(getattr(encoded, key)) for key in ("prompt", "chosen", "rejected")
    }
    prompt, chosen, rejected = shown.parts
    decoded = [tokenizer.decode(getattr(encoded, part.name)) for part in shown.parts]
    # What decodes is what is shown; a character of several tokens is shown with the first of them.
    assert [text_of(part) for part in shown.parts] == decoded
    assert not any(token.scored for token in prompt.head)
    assert all(token.scored for part in (chosen, rejected) for token in part.head)


def test_marks_thoughts_and_a_given_prefix_can_be_told_apart(folder: Path) -> None:
    tokenizer, style = loaded(folder, CHATML)
    shown = shown_pair(pair(chosen="<think>2 + 3 it is</think>It is 5."), tokenizer, style, LARGE)
    kinds = {kind: "".join(t.text for t in shown.parts[1].head if t.kind == kind) for kind in ("thoughts", "text")}
    assert kinds == {"thoughts": "<think>2 + 3 it is</think>", "text": "It is 5."}
    assert "".join(t.text for t in shown.parts[0].head if t.kind == "text") == "What is 2 + 3?"
    assert part_text(shown.parts[1], colour=False).endswith("‹<|end|>›]]")
    turns = (Turn("user", "What is 2 + 3?"), Turn("assistant", "It"))
    given = PreferencePair(turns, answer_turn(" is 5."), answer_turn(" is 6."), "data.jsonl", 7)
    texts = shown_pair(given, None, None, None)
    assert [(part.name, part.head[0].kind, part.head[0].scored) for part in texts.parts] == [
        ("user", "text", False),
        ("assistant", "prefix", False),
        ("chosen", "text", True),
        ("rejected", "text", True),
    ]


def test_a_token_with_the_blank_before_a_text_is_of_the_text(folder: Path) -> None:
    tokenizer, style = loaded(folder, CHATML)
    answer = " is 42."
    first = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"][0]
    assert answer[slice(*first)].lstrip() != answer[slice(*first)] != " ", "its first token includes the blank"
    shown = shown_pair(pair(chosen=answer), tokenizer, style, LARGE).parts[1]
    assert "".join(token.text for token in shown.head if token.kind == "text") == answer
    assert "".join(token.text for token in shown.head if token.kind == "template").strip() == "<|end|>"


def test_what_a_limit_does_is_shown(folder: Path) -> None:
    tokenizer, style = loaded(folder, CHATML)
    long = pair("What is 2 + 3? " * 30)
    whole = shown_pair(long, tokenizer, style, LARGE)
    lengths = {part.name: part.length for part in whole.parts}
    most = lengths["chosen"] + 10
    trimmed = shown_pair(long, tokenizer, style, Policy(most, "trim_prompt")).parts[0]
    assert trimmed.length == 10 and text_of(whole.parts[0]).endswith(text_of(trimmed)[-20:])
    dropped = shown_pair(long, tokenizer, style, Policy(most, "drop"))
    assert dropped.refused == f"too long: {lengths['prompt'] + lengths['chosen']} tokens, more than {most}"
    refused = shown_pair(pair("What is <|end|>?"), tokenizer, style, LARGE)
    assert refused.texts_alone and refused.refused.startswith("special token in text")


def test_long_parts_are_cut_in_the_middle(folder: Path) -> None:
    tokenizer, style = loaded(folder, CHATML)
    prompt = shown_pair(pair("What is 2 + 3? " * 200), tokenizer, style, LARGE).parts[0]
    assert prompt.length == len(prompt.head) + prompt.left_out + len(prompt.tail) and prompt.left_out
    text = part_text(prompt, colour=False)
    left = int(text.partition("… ")[2].partition(" more")[0].replace(",", ""))
    marks = sum(run.count("¦") + 1 for run in text.split(f" … {left:,} more … ")[0].strip("‹›").split("›"))
    assert left > prompt.left_out and marks > 0 and len(text) < 900
