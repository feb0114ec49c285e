"""What `where:` of a source may say: comparisons of a row's fields, joined by `and`, `or`, `not` and parentheses.

`pairs.conditions` says which rows meet a condition.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Literal

from ratchet.errors import PlanError

Value = str | int | float | bool | None

MEASURES = ("length", "words")
"""What is measured of a field: the characters of a text or the items of a list, and the words of a text."""
ORDERS = ("<", "<=", ">", ">=")
SPOKEN = ("contains", "starts with", "ends with", "matches")
"""Operators of texts; `not` may stand before each, and before `in`."""

# Deeper than a person writes, and far from where Python's own stack ends.
_DEEPEST = 40
_FIELD = re.compile(r"\s*(?:`(?P<quoted>[^`]+)`|(?P<plain>[^\s=!<>()`\"']+))")
_SIGN = re.compile(r"\s*(?P<sign>==|!=|<=|>=|<|>)\s*")
# A word by itself, as fields such as `origin` end with one.
_WORD = re.compile(r"\s+(?P<word>(?:not\s+)?(?:in|contains|starts\s+with|ends\s+with|matches))(?![\w.])\s*")
_NULL = re.compile(r"\s+is\s+(?P<word>(?:not\s+)?null)(?![\w.])")
_JOIN = re.compile(r"\s+(?:and|or)(?=[\s(])")
_THEN = re.compile(r"\s*(?P<word>and|or)(?=[\s(])")
_ITEM = re.compile(r"""\s*(?P<item>"(?:[^"\\]|\\.)*"|'[^']*'|[^\s,\[\]"'][^,\[\]"']*)\s*(?P<end>[,\]])""")
_SINGLE = re.compile(r"'(?P<text>.*?)'(?=\s*(?:\)|$)|\s+(?:and|or)[\s(])", re.DOTALL)
_DOUBLE = re.compile(r'"(?:[^"\\]|\\.)*"')
_NOT, _OPEN, _CLOSE, _BRACKET = (re.compile(rf"\s*{sign}") for sign in (r"not(?=[\s(])", r"\(", r"\)", r"\]"))
_LOUD = re.compile(r"\s(?:AND|OR)\s|&&|\|\|")


@dataclasses.dataclass(frozen=True)
class FieldTest:
    """A field (dots lead into objects, `[0]` into lists), what is measured of it, an operator, and its values.

    `in` has each of its values, `contains` the text and where it is another value that one too, `is null` none.
    """

    field: str
    measure: Literal["", "length", "words"]
    operator: str
    values: tuple[Value, ...]


@dataclasses.dataclass(frozen=True)
class Joined:
    """Parts of a condition, all of which must hold (`and`), or one (`or`); `not` has one part, which must not."""

    word: Literal["and", "or", "not"]
    parts: tuple[Part, ...]


Part = FieldTest | Joined


@dataclasses.dataclass(frozen=True)
class Condition:
    """A condition as it was written, and what it says."""

    text: str
    part: Part

    def comparisons(self) -> Iterator[FieldTest]:
        """Yield its comparisons, in order."""
        waiting = [self.part]
        while waiting:
            part = waiting.pop(0)
            if isinstance(part, FieldTest):
                yield part
            else:
                waiting = [*part.parts, *waiting]


def parse_condition(text: str) -> Condition:
    """Read one condition. Raises PlanError naming it."""
    parser = _Parser(text)
    part = parser.either(0)
    if text[parser.at :].strip():
        raise parser.unreadable(f"cannot read `{text[parser.at :].strip()[:80]}` where it should end")
    return Condition(text, part)


class _Parser:
    """Reads a condition from its beginning; `at` is how far it came."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def either(self, depth: int) -> Part:
        return self._joined("or", depth)

    def _joined(self, word: Literal["and", "or"], depth: int) -> Part:
        parts = [self._joined("and", depth) if word == "or" else self._one(depth)]
        while (match := _THEN.match(self.text, self.at)) and match["word"] == word:
            self.at = match.end()
            parts.append(self._joined("and", depth) if word == "or" else self._one(depth))
        return parts[0] if len(parts) == 1 else Joined(word, tuple(parts))

    def _one(self, depth: int) -> Part:
        if depth > _DEEPEST:
            raise self.unreadable("it is nested too deeply")
        if match := _NOT.match(self.text, self.at):
            self.at = match.end()
            return Joined("not", (self._one(depth + 1),))
        if match := _OPEN.match(self.text, self.at):
            self.at = match.end()
            part = self.either(depth + 1)
            self._close()
            return part
        return self._comparison()

    def _close(self) -> None:
        match = _CLOSE.match(self.text, self.at)
        if match is None:
            raise self.unreadable("a parenthesis is not closed")
        self.at = match.end()

    def _comparison(self) -> FieldTest:
        field, measure = self._measured()
        if match := _NULL.match(self.text, self.at):
            self.at = match.end()
            return FieldTest(field, measure, f"is {' '.join(match['word'].split())}", ())
        match = _SIGN.match(self.text, self.at) or _WORD.match(self.text, self.at)
        if match is None:
            raise self.unreadable(f"no operator follows the field {field}" if field else "no field is named")
        self.at = match.end()
        operator = " ".join(match.group(1).split())
        return FieldTest(field, measure, operator, self._values(operator))

    def _measured(self) -> tuple[str, Literal["", "length", "words"]]:
        name, quoted = self._field()
        if quoted or not self.text.startswith("(", self.at):
            return name, ""
        if name not in MEASURES:
            raise self.unreadable(f"`{name}(…)` is not one of {', '.join(f'{one}(…)' for one in MEASURES)}")
        self.at += 1
        field, _ = self._field()
        self._close()
        return field, "length" if name == "length" else "words"

    def _field(self) -> tuple[str, bool]:
        match = _FIELD.match(self.text, self.at)
        if match is None:
            raise self.unreadable("no field is named where one should be")
        self.at = match.end()
        return (match["quoted"], True) if match["quoted"] else (match["plain"], False)

    def _values(self, operator: str) -> tuple[Value, ...]:
        plain = operator.removeprefix("not ")
        if plain == "in":
            return self._items()
        written, quoted = self._written()
        value = written if quoted else self._literal(written)
        if plain in ORDERS and (isinstance(value, bool) or value is None):
            # `true > 0` holds in Python, and nobody who writes it means that.
            raise self.unreadable(f"{plain} needs a number or a text to compare with")
        if plain not in SPOKEN:
            return (value,)
        if plain == "matches":
            self._check_pattern(written)
        return (written, value) if plain == "contains" and not isinstance(value, str) else (written,)

    def _check_pattern(self, pattern: str) -> None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise self.unreadable(f"`{pattern[:80]}` is no regular expression: {error}") from error

    def _written(self) -> tuple[str, bool]:
        """Return the text of a value, without its quotes, and whether it had some."""
        rest = self.text[self.at : self.at + 1]
        if rest in {'"', "'"}:
            match = (_DOUBLE if rest == '"' else _SINGLE).match(self.text, self.at)
            if match is None:
                raise self.unreadable("a quote is not closed")
            self.at = match.end()
            return (match["text"] if rest == "'" else self._unescaped(match.group())), True
        # As far as it can: texts with blanks, commas and parentheses need no quotes.
        start, depth = self.at, 0
        while self.at < len(self.text) and not _JOIN.match(self.text, self.at):
            depth += {"(": 1, ")": -1}.get(self.text[self.at], 0)
            if depth < 0:
                break
            self.at += 1
        written = self.text[start : self.at].strip()
        if not written:
            raise self.unreadable("nothing stands after an operator")
        return written, False

    def _unescaped(self, written: str) -> str:
        try:
            return str(json.loads(written))
        except ValueError as error:
            raise self.unreadable(f"cannot read the value {written[:80]}") from error

    def _literal(self, written: str) -> Value:
        if written[0] in "[{":
            raise self.unreadable(f"cannot read the value `{written[:80]}`")
        if re.search(r"[=<>]", written):
            raise self.unreadable("put a text that holds =, < or > in quotes")
        if re.search(r"\s(?:and|or)$", written):
            raise self.unreadable("nothing follows its last word")
        if _LOUD.search(f" {written} "):
            raise self.unreadable("write `and` and `or` in lower case, or put the text in quotes")
        return literal(written)

    def _items(self) -> tuple[Value, ...]:
        if not self.text.startswith("[", self.at):
            raise self.unreadable("`in` needs a list such as [a, b]")
        self.at += 1
        values: list[Value] = []
        while True:
            match = _ITEM.match(self.text, self.at)
            if match is None:
                raise self.unreadable(f"cannot read the list at `{self.text[self.at :][:80]}`")
            item = match["item"].strip()
            values.append(
                self._unescaped(item) if item[0] == '"' else item[1:-1] if item[0] == "'" else self._literal(item)
            )
            self.at = match.end()
            # A comma may also stand behind the last one.
            end = match if match["end"] == "]" else _BRACKET.match(self.text, self.at)
            if end is not None:
                self.at = end.end()
                return tuple(values)

    def unreadable(self, why: str) -> PlanError:
        return PlanError(
            f"cannot read the condition `{self.text}`: {why}",
            where="where",
            fix="write `field operator value`, with ==, !=, <, <=, >, >=, in [a, b], contains, starts with, ends with, "
            "matches or is null; join them with and, or, not and parentheses, and put odd texts in quotes",
            code="plan.condition",
        )


def literal(written: str) -> Value:
    """Return what a value without quotes means: a number, true, false, null, or else a text."""
    words: dict[str, Value] = {"true": True, "false": False, "null": None}
    if written in words:
        return words[written]
    if re.fullmatch(r"[+-]?\d+", written):
        return int(written) if len(written) < 400 else float(written)
    if re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?", written):
        return float(written)
    return written
