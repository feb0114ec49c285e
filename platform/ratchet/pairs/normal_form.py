"""Texts as they count where two of them are one but for how they are written.

A pure function of one text decides, so the answer is the same whatever the order of rows and however they are divided.
What is merely near each other is another question, which `sketches` and `groups` answer.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

_VARIATION_SELECTORS = range(0xFE00, 0xFE10)
# NUL stands between texts, so it stays.
_ASCII_REST = bytes(code for code in range(1, 128) if not chr(code).isalnum())
_ASCII_BLANKS = bytes(code for code in range(128) if chr(code).isspace())
_ASCII_LOWER = bytes(range(256)).lower()
# `1 + 23` is not `12 + 3`, nor `5 - 3` what `5 + 3` is: what stands between two numbers, and a sign right before one.
_OF_NUMBERS = re.compile(r"(?<=\d)[^\w]+(?=\d)|(?<!\w)[-−.](?=\d)")
_DIGIT = re.compile(r"\d")
# Of ASCII each sign's kind: digit, letter, sign of a number, end of a text, or other. To search these takes a tenth of
# the time.
_KINDS = bytes(
    ord({"-": "-", ".": "-", "_": "a", "\0": "\0"}.get(one, "0" if one.isdigit() else "a" if one.isalpha() else " "))
    for one in map(chr, range(128))
).ljust(256, b"a")
# Up to so many characters are replaced one after the other, which takes a tenth of the time of `translate`.
_FEW = 64
# Not one expression of both: what begins with a known character is found in a third of the time.
_NUMBERS = (re.compile(rb"-0"), re.compile(rb"0[ -]+0"))


class _Replaced(dict[str, str]):
    """What a character beyond ASCII counts as: itself without case, or nothing."""

    def __init__(self, counts: Callable[[str], bool]) -> None:
        self._counts = counts

    def __missing__(self, one: str) -> str:
        self[one] = found = "".join(filter(self._counts, one.casefold()))
        return found


def _is_letter(one: str) -> bool:
    mark = unicodedata.category(one).startswith("M") and ord(one) not in _VARIATION_SELECTORS
    return one.isalnum() or mark


_LETTERS, _NO_BLANKS = _Replaced(_is_letter), _Replaced(lambda one: not one.isspace())


def wordings(texts: Sequence[str]) -> list[str]:
    """Return prompts' letters and digits, without case, compatibility forms (NFKC), blanks and punctuation.

    What stands between two numbers is kept, in a form of letters. A text without any is returned without case and
    blanks. No text holds NUL.
    """
    found = _apart(texts, lambda plain: _stripped(_spelt_out(plain), _ASCII_REST), _wordings_beyond_ascii)
    return [one or unblanked(text) for one, text in zip(found, texts, strict=True)]


@functools.lru_cache(maxsize=4)  # a prompt's key and its contests ask for the same
def wording(text: str) -> str:
    """Return what `wordings` returns of one text."""
    return wordings([text.replace("\0", " ")])[0] or unblanked(text)


def unblanked_texts(texts: Sequence[str]) -> list[str]:
    """Return answers without case, blanks and compositions (NFC); their signs stay, as `-5` is not `5`.

    No text holds NUL.
    """
    return _apart(texts, lambda plain: _stripped(plain, _ASCII_BLANKS), _unblanked_beyond_ascii)


def unblanked(text: str) -> str:
    """Return what `unblanked_texts` returns of one text."""
    return "\0".join(unblanked_texts(text.split("\0")))


Many = Callable[[Sequence[str]], list[str]]
"""What makes texts of texts, all at once."""


def _apart(texts: Sequence[str], ascii_: Many, others: Many) -> list[str]:
    """Return what one function makes of ASCII texts and the other of all other ones, in order."""
    are_ascii = [text.isascii() for text in texts]
    if all(are_ascii):
        return ascii_(texts)
    plain = iter(ascii_([text for text, is_ascii in zip(texts, are_ascii, strict=True) if is_ascii]))
    beyond = iter(others([text for text, is_ascii in zip(texts, are_ascii, strict=True) if not is_ascii]))
    return [next(plain if is_ascii else beyond) for is_ascii in are_ascii]


def _stripped(texts: Sequence[str], gone: bytes, replaced: Mapping[str, str] | None = None) -> list[str]:
    """Return texts without case and without what is `gone` of ASCII; other characters as they are `replaced`.

    All texts are one for this: most of them are short, and a call for each takes longer than what it does.
    """
    if not texts:
        return []
    data = "\0".join(texts).encode("utf-8", "surrogatepass").translate(_ASCII_LOWER, gone)
    joined = data.decode("utf-8", "surrogatepass")
    if replaced is not None:
        others = {one: replaced[one] for one in {*joined} if not one.isascii()}
        joined = _with_others(joined, {one: other for one, other in others.items() if other != one})
    return joined.split("\0")


def _with_others(text: str, others: Mapping[str, str]) -> str:
    if len(others) > _FEW:
        return text.translate({ord(one): other for one, other in others.items()})
    for one, other in others.items():
        text = text.replace(one, other)
    return text


def _spelt_out(texts: Sequence[str]) -> Sequence[str]:
    """Return ASCII texts with what stands between two numbers as letters."""
    kinds = "\0".join(texts).encode().translate(_KINDS)
    places = [match.start() for pattern in _NUMBERS for match in pattern.finditer(kinds)]
    if not places:
        return texts
    starts = list(itertools.accumulate((len(text) + 1 for text in texts), initial=0))
    out = list(texts)
    for at in {bisect.bisect(starts, place) - 1 for place in places}:
        out[at] = _OF_NUMBERS.sub(_spelt, out[at])
    return out


def _wordings_beyond_ascii(texts: Sequence[str]) -> list[str]:
    composed = (unicodedata.normalize("NFKC", text) for text in texts)
    spelt = [_OF_NUMBERS.sub(_spelt, text) if _DIGIT.search(text) else text for text in composed]
    return _stripped(spelt, _ASCII_REST, _LETTERS)


def _unblanked_beyond_ascii(texts: Sequence[str]) -> list[str]:
    return _stripped([unicodedata.normalize("NFC", text) for text in texts], _ASCII_BLANKS, _NO_BLANKS)


def _spelt(between: re.Match[str]) -> str:
    """Return signs as letters that no text has in a row: their numbers; of blanks alone, that of one blank."""
    signs = "".join(between[0].split()) or " "
    return "".join(f"q{ord(sign)}q" for sign in signs)


def opening_of(turns: Iterable[tuple[str, str]]) -> str:
    """Return the wording of a dialogue's first user turn; of one without a user turn, that of all its turns.

    `turns` are roles and contents. Dialogues that share their first user turn share the answers that follow it, so
    that is their key. What they ask last is another key, which `groups` joins with it.
    """
    held = list(turns)
    first = next((content for role, content in held if role == "user"), None)
    return wording("\n".join(content for _, content in held) if first is None else first)
