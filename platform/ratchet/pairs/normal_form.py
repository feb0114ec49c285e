"""Texts as they count where two of them are one but for how they are written.

A pure function of one text decides, so the answer is the same whatever the order of rows and however they are divided.
Similarity (MinHash, edit distance) would join more, and wrongly: in real sets the prompts that are nearest to each
other are one template filled differently ("a synonym for happy", "… for large"), and a split that keeps all of a
template on one side holds out all or nothing of it. What similarity finds is counted by `near_prompts`.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable

_VARIATION_SELECTORS = range(0xFE00, 0xFE10)
_ASCII_REST = bytes(code for code in range(128) if not chr(code).isalnum())
_ASCII_BLANKS = bytes(code for code in range(128) if chr(code).isspace())
_ASCII_LOWER = bytes(range(256)).lower()


class _LettersAndDigits(dict[int, int | None]):
    """For `str.translate`: a letter, digit or combining mark as it is, anything else gone."""

    def __missing__(self, code: int) -> int | None:
        mark = unicodedata.category(chr(code)).startswith("M") and code not in _VARIATION_SELECTORS
        kept = code if chr(code).isalnum() or mark else None
        self[code] = kept
        return kept


_LETTERS_AND_DIGITS = _LettersAndDigits()


@functools.lru_cache(maxsize=4)  # a prompt's key and its contests ask for the same
def wording(text: str) -> str:
    """Return a prompt's letters and digits, without case, compatibility forms (NFKC), blanks and punctuation.

    A text without any is returned without case and blanks.
    """
    # Most prompts are ASCII, where this takes a tenth of the time.
    if text.isascii():
        found = text.encode().translate(_ASCII_LOWER, _ASCII_REST).decode()
    else:
        found = unicodedata.normalize("NFKC", text).casefold().translate(_LETTERS_AND_DIGITS)
    return found or unblanked(text)


def unblanked(text: str) -> str:
    """Return an answer without case, blanks and compositions (NFC); its signs stay, as `-5` is not `5`."""
    if text.isascii():
        return text.encode().translate(_ASCII_LOWER, _ASCII_BLANKS).decode()
    return "".join(unicodedata.normalize("NFC", text).casefold().split())


def opening_of(turns: Iterable[tuple[str, str]]) -> str:
    """Return the wording of a dialogue's first user turn; of one without a user turn, that of all its turns.

    `turns` are roles and contents. Not the last user turn: dialogues that share their first one share the answers
    that follow it, and a last turn such as `go on` says nothing by itself. Of a single turn both are the same.
    """
    held = list(turns)
    first = next((content for role, content in held if role == "user"), None)
    return wording("\n".join(content for _, content in held) if first is None else first)
