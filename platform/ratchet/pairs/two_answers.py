"""Columns that hold two answers under one name (`response_a`, `response_b`), and one that may judge them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_SIDES = (("1", "2"), ("0", "1"), ("a", "b"), ("j", "k"), ("x", "y"), ("first", "second"), ("left", "right"))
_SIDE_WORDS = {word for pair in _SIDES for word in pair} | {"3", "c", "l", "z", "third"}
_ANSWERS = {"answer", "response", "output", "completion", "reply", "generation", "candidate", "solution", "summary"}
_ANSWERS |= {"continuation", "result", "text", "message", "conversation"}
_VERDICTS: tuple[str, ...] = (
    "preference",
    "preferred",
    "better",
    "best",
    "winner",
    "picked",
    "pick",
    "chosen",
    "choice",
    "selected",
)
_VERDICTS += ("verdict", "overall", "judgment", "judgement", "vote", "win", "label", "labels")
_TALK = ("text", "turns", "turn", "object")
_WORDS = ("text", "number", "true or false")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")


def name_words(name: str) -> tuple[str, ...]:
    """Return the words of a column's name in lower case, numbers apart: `responseA` → response, a."""
    return tuple(word.lower() for word in _WORD.findall(name))


def two_answers(holds: Mapping[str, str | None]) -> tuple[str, str, str | None] | None:
    """Return two answers of one name with the column that may judge them; None where there are no such answers.

    `holds` are the columns with the `Kind` of their values. Three of a name are not two answers.
    """
    answers = {name_words(column): column for column, kind in holds.items() if kind in _TALK}
    pairs = sorted(_pairs(answers), key=lambda pair: len(pair[0]))
    if not pairs:
        return None
    others = [column for column, kind in holds.items() if kind in _WORDS and column not in pairs[0]]
    judges = (column for word in _VERDICTS for column in others if word in name_words(column))
    return (*pairs[0], next(judges, None))


def _pairs(columns: Mapping[tuple[str, ...], str]) -> Iterator[tuple[str, str]]:
    for words, column in columns.items():
        for at, word in enumerate(words):
            alike = [other for other in columns if _stem(other, at) == _stem(words, at) and other[at] in _SIDE_WORDS]
            if word not in _SIDE_WORDS or len(alike) != 2 or not _ANSWERS & {*words}:
                continue
            for first, second in _SIDES:
                other = (*words[:at], second, *words[at + 1 :])
                if word == first and other in columns:
                    yield column, columns[other]


def _stem(words: tuple[str, ...], at: int) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    return (words[:at], words[at + 1 :]) if at < len(words) else None
