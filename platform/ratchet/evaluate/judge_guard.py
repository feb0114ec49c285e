"""What a candidate's text must not do to its judge: close its own block, open another turn, write a rating.

Each is found in the text as it looks, however it is spelt: full-width and other brackets count as
`[` and `]`, signs without width as nothing. An ordinary answer goes to the judge as it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

_BRACKETS = {
    **dict.fromkeys("⟦〚", "[["),
    **dict.fromkeys("⟧〛", "]]"),
    **dict.fromkeys("【〔〖〘❲⁅⦋", "["),
    **dict.fromkeys("】〕〗〙❳⁆⦌", "]"),
    **dict.fromkeys("‘’ʼ", "'"),
}
_RATING = r"\[\[(?P<rating>\d+\.?\d*)\]\]"
# Control texts of widespread chat templates: a judge that runs behind one would read them as turns.
_CONTROL = r"(?P<control><\|[^<>|\n]{1,64}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|<[be]os>)"
_RIMS = "[]<|># \t"
_MARK = re.compile(r"(?<!\[)\[[^\W\d][^\[\]{}\n]*\]|<\|[^|{}\n]+\|>|^#+ [^{}\n]+:$", re.MULTILINE)
# A rating in double brackets with something between the signs that a judge may leave out when it quotes.
_LOOSE = re.compile(r"\[[ \t\\*_`\"']*\[[ \t\\*_`\"']*(\d+\.?\d*)[^\[\],\n]{0,8}\][ \t\\*_`\"']*\]", re.ASCII)


class Guard:
    """Defuses texts for the prompts of `templates`; `control` are more control texts, of a judge's own tokenizer."""

    def __init__(self, templates: Iterable[str], control: Sequence[str] = ()) -> None:
        marks = sorted({mark for text in templates for mark in _MARK.findall(text)}, key=len, reverse=True)
        parts = [_RATING]
        if marks:
            parts.append(f"(?P<mark>{'|'.join(map(_spaced, marks))})")
        if own := sorted((text for text in control if len(text) > 2), key=len, reverse=True):
            parts.append(f"(?P<own>{'|'.join(re.escape(_look(text)[0]) for text in own)})")
        self._pattern = re.compile("|".join([*parts, _CONTROL]), re.ASCII | re.IGNORECASE)

    def defuse(self, text: str) -> str:
        """Return the text with every such thing taken apart; the text itself where it has none.

        `[[10]]` becomes `[ [ 10 ] ]`, a mark of the template such as `[The End of …]` stands in round
        brackets, and a control text gets blanks within its ends.
        """
        plain, places = _look(text)
        parts, end = [], 0
        for found in self._pattern.finditer(plain):
            parts += [text[end : places[found.start()]], _apart(found)]
            end = places[found.end() - 1] + 1
        return "".join([*parts, text[end:]])


def planted(texts: Iterable[str]) -> frozenset[float]:
    """Return the ratings that texts hold in double brackets, also where signs stand between these."""
    return frozenset(float(number) for text in texts for number in _LOOSE.findall(_look(text)[0]))


def _look(text: str) -> tuple[str, Sequence[int]]:
    """Return what a text looks like in plain signs, and of each the place where it stands in the text."""
    if text.isascii():
        return text, range(len(text))
    plain: list[str] = []
    places: list[int] = []
    for place, sign in enumerate(text):
        for one in unicodedata.normalize("NFKC", sign):
            if unicodedata.category(one) in {"Cf", "Mn", "Me"}:  # without width, or set upon the sign before
                continue
            for shown in _BRACKETS.get(one, one):
                plain.append(shown)
                places.append(place)
    return "".join(plain), places


def _spaced(mark: str) -> str:
    """Return a pattern of a template's mark, with whatever blanks between its words."""
    return r"[ \t]*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", mark)))


def _apart(found: re.Match[str]) -> str:
    if number := found["rating"]:
        return f"[ [ {number} ] ]"
    text = found.group()
    if found.lastgroup == "mark":
        return f"({text.strip(_RIMS)})"
    return f"{text[0]} {text[1:-1]} {text[-1]}"
