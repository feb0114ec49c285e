"""Builders: pairs made from rows that have none (Smaug, appendix D). To add one: a function and a row in `BUILDERS`.

The second half finds the calculations in a text: where their results stand, and whether they are right.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import re
from collections.abc import Callable
from fractions import Fraction

from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.layouts import ChoiceQuestion, Sides
from ratchet.pairs.pair import Turn
from ratchet.plan import data as plan_data

VERSION = 1
_SLIP = 9

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

Built = tuple[tuple[Turn, ...], str, str | None]


def arithmetic_corruption(row: Sides | ChoiceQuestion, seed: int) -> list[Built]:
    """One pair: the worked answer, and the same text with the result of one intermediate calculation wrong.

    The final answer and later uses of the result stay as they are (Smaug, appendix D). Which
    calculation, and by how much, follows from the seed and the row's content alone. Raises Unfit
    where the answer has no intermediate calculation.
    """
    if not isinstance(row, Sides):
        raise TypeError("arithmetic_corruption takes demonstrations")
    worked = read_worked(row.chosen)
    if not worked.intermediate:
        raise Unfit(Reason.NO_CALCULATION, f"{worked.text[:80]!r}")
    # From content and not from the row's number, so that the same row in another file gives the same pair.
    draw = random.Random("\n".join([str(seed), *(turn.content for turn in row.prompt), row.chosen]))
    spot = draw.choice(worked.intermediate)
    wrong = _wrong_number(worked.text[spot.start : spot.stop], spot, draw)
    return [(row.prompt, worked.text, worked.text[: spot.start] + wrong + worked.text[spot.stop :])]


def multiple_choice(row: Sides | ChoiceQuestion, seed: int) -> list[Built]:
    """One pair for each wrong option, with the right one as chosen (Smaug, appendix D)."""
    if not isinstance(row, ChoiceQuestion):
        raise TypeError("multiple_choice takes questions")
    right = row.options[row.right]
    return [(row.prompt, right, option) for at, option in enumerate(row.options) if at != row.right]


def _wrong_number(written: str, spot: Calculation, draw: random.Random) -> str:
    """Return a number written like `written`, off by 1 to 9 in its last place, and not a rounding of the truth."""
    place, value = last_place(written), parse_number(written)
    # 9 in the last place: the slip of one digit, as a person makes it.
    wrong = [value + place * slip for slip in range(-_SLIP, _SLIP + 1) if slip]
    wrong = [
        # A number that is off by less than one in its last place may be the truth, rounded.
        number
        for number in wrong
        if abs(number - spot.exact * spot.scale) >= place and (number >= 0 or value < 0)
    ]
    number = draw.choice(wrong)
    digits = len(written.partition(".")[2])
    whole, part = divmod(int(abs(number) / place), 10**digits)
    text = f"{whole:,}" if "," in written else str(whole)
    text = "" if written.startswith(".") and not whole else text
    return "-" * (number < 0) + text + (f".{part:0{digits}d}" if digits else "")


@dataclasses.dataclass(frozen=True)
class Builder:
    """A builder, and the one layout whose rows it takes. An entry point of the group `ratchet.builders` names one."""

    build: Callable[[Sides | ChoiceQuestion, int], list[Built]]
    layout: str


BUILDERS: dict[str, Builder] = {
    "arithmetic_corruption": Builder(arithmetic_corruption, "instruction"),
    "multiple_choice": Builder(multiple_choice, "choices"),
}


@functools.cache
def builder_of(name: str) -> Builder:
    """Return a builder by its name. Raises PlanError where that of another package cannot be used."""
    return BUILDERS[name] if name in BUILDERS else plan_data.BUILDER_KINDS.added[name].load(Builder)


def build_pairs(row: Sides | ChoiceQuestion, builder: str | None, seed: int) -> list[Built]:
    """Return the pairs of a row. Without a builder, a question becomes a demonstration of its right option."""
    if builder is not None:
        return builder_of(builder).build(row, seed)
    if isinstance(row, ChoiceQuestion):
        return [(row.prompt, row.options[row.right], None)]
    return [(row.prompt, row.chosen, row.rejected)]


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
        # The answer's own calculation stays right: Smaug changes a step on the way, not the result.
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
    # `1/4 = 25%` and `50% of 10% = 5%` are both right, and only the value tells which is meant.
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
    # The parser below recurses for each bracket.
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
