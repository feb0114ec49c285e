"""Thoughts inside an answer's text: `<think>…</think>` at its beginning, and the marks of other families."""

from __future__ import annotations

import dataclasses
import re

from ratchet.pairs.pair import Turn

_NAMES = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
)
"""The marks that open and close thoughts. `evaluate.thoughts` finds more, wherever they stand."""
_WORDS = frozenset({"<thinking>", "<thought>"})
"""Marks that texts also have of their own: without the mark that opens, the one that closes says nothing."""
_CLOSED = re.compile(
    "|".join(
        rf"\A\s*(?:{re.escape(left)}){'' if left in _WORDS else '?'}(?:(?!{re.escape(left)}).)*?{re.escape(right)}"
        for left, right in _NAMES
    ),
    re.DOTALL,
)
_OPEN = re.compile(rf"\A\s*(?P<mark>{'|'.join(re.escape(left) for left, _ in _NAMES)})")
_CLOSE = re.compile("|".join(re.escape(right) for _, right in _NAMES))
_LEFT = "|".join(re.escape(left) for left, _ in _NAMES)
OPENED = re.compile(rf"(?:{_LEFT}|{_CLOSE.pattern}|\s)*")
"""What a generation prompt may have that a conversation has not: marks of thoughts and blank space."""
_AT_END = re.compile(rf"(?P<mark>{_LEFT})(?P<blank>\s*)\Z")


_CLOSED_AT_END = re.compile(rf"(?:(?:{_LEFT})\s*)?(?:{_CLOSE.pattern})\s*\Z")
_MARKS = 100
"""Characters that the marks at the end of a generation prompt may have."""


def has_thoughts(text: str) -> bool:
    """Say whether thoughts end in a text that begins with them."""
    return _CLOSE.search(text) is not None and _CLOSED.match(text) is not None


def is_mark(text: str) -> bool:
    """Say whether a text is the mark that opens thoughts alone."""
    found = _OPEN.match(text)
    return found is not None and not text[found.end() :].strip()


def never_end(text: str) -> bool:
    """Say whether a text begins with thoughts that have no end."""
    return _OPEN.match(text) is not None and _CLOSE.search(text) is None


def split_thoughts(turn: Turn) -> Turn:
    """Return a turn with the thoughts at the head of its text as its reasoning, without marks and blanks around them.

    A turn that has its thoughts apart, or none in its text, is returned as it is.
    """
    if turn.reasoning is not None or not has_thoughts(turn.content):
        return turn
    raw, content = divide_raw(turn.content)
    inner = _OPEN.sub("", raw, count=1)
    return dataclasses.replace(turn, content=content.lstrip(), reasoning=_CLOSE.sub("", inner, count=1).strip())


def divide_raw(text: str) -> tuple[str, str]:
    """Return the thoughts at the head of a text, marks and all, and what follows."""
    found = _CLOSED.match(text)
    return (text[: found.end()], text[found.end() :]) if found else ("", text)


def written_thoughts(turn: Turn, prompt: str) -> str:
    """Return a turn's thoughts and text as a model writes them after `prompt`, which may have opened the thoughts.

    Thoughts that stand in the text stay as they stand; those that came apart are written between `<think>` marks.
    """
    if turn.reasoning is None:
        raw, content = divide_raw(turn.content)
    else:
        opening = _AT_END.search(prompt)
        left = opening["mark"] if opening else _NAMES[0][0]
        raw, content = f"{left}\n{turn.reasoning.strip()}\n{dict(_NAMES)[left]}", f"\n\n{turn.content}"
    opening = _AT_END.search(prompt)
    if raw and not opening and not _OPEN.match(raw):
        left = next(left for left, right in _NAMES if raw.endswith(right))
        raw = f"{left}\n{raw.lstrip()}"
    if opening:
        raw = _OPEN.sub("", raw, count=1)
        raw = raw.removeprefix("\n") if "\n" in opening["blank"] else raw
    return raw + content


def common_start(left: str, right: str) -> str:
    """Return what two texts both begin with."""
    if right.startswith(left):
        return left
    return left[: next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), len(right))]


def continued(start: str, full: str) -> str | None:
    """Return the longest part of a generation prompt that a conversation begins with, None where there is none.

    Only marks of thoughts and blank space at its end may be missing, so that every text of the prompt is in it.
    """
    for at in range(len(start), max(0, len(start) - _MARKS) - 1, -1):
        if full.startswith(start[:at]) and OPENED.fullmatch(start, at):
            return start[:at]
    return None


def without_closed(prompt: str) -> str:
    """Return a prompt without a thought at its end that is closed."""
    return _CLOSED_AT_END.sub("", prompt)


def is_empty_thought(text: str) -> bool:
    """Say whether a text is a thought with nothing in it, which a template writes where there is none."""
    return bool(text.strip()) and OPENED.fullmatch(text) is not None


def opens_thoughts(prompt: str) -> bool:
    """Say whether a prompt ends with a mark that opens thoughts."""
    return _AT_END.search(prompt) is not None


def closes_thoughts(text: str) -> bool:
    """Say whether a text has a mark that closes thoughts."""
    return _CLOSE.search(text) is not None
