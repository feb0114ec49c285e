"""Builders: pairs made from rows that have none (Smaug, appendix D). To add one: a function and a row in `BUILDERS`."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable
from fractions import Fraction

from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.layouts import ChoiceQuestion, Sides
from ratchet.pairs.pair import Turn, answer_turn
from ratchet.pairs.worked import Calculation, last_place, parse_number, read_worked, stated_results
from ratchet.plan import data as plan_data

VERSION = 4
_SLIP = 9
_THOUSAND = 1000

Built = tuple[tuple[Turn, ...], Turn, Turn | None]


def arithmetic_corruption(row: Sides | ChoiceQuestion, seed: int) -> list[Built]:
    """One pair: the worked answer, and the same text with the result of one intermediate calculation wrong.

    The final answer and later uses of the result stay as they are (Smaug, appendix D). Which
    calculation, and by how much, follows from the seed and the row's content alone. Raises Unfit
    where the answer has no intermediate calculation.
    """
    if not isinstance(row, Sides):
        raise TypeError("arithmetic_corruption takes demonstrations")
    worked = read_worked(row.chosen.content)
    question = "\n".join(turn.content for turn in row.prompt)
    spots = worked.intermediate or stated_results(worked.text, question)
    if not spots:
        raise Unfit(Reason.NO_CALCULATION, f"{worked.text[:80]!r}")
    # From content and not from the row's number, so that the same row in another file gives the same pair.
    draw = random.Random("\n".join([str(seed), *(turn.content for turn in row.prompt), row.chosen.content]))
    spot = draw.choice(spots)
    wrong = _wrong_number(worked.text[spot.start : spot.stop], spot, draw)
    sides = worked.text, worked.text[: spot.start] + wrong + worked.text[spot.stop :]
    right, slipped = (dataclasses.replace(row.chosen, content=text) for text in sides)
    return [(row.prompt, right, slipped)]


def multiple_choice(row: Sides | ChoiceQuestion, seed: int) -> list[Built]:
    """One pair for each wrong option, with the right one as chosen (Smaug, appendix D)."""
    if not isinstance(row, ChoiceQuestion):
        raise TypeError("multiple_choice takes questions")
    options = [answer_turn(option) for option in row.options]
    return [(row.prompt, options[row.right], wrong) for at, wrong in enumerate(options) if at != row.right]


def _wrong_number(written: str, spot: Calculation, draw: random.Random) -> str:
    """Return a number written like `written`, off by 1 to 9 in a place that counts, and not a rounding of the truth."""
    place, value = last_place(written), parse_number(written)
    slipped = _places(value, place)
    worth = slipped[0] if len(slipped) == 1 else draw.choice(slipped)
    # 9 in one place: the slip of one digit, as a person makes it.
    wrong = [value + worth * slip for slip in range(-_SLIP, _SLIP + 1) if slip]
    wrong = [
        # A number that is off by less than one in its last place may be the truth, rounded.
        number
        for number in wrong
        if abs(number - spot.exact * spot.scale) >= place
        and (number >= 0 or value < 0)
        and (abs(number) >= _THOUSAND or "," not in written)
    ]
    number = draw.choice(wrong)
    digits = len(written.partition(".")[2])
    whole, part = divmod(int(abs(number) / place), 10**digits)
    text = f"{whole:,}" if "," in written else str(whole)
    text = "" if written.startswith(".") and not whole else text
    return "-" * (number < 0) + text + (f".{part:0{digits}d}" if digits else "")


def _places(value: Fraction, last: Fraction) -> list[Fraction]:
    """Return the worths of a number's second and third digit that counts, as far as they are written.

    A person's slip is seen in the size of a number: 130,000 becomes 150,000, and hardly 129,999.
    """
    first = last
    while first * 10 <= abs(value):
        first *= 10
    return sorted({max(first / 10, last), max(first / 100, last)}, reverse=True)


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
        return [(row.prompt, answer_turn(row.options[row.right]), None)]
    return [(row.prompt, row.chosen, row.rejected)]


def check_margin(sides: Sides | ChoiceQuestion, least: float) -> None:
    """Raise Unfit for a tie, and where scores differ by less than a source asks for."""
    if not isinstance(sides, Sides):
        return
    if sides.margin is None:
        if least:
            raise Unfit(Reason.MARGIN, "no scores, so the margin is unknown")
        return
    # Before `min_margin`, so that a tie is counted as one whatever the limit is.
    if sides.margin == 0:
        raise Unfit(Reason.TIE, "equal scores")
    if sides.margin < max(least, 0):
        raise Unfit(Reason.MARGIN, f"{sides.margin:g}")
