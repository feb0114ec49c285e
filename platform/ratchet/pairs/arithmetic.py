"""Calculations in a text: where their results stand, and whether they are right."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

# Every repetition is bounded: a text may be 200,000 characters of anything.
NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,5}(?!\d)|\d{1,15}(?!\d))(?:\.\d{1,15})?|\.\d{1,15}"
_MONEY = r"\\?[$€£]?\s?"
_OPERAND = rf"[(]{{0,3}}{_MONEY}(?:{NUMBER})%?[)]{{0,3}}"
_SIGN = r"(?:[-+*/x×÷−–]|\\times|\\div|\\cdot)"
_ALONE = rf"(?!\s{{0,3}}{_SIGN}\s{{0,3}}[(]{{0,3}}{_MONEY}\d)"
_PLAIN = re.compile(
    rf"(?<![\w.,])(?P<left>{_OPERAND}(?:\s{{0,3}}{_SIGN}\s{{0,3}}{_OPERAND}){{1,12}})\s{{0,3}}=\s{{0,3}}{_MONEY}"
    rf"(?P<result>-?(?:{NUMBER}))(?!,?\d|\.\d){_ALONE}(?P<percent>%?)"
)
_MARK = re.compile(rf"<<(?P<left>[^<>=]*)=(?P<value>[^<>=]*)>>(?P<result>-?(?:{NUMBER}))?(?P<percent>%?)")
_ANSWER = re.compile(rf"(?:####|[Aa]nswer is:?|\\boxed\{{)\s*{_MONEY}(?P<answer>-?(?:{NUMBER})){_ALONE}")
_TOKEN = re.compile(rf"\s*(?:(?P<number>{NUMBER})|(?P<sign>\\times|\\div|\\cdot|[-+*/x×÷−–()%])|{_MONEY}(?=[\d.(]))")
_COMPUTES = re.compile(rf"[\d%)]\s*{_SIGN}")
_LONGEST = 400
_SIGNS = {"x": "*", "×": "*", "\\times": "*", "\\cdot": "*", "÷": "/", "\\div": "/", "−": "-", "–": "-"}


@dataclasses.dataclass(frozen=True)
class Calculation:
    """A right calculation: its result is `text[start:stop]`; `exact` is what its left side comes to.

    `scale` is 100 where the result is written in percent, else 1.
    """

    start: int
    stop: int
    exact: Fraction
    scale: int


@dataclasses.dataclass(frozen=True)
class Worked:
    """A worked answer without calculator marks, and its calculations in order but for the one that ends it."""

    text: str
    intermediate: tuple[Calculation, ...]


def read_worked(text: str) -> Worked:
    """Find the right calculations of a worked answer: GSM8K's `<<48/2=24>>24`, and `a + b = c` in plain text.

    A calculation that is wrong as it stands, or that holds more than numbers, is left out: changing
    its result could make it right.
    """
    plain, marked = _unmarked(text)
    found = {item.start: item for item in marked if item}
    unmarked = (match for match in _PLAIN.finditer(plain) if match.start("result") not in found)
    found |= {item.start: item for item in (_calculation(match, 0) for match in unmarked) if item}
    answers = list(_ANSWER.finditer(plain))
    end = answers[-1].start() if answers else len(plain)
    right = [found[start] for start in sorted(found) if start < end]
    if answers and right:
        said = parse_number(answers[-1]["answer"])
        final = next((item for item in reversed(right) if parse_number(plain[item.start : item.stop]) == said), None)
    else:
        final = right[-1] if right else None
    return Worked(plain, tuple(item for item in right if item is not final))


def _unmarked(text: str) -> tuple[str, list[Calculation | None]]:
    """Return the text without calculator marks, and the calculations that they held."""
    pieces, found, at, length = [], [], 0, 0
    for match in _MARK.finditer(text):
        pieces.append(text[at : match.start()])
        length += match.start() - at
        at = match.end("value") + 2
        if match["result"] is not None:
            found.append(_calculation(match, length - at))
    return "".join([*pieces, text[at:]]), found


def _calculation(match: re.Match[str], shift: int) -> Calculation | None:
    exact = evaluate(match["left"])
    result = parse_number(match["result"])
    if exact is None or not _COMPUTES.search(match["left"]):
        return None
    for scale in (100, 1) if match["percent"] else (1,):
        if abs(exact * scale - result) < last_place(match["result"]):
            return Calculation(match.start("result") + shift, match.end("result") + shift, exact, scale)
    return None


def parse_number(text: str) -> Fraction:
    """Return the value of digits as written, thousands commas allowed."""
    digits = text.replace(",", "")
    return Fraction(digits) if "." in digits else Fraction(int(digits))


def last_place(text: str) -> Fraction:
    """Return the worth of the last digit written: 1 for `24`, 1/10 for `0.2`."""
    return Fraction(1, 10 ** len(text.partition(".")[2]))


def evaluate(text: str) -> Fraction | None:
    """Return what numbers, + - * / ( ) and % come to, exactly; None where the text is anything else."""
    tokens: list[str] = []
    at, text = 0, text.rstrip()
    if len(text) > _LONGEST:
        return None
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.end() == at:
            return None
        tokens += [match["number"] or _SIGNS.get(match["sign"], match["sign"])] * bool(match["number"] or match["sign"])
        at = match.end()
    try:
        value = _sum(tokens)
    except (IndexError, ValueError, ZeroDivisionError, RecursionError):
        return None
    return None if tokens else value


def _sum(tokens: list[str]) -> Fraction:
    value = _product(tokens)
    while tokens and tokens[0] in {"+", "-"}:
        value = value + _product(tokens) if tokens.pop(0) == "+" else value - _product(tokens)
    return value


def _product(tokens: list[str]) -> Fraction:
    value = _factor(tokens)
    while tokens and tokens[0] in {"*", "/"}:
        value = value * _factor(tokens) if tokens.pop(0) == "*" else value / _factor(tokens)
    return value


def _factor(tokens: list[str]) -> Fraction:
    first = tokens.pop(0)
    if first == "-":
        return -_factor(tokens)
    if first == "(":
        value = _sum(tokens)
        if tokens.pop(0) != ")":
            raise ValueError("no closing bracket")
    else:
        value = parse_number(first)
    while tokens and tokens[0] == "%":
        tokens.pop(0)
        value /= 100
    return value
