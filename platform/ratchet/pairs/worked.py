"""Worked answers: where the results of their calculations stand, and whether these are right."""

from __future__ import annotations

import dataclasses
import enum
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

# What states the final answer; in those sentences nothing is changed.
_STATED = re.compile(
    rf"(?:####|[Aa]nswer is:?|[Vv]alue of (?:the )?(?:unknown )?(?:variable )?[^\s,.]{{1,12}} is|\\boxed\{{)"
    rf"\s*\$?{_MONEY}(?P<value>-?(?:{NUMBER}))"
)
_STANDING = re.compile(rf"(?<![\w.,^{{_\\])(?P<value>{NUMBER})(?![\w^]|[.,]\d)")
_BEFORE = re.compile(rf"(?:=|\\approx|≈|\s[<>≤≥])\s{{0,3}}[(]?\s?-?{_MONEY}\$?{_MONEY}\Z")
# What stands left of a comparison, words apart: numbers, signs, and letters alone, which are unknowns.
_COMPARED = re.compile(r"(?:[\d.,()%+*/×÷−–\s-]|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|\d[A-Za-z](?![A-Za-z]))*\Z")
_ALONE_ON_THE_LEFT = re.compile(rf"(?:\A|[\n,;:]|[.]\s)\s{{0,3}}\$?{_MONEY}\Z")
_AFTER = re.compile(rf"%?[^\S\n]{{0,3}}(?![^\S\n]{{0,3}}(?:{_SIGN}|[(]))")  # x begins many a line
_CLAUSE = re.compile(r"[\n=;:!?]|[.,]\s")
_FRACTION = re.compile(rf"\\[dt]?frac\{{({NUMBER})\}}\{{({NUMBER})\}}")
# A unit may hold a slash, as in miles/hour. `x` between blanks is a sign.
_UNIT = re.compile(r"(?!x\b)[A-Za-z°²³']{1,30}(?:/[A-Za-z]{1,30})?\.?")
_WINDOW = 240
# What begins the statement of an answer that is no number, and what stands right of a sign of equality.
_ENDS_WITH = re.compile(r"####|[Aa]nswer is:?|\\boxed\{")
_RIGHT_SIDE = re.compile(r"(?:=|\\approx|≈)(?P<right>[^=≈\n;$]{1,400})")
_INSIDE = re.compile(rf"(?<![\w.,^_\\])(?<![\^_]\{{)(?P<value>{NUMBER})(?!,?\d|\.\d)")
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
        # The answer's own calculation stays right: Smaug changes a step on the way, not the result.
        final = next((item for item in reversed(right) if parse_number(plain[item.start : item.stop]) == said), None)
    else:
        final = right[-1] if right else None
    return Worked(plain, tuple(item for item in right if item is not final))


class Kind(enum.IntEnum):
    """How sure it is that a number is the result of a step on the way; the surest are taken."""

    COMPUTED = 0
    EQUATION = 1
    SET_UP = 2
    ANSWER = 3
    DERIVED = 4
    RESTATED = 5


def stated_results(text: str, question: str) -> tuple[Calculation, ...]:
    """Return the numbers of a worked answer, without calculator marks, that state a result on the way.

    For answers that `read_worked` finds nothing in: units in a sum (`60 miles/hour * 3 hours = 180`), LaTeX fractions,
    equations with an unknown, one sum alone, or words alone. Those of the first of these kinds that there is: what a
    left side comes to; another side of an equation; the same, where the question gives that number; the result of the
    answer's own sum; any number that the question does not give; one that is the answer; one inside a formula.

    None where no statement of the answer comes behind them, as the answer stays untouched (Smaug, appendix D). Where
    nothing states it in known words, it is the last line that does. `exact` is the number itself.
    """
    said, given = list(_STATED.finditer(text)), {parse_number(found[0]) for found in _STANDING.finditer(question)}
    if not said:
        return _inside_formulas(text, given) or _above_the_end(text, given)
    # Blank, so that places stay; to ask of each number whether a statement holds it would take the square of both.
    open_to_change = _STATED.sub(lambda found: " " * len(found[0]), text[: said[-1].start()])
    kinds = _by_kind(open_to_change, {parse_number(said[-1]["value"])}, given)
    return tuple(kinds[min(kinds)]) if kinds else _inside_formulas(text, given)


def _above_the_end(text: str, given: set[Fraction]) -> tuple[Calculation, ...]:
    """Return numbers of equations above the last line, which says what came of them in words that are not known."""
    above, _, last = text.rstrip().rpartition("\n")
    if not re.search(r"[A-Za-z]{2,} [A-Za-z]", last):  # a line of a program, say, is no statement
        return ()
    kinds = _by_kind(above, {parse_number(found[0]) for found in _STANDING.finditer(last)}, given)
    best = min(kinds, default=Kind.ANSWER)
    return tuple(kinds[best]) if best < Kind.ANSWER else ()


def _by_kind(text: str, answers: set[Fraction], given: set[Fraction]) -> dict[Kind, list[Calculation]]:
    """Return the numbers of a text that may be changed, by how sure it is that each is the result of a step."""
    kinds: dict[Kind, list[Calculation]] = {}
    for number in _STANDING.finditer(text):
        kind = _kind(text, number, answers, given)
        if kind is not None:
            found = Calculation(number.start(), number.end(), abs(parse_number(number[0])), 1)
            kinds.setdefault(kind, []).append(found)
    return kinds


def _inside_formulas(text: str, given: set[Fraction]) -> tuple[Calculation, ...]:
    r"""Return numbers right of a sign of equality: 4 and 1 of `= \sqrt{4+1} = \boxed{\sqrt{5}}`.

    Above the answer, and no exponents and indices. Those that are neither in the answer nor in the question come first,
    then those of the question.
    """
    ends = list(_ENDS_WITH.finditer(text))
    if not ends:
        return ()
    answer = {parse_number(found["value"]) for found in _INSIDE.finditer(text, ends[-1].start())}
    kinds: dict[tuple[bool, bool], list[Calculation]] = {}
    for side in _RIGHT_SIDE.finditer(text, 0, ends[0].start()):
        for number in _INSIDE.finditer(text, side.start("right"), side.end("right")):
            value = parse_number(number["value"])
            found = Calculation(number.start(), number.end(), value, 1)
            kinds.setdefault((value in answer, value in given), []).append(found)
    return tuple(kinds[min(kinds)]) if kinds else ()


def _kind(text: str, number: re.Match[str], answers: set[Fraction], given: set[Fraction]) -> Kind | None:
    value, before = parse_number(number[0]), text[max(0, number.start() - _WINDOW) : number.start()]
    ends = _AFTER.match(text, number.end()) is not None
    if ends and (sign := _BEFORE.search(before)):
        left = _CLAUSE.split(before[: sign.start()])[-1]
        equal = sign[0].lstrip()[0] not in "<>≤≥"
        comes_to = _without_units(left) if equal else None
        # Wrong as it stands, or two numbers that are compared: another number could make it right, or leave it so.
        wrong = comes_to is not None and abs(comes_to - value) >= last_place(number[0])
        if wrong or not (equal or _has_unknown(left)):
            return None
        if comes_to is not None and value not in answers:
            return Kind.COMPUTED
        return Kind.ANSWER if value in answers else Kind.SET_UP if value in given else Kind.EQUATION
    if _ALONE_ON_THE_LEFT.search(before) and text[number.end() : number.end() + 4].lstrip(" $").startswith("="):
        return Kind.ANSWER if value in answers else Kind.SET_UP if value in given else Kind.EQUATION
    if value in given:
        return None
    return Kind.RESTATED if value in answers else Kind.DERIVED


def _has_unknown(text: str) -> bool:
    compared = _COMPARED.search(text)
    return compared is not None and re.search("[A-Za-z]", compared[0]) is not None


def _without_units(text: str) -> Fraction | None:
    """Return what a sum comes to without the words in it; None where it is no sum of numbers."""
    plain = _UNIT.sub(" ", _FRACTION.sub(r"(\1/\2)", text)).replace("\\$", " ").replace("$", " ")
    return evaluate(plain) if _COMPUTES.search(re.sub(r"\s+", " ", plain)) else None


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
