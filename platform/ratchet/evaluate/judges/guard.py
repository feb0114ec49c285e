"""What a candidate's text must not do to its judge: close its own block, open another turn, write a rating.

Each is found in the text as it looks, however it is spelt. All that opens or closes counts as `[` or `]`, a character
reference as its sign, signs without width as nothing. An ordinary answer goes to the judge as it is.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

from ratchet.evaluate.thoughts import MARKS

REMOVED = "(rating removed)"
"""What stands in the prompt for a rating that an answer holds: no number that a judge could say again."""

_LOOKS = {
    **dict.fromkeys("⟦〚", "[["),
    **dict.fromkeys("⟧〛", "]]"),
    **dict.fromkeys("‘’ʼ", "'"),
    **dict.fromkeys("\u115f\u1160\u2800", " "),
    "\U0001f51f": "10",
}
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER = rf"(?:\d+(?:\.\d*)?|{'|'.join(_WORDS)})"
# What a judge may leave out when it quotes: blanks, tags, and all signs but those of a list or of code.
_GAP = r"(?:<[^<>\[\]]*>|[^\w\[\],'\"-]|_)*+"
_LABEL = rf"(?:(?:[a-z' ]{{1,24}}:|rating|score){_GAP})?"
_TAIL = r"(?:\s*(?:/|(?:out )?of)\s*\d+|\s*points?)?"
_INSIDE = rf"{_GAP}{_LABEL}(?P<rating>{_NUMBER}){_TAIL}{_GAP}"
_RATING = rf"\[{_GAP}\[{_INSIDE}\]{_GAP}\]"
_FLAGS = re.ASCII | re.IGNORECASE
_SQUARE = re.compile(rf"\[{_INSIDE}\]", _FLAGS)
_REFERENCE = re.compile(r"&(?:amp;)*(?:#\d{1,7}|#x[\da-f]{1,6}|[a-z]\w{1,31});?|.", re.DOTALL | _FLAGS)
# Control texts of widespread chat templates: a judge that runs behind one would read them as turns. And marks of
# thoughts: quoted by a judge, one of them would turn what it said before into thoughts.
_CONTROL = (
    r"(?P<control><\|[^<>|\n]{1,64}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<[be]os>"
    rf"|{MARKS})"
)
_RIMS = "[]<|># \t"
_MARK = re.compile(r"(?<!\[)\[[^\W\d][^\[\]{}\n]*\]|<\|[^|{}\n]+\|>|^#+ [^{}\n]+:$", re.MULTILINE)


class Guard:
    """Defuses texts for the prompts of `templates`; `control` are more control texts, of a judge's own tokenizer."""

    def __init__(self, templates: Iterable[str], control: Sequence[str] = ()) -> None:
        # The longest first, because a pattern takes the first alternative that fits.
        marks = sorted({mark for text in templates for mark in _MARK.findall(text)}, key=len, reverse=True)
        parts = [_RATING]
        if marks:
            parts.append(f"(?P<mark>{'|'.join(map(_spaced, marks))})")
        if own := sorted((text for text in control if len(text) > 2), key=len, reverse=True):
            parts.append(f"(?P<own>{'|'.join(re.escape(_look(text)[0]) for text in own)})")
        self._pattern = re.compile("|".join([*parts, _CONTROL]), _FLAGS)

    def defuse(self, text: str) -> str:
        """Return the text without any such thing; the text itself where it has none.

        `[[10]]` becomes `(rating removed)`, a mark of the template such as `[The End of …]` stands in round
        brackets, and a control text gets blanks within its ends.
        """
        plain, places = _look(text)
        parts, end = [], 0
        for found in self._pattern.finditer(plain):
            parts += [text[end : places[found.start()]], _apart(found)]
            end = places[found.end()]
        return "".join([*parts, text[end:]])


def in_square_brackets(texts: Iterable[str]) -> frozenset[float]:
    """Return the numbers that stand in square brackets, by themselves or as a rating."""
    return frozenset(_value(found["rating"]) for text in texts for found in _SQUARE.finditer(_look(text)[0]))


def _value(number: str) -> float:
    word = number.lower()
    return float(_WORDS.index(word)) if word in _WORDS else float(number)


def _look(text: str) -> tuple[str, Sequence[int]]:
    """Return what a text looks like in plain signs, and of each, and of its end, the place in the text."""
    if text.isascii() and "&" not in text:
        return text, range(len(text) + 1)
    plain: list[str] = []
    places: list[int] = []
    for piece in _REFERENCE.finditer(text):
        shown = "".join(map(_shown, unicodedata.normalize("NFKC", _unescaped(piece.group()))))
        plain += shown
        places += [piece.start()] * len(shown)
    return "".join(plain), [*places, len(text)]


def _unescaped(piece: str) -> str:
    # Again and again: `&amp;lt;` is `&lt;` at first.
    while (further := html.unescape(piece)) != piece:
        piece = further
    return piece


def _shown(sign: str) -> str:
    kind = unicodedata.category(sign)
    if sign in _LOOKS or sign.isascii():
        return _LOOKS.get(sign, sign)
    if kind in {"Cf", "Mn", "Me"}:  # without width, or set upon the sign before
        return ""
    if kind == "Nd":
        return str(unicodedata.decimal(sign))
    return {"Ps": "[", "Pe": "]"}.get(kind, sign)


def _spaced(mark: str) -> str:
    """Return a pattern of a template's mark, with whatever blanks between its words."""
    return r"[ \t]*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", mark)))


def _apart(found: re.Match[str]) -> str:
    if found["rating"]:
        return REMOVED
    text = found.group()
    if found.lastgroup == "mark":
        return f"({text.strip(_RIMS)})"
    return f"{text[0]} {text[1:-1]} {text[-1]}"
