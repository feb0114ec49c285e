"""Rows made from a seed, so that a plan can run without any file."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ratchet.plan.data import Generated

VERSION = 2
_WRONG = 3


def generated_rows(spec: Generated, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Yield rows `start` to `stop` (from 0). Row i depends on the spec's seed and i, not on `rows`."""
    make = GENERATED[spec.kind].make
    for index in range(start, stop):
        yield make(random.Random(f"{spec.kind}:{spec.seed}:{index}"), spec.steps, spec.largest)


def _sum_row(draw: random.Random, steps: int, largest: int) -> dict[str, Any]:
    """`What is 7 + 12 - 5?` and `7 + 12 = 19. 19 - 5 = 14. The answer is 14.`"""
    question, worked, total = _sum(draw, steps, largest)
    return {"instruction": question, "output": f"{worked} The answer is {total}."}


def _quiz_row(draw: random.Random, steps: int, largest: int) -> dict[str, Any]:
    """The question with one right and three wrong answers, in any order; `answer` counts from 0.

    It is asked in other words than the worked sum, so that no prompt is in both.
    """
    question, _, total = _sum(draw, steps, largest)
    near = range(max(0, total - 10), total + 11)
    numbers = [total, *draw.sample([number for number in near if number != total], _WRONG)]
    draw.shuffle(numbers)
    return {
        "question": question.replace("What", "At once: what"),
        "choices": [f"The answer is {number}." for number in numbers],
        "answer": numbers.index(total),
    }


def _sum(draw: random.Random, steps: int, largest: int) -> tuple[str, str, int]:
    """Return the question, the calculations one by one, and the result; nothing goes below 0."""
    total = draw.randint(1, largest)
    terms, worked = [str(total)], []
    for _ in range(steps):
        change = draw.choice([number for number in range(-min(largest, total), largest + 1) if number])
        sign = "+" if change > 0 else "-"
        worked.append(f"{total} {sign} {abs(change)} = {total + change}.")
        terms += [sign, str(abs(change))]
        total += change
    return f"What is {' '.join(terms)}?", " ".join(worked), total


@dataclasses.dataclass(frozen=True)
class GeneratedRows:
    """How rows of a kind are made, from draws, a number of steps and the largest operand, and the layout they have."""

    make: Callable[[random.Random, int, int], dict[str, Any]]
    layout: str


GENERATED: Mapping[str, GeneratedRows] = {
    "arithmetic": GeneratedRows(_sum_row, "instruction"),
    "arithmetic_quiz": GeneratedRows(_quiz_row, "choices"),
}
