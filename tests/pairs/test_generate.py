"""Generated rows: right, seeded, and the same however many there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ratchet.pairs.read import generated_rows, plan_spans, read_span
from ratchet.pairs.span import SourceRow
from ratchet.plan.data import Generated, Source


def rows_of(source: Source) -> list[SourceRow]:
    """Read in spans of 100 rows, so that a test meets the seam between two."""
    return [row for span in plan_spans(source, 1 << 20, 100) for row in read_span(span, source)]


def test_a_generated_row_does_not_depend_on_how_many_there_are() -> None:
    few, many = (Source(generate=Generated(kind="arithmetic", rows=rows, seed=3)) for rows in (150, 1000))
    assert rows_of(many)[:150] == rows_of(few)
    assert [row.row for row in rows_of(few)] == [*range(1, 151)]


@given(st.integers(1, 8), st.integers(2, 60), st.integers(0, 9), st.integers(0, 10**6))
def test_generated_sums_are_right_and_never_below_zero(steps: int, largest: int, seed: int, at: int) -> None:
    (row,) = generated_rows(Generated(kind="arithmetic", steps=steps, largest=largest, seed=seed), at, at + 1)
    *worked, last = row["output"].split(". ")
    numbers = [word for word in row["instruction"].removeprefix("What is ").removesuffix("?").split() if word.isdigit()]
    assert len(worked) == steps == len(numbers) - 1
    assert all(1 <= int(number) <= largest for number in numbers)
    totals = []
    for line in worked:
        left, sign, right, _, result = line.split()
        assert not totals or int(left) == totals[-1]
        totals.append(int(left) + int(right) if sign == "+" else int(left) - int(right))
        assert int(result) == totals[-1] >= 0
    assert last == f"The answer is {totals[-1]}."


@given(st.integers(1, 8), st.integers(2, 60), st.integers(0, 10**6))
def test_generated_quizzes_have_one_right_answer(steps: int, largest: int, at: int) -> None:
    (row,) = generated_rows(Generated(kind="arithmetic_quiz", steps=steps, largest=largest), at, at + 1)
    words = row["question"].rpartition("what is ")[2].removesuffix("?").split()
    total = int(words[0])
    for sign, number in zip(words[1::2], words[2::2], strict=True):
        total += int(number) if sign == "+" else -int(number)
    assert len(set(row["choices"])) == 4
    assert row["choices"].index(f"The answer is {total}.") == row["answer"]
