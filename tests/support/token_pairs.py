"""Pairs to make tokens of, a small tokenizer, and chat templates of several manners."""

from __future__ import annotations

from typing import Any

from ratchet.pairs.pair import PreferencePair, Turn, answer_turn
from ratchet.pairs.tokens import Policy
from ratchet.plan.model import Scratch

SPEC = Scratch(tokenizer_from=("a",), vocab_size=320, hidden_size=8, layers=1, heads=1, key_value_heads=1)
TEXTS = ["What is 12 + 30?", "12 + 30 = 42. The answer is 42.", "How are you today?", "Fine, thank you."] * 20
BODY = "{% for m in messages %}{{ '<|turn|>' + m['role'] + '\n' + CONTENT + '<|end|>\n' }}{% endfor %}"
ASK = "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
CHATML = BODY.replace("CONTENT", "m['content']") + ASK
TRIMS = BODY.replace("CONTENT", "m['content'] | trim") + ASK
THINKS = (
    BODY.replace("CONTENT", "('THINK\n' if m['role'] == 'assistant' else '') + m['content'].split('/THINK')[-1]") + ASK
)
SYSTEMLESS = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
OPEN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}" + (
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
LARGE = Policy(10_000, "drop")


def pair(
    prompt: str = "What is 2 + 3?", chosen: str = "It is 5.", rejected: str | None = "It is 6.", **more: str
) -> Any:
    turns = [Turn(role, text) for role, text in more.items()] + [Turn("user", prompt)]
    sides = answer_turn(chosen), None if rejected is None else answer_turn(rejected)
    return PreferencePair(tuple(turns), *sides, "data.jsonl", 7)
