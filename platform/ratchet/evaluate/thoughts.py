"""Thoughts that a model writes into its text: what it says is what stands outside them.

Every family has its own marks: `<think>` of DeepSeek-R1 and Qwen3, `[THINK]` of Magistral, `<|channel|>` of gpt-oss,
`<seed:think>`, `◁think▷`, `<|START_THINKING|>`, a sentence of Granite. Where a chat template opens the thoughts, the
text has only the mark that closes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

UNCLOSED = "thoughts without an end"
"""The problem of a text whose thoughts never end: it says nothing."""

_WORD = (
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|rationale|reflect(?:ion)?|deliberation|analysis|cot|scratch_?pad"
    r"|monologue)"
)
_NAME = rf"(?:\w+[:_])?{_WORD}(?:_\w+)?"
_LEFT, _RIGHT = r"(?:<|&lt;)", r"(?:>|&gt;)"
# What opens thoughts, and what closes them.
_MARKS = (
    (rf"{_LEFT}{_NAME}(?:\s[^<>&]*)?(?<!/){_RIGHT}", rf"{_LEFT}/{_NAME}\s*{_RIGHT}"),
    (rf"<\|(?:(?:begin|start)(?:_of)?_)?{_WORD}(?:_(?:begin|start))?\|>", rf"<\|(?:/|end(?:_of)?_){_WORD}\|>"),
    (r"<\|channel\|>\s*(?:analysis|commentary)\b", r"<\|channel\|>\s*final\b[^<]*(?:<\|message\|>)?"),
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    (r"<\|channel>", rf"<channel\|>|<\|{_WORD}_end\|>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (rf"\[{_NAME}\](?=(?s:.*)\[/{_NAME}\])", rf"\[/{_NAME}\]"),  # without an end it may be a heading
    (r"◁think▷", r"◁/think▷"),
    (r"<unused94>", r"<unused95>"),
)
_SENTENCES = (r"^here is my thought process:", r"^here is my response:")
MARKS = "|".join(mark for pair in _MARKS for mark in pair)
"""A pattern of every such mark, without the sentences; it ignores case."""
_OPEN, _CLOSE = ("|".join(pair[side] for pair in (*_MARKS, _SENTENCES)) for side in (0, 1))
_PARTS = frozenset({"<|channel|>", "<|message|>"})  # of gpt-oss, with a word between them
# A mark between two equal quotes is spoken of: it opens and closes nothing.
_MARK = re.compile(
    rf"(?P<quote>[`'\"])(?:{_OPEN}|{_CLOSE})(?P=quote)|(?P<open>{_OPEN})|(?P<close>{_CLOSE})",
    re.IGNORECASE | re.MULTILINE,
)
# What is left of gpt-oss's marks where a decoder drops them.
_BARE_CHANNELS = re.compile(r"\A\s*analysis(?:.*(?P<final>assistantfinal)|(?=[A-Z]))", re.DOTALL)


def spoken(text: str) -> str | None:
    """Return `text` without its thoughts, and None where they do not end.

    Thoughts go from a mark that opens them to the next that closes them. A mark that closes what none opened ends
    thoughts that began before the text, and all that stands ahead of it is of them. What follows thoughts begins
    without blanks.
    """
    said, end, inside = "", 0, False
    if bare := _BARE_CHANNELS.match(text):
        end, inside = bare.end(), not bare["final"]
    for mark in _MARK.finditer(text, end):
        if mark["open"] and not inside:
            said, inside = said + text[end : mark.start()], True
        elif mark["close"]:
            said, end, inside = said if inside else "", mark.end(), False
    if inside:
        return None
    return (said + text[end:]).lstrip() if end else text


def is_token_of_marks(token: str) -> bool:
    """Return whether a special token is a mark of thoughts, or a part of one: a decoder must not drop it."""
    return token in _PARTS or re.fullmatch(MARKS, token, re.IGNORECASE) is not None


def thought_warnings(texts: Iterable[str]) -> tuple[str, ...]:
    """Return a sentence about how many texts have thoughts in them; none where none has."""
    thought = sum(spoken(text) != text for text in texts)
    return (f"{thought} answers held thoughts, which count for nothing: only what was said is scored.",) * bool(thought)
