"""Texts as they count where two of them are one but for how they are written.

A pure function of one text decides, so the answer is the same whatever the order of rows and however they are divided.
What is merely near each other is another question, which `sketches` and `groups` answer.
"""

from __future__ import annotations

import functools
import re
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
# `1 + 23` is not `12 + 3`, nor `5 - 3` what `5 + 3` is: what stands between two numbers, and a sign right before one.
_OF_NUMBERS = re.compile(r"(?<=\d)[^\w]+(?=\d)|(?<!\w)[-−.](?=\d)")
_DIGIT = re.compile(r"\d")
# Of ASCII each sign's kind: digit, letter, sign of a number, or other. To search these takes a tenth of the time.
_KINDS = bytes(ord("0" if one.isdigit() else "a" if one.isalnum() or one == "_" else "-" if one in "-." else " ")
               for one in map(chr, range(128))).ljust(256, b"a")  # fmt: skip
_BETWEEN = re.compile(rb"0[ -]+0")


@functools.lru_cache(maxsize=4)  # a prompt's key and its contests ask for the same
def wording(text: str) -> str:
    """Return a prompt's letters and digits, without case, compatibility forms (NFKC), blanks and punctuation.

    What stands between two numbers is kept, in a form of letters. A text without any is returned without case and
    blanks.
    """
    plain, text = text, text if text.isascii() else unicodedata.normalize("NFKC", text)
    if _has_numbers(text):
        text = _OF_NUMBERS.sub(_spelt, text)
    # Most prompts are ASCII, where this takes a tenth of the time.
    if text.isascii():
        found = text.encode().translate(_ASCII_LOWER, _ASCII_REST).decode()
    else:
        found = text.casefold().translate(_LETTERS_AND_DIGITS)
    return found or unblanked(plain)


def _has_numbers(text: str) -> bool:
    """Say whether `_OF_NUMBERS` may find something."""
    if not text.isascii():
        return _DIGIT.search(text) is not None
    kinds = text.encode().translate(_KINDS)
    # Not one expression of both: what begins with a known character is found in a third of the time.
    return b"-0" in kinds or _BETWEEN.search(kinds) is not None


def _spelt(between: re.Match[str]) -> str:
    """Return signs as letters that no text has in a row: their numbers; of blanks alone, that of one blank."""
    signs = "".join(between[0].split()) or " "
    return "".join(f"q{ord(sign)}q" for sign in signs)


def unblanked(text: str) -> str:
    """Return an answer without case, blanks and compositions (NFC); its signs stay, as `-5` is not `5`."""
    if text.isascii():
        return text.encode().translate(_ASCII_LOWER, _ASCII_BLANKS).decode()
    return "".join(unicodedata.normalize("NFC", text).casefold().split())


def opening_of(turns: Iterable[tuple[str, str]]) -> str:
    """Return the wording of a dialogue's first user turn; of one without a user turn, that of all its turns.

    `turns` are roles and contents. Dialogues that share their first user turn share the answers that follow it, so
    that is their key. What they ask last is another key, which `groups` joins with it.
    """
    held = list(turns)
    first = next((content for role, content in held if role == "user"), None)
    return wording("\n".join(content for _, content in held) if first is None else first)
