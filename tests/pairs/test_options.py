"""Which option an answer means is read one way for a whole source, whatever single rows would allow."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from raised import raises
from ratchet.errors import DataError
from ratchet.pairs.pair import PreferencePair, Skipped
from ratchet.pairs.source import Item, read_source
from ratchet.plan.data import Source

NUMBERS = ["0", "1", "2", "3"]


def read(folder: Path, rows: list[dict[str, Any]], **source: Any) -> list[Item]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return list(read_source(Source(path=str(path), **source)))


def answers(items: list[Item]) -> list[str]:
    return [item.chosen.content if isinstance(item, PreferencePair) else item.reason for item in items]


def questions(count: int = 40) -> list[tuple[dict[str, Any], int]]:
    """Return questions without an answer and the option that is right; one of five has numbers for options."""
    draw = random.Random(0)
    found = []
    for number in range(count):
        words = [f"w{number} {letter}" for letter in "abcd"]
        options = draw.sample(NUMBERS, 4) if number % 5 == 0 else words
        found.append(({"question": f"q{number}", "choices": options}, draw.randrange(4)))
    return found


FORMS = {
    "index from 0": lambda row, right: str(right),
    "integer from 0": lambda row, right: right,
    "index from 1": lambda row, right: str(right + 1),
    "integer from 1": lambda row, right: right + 1,
    "letter": lambda row, right: "ABCD"[right],
    "text": lambda row, right: row["choices"][right],
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_all_rows_are_read_in_the_form_that_reads_most(form: str, tmp_path: Path) -> None:
    held = questions()
    rows = [{**row, "answer": FORMS[form](row, right)} for row, right in held]
    assert answers(read(tmp_path, rows)) == [row["choices"][right] for row, right in held]


def test_labels_come_before_all_else(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{number}", "choices": {"text": ["4", "3", "2", "1"], "label": ["1", "2", "3", "4"]},
         "answerKey": str(number % 4 + 1)}
        for number in range(12)
    ]  # fmt: skip
    assert answers(read(tmp_path, rows)) == [str(4 - number % 4) for number in range(12)]


def test_an_answer_in_another_form_is_skipped_and_not_read_as_another_option(tmp_path: Path) -> None:
    held = [({"question": f"q{number}", "choices": ["7", "8", "9"]}, number % 3) for number in range(40)]
    rows = [{**row, "answer": str(right)} for row, right in held] + [
        {"question": "odd", "choices": ["5", "6", "8"], "answer": "8"}
    ]
    items = read(tmp_path, rows)
    assert answers(items)[:40] == [row["choices"][right] for row, right in held]
    assert isinstance(items[-1], Skipped)
    assert items[-1].detail == "answer is '8': not a letter, or an index from 0, as the other rows have"


def test_answers_that_are_texts_and_indices_alike_are_refused(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{number}", "choices": ["3", "2", "1", "0"], "answer": str(number % 4)} for number in range(9)
    ]
    with raises("data.answers") as caught:
        read(tmp_path, rows)
    what = "the answers of 9 of 9 rows may be an option's text, or a letter, or an index from 0"
    assert isinstance(caught.value, DataError) and caught.value.what == what
    whole = [{**row, "answer": int(row["answer"])} for row in rows]
    assert answers(read(tmp_path, whole)) == [str(3 - number % 4) for number in range(9)]


def test_every_question_of_mmlu_is_read_as_it_is_meant_with_its_index_as_text(shared: Path, tmp_path: Path) -> None:
    rows, right = [], []
    for path in sorted((shared / "mmlu/test").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                options = [row[f"choice{at}"] for at in range(4)]
                rows.append({"question": row["question"], "choices": options, "answer": row["answer"]})
                right.append(options[int(row["answer"])])
    items = read(tmp_path, rows)
    assert len(items) == 14_042
    pairs = [(item, meant) for item, meant in zip(items, right, strict=True) if isinstance(item, PreferencePair)]
    assert len(pairs) > 14_000
    assert all(item.chosen.content == meant for item, meant in pairs)


COMPARED = {"instruction": "q", "output_1": "a", "output_2": "b"}
FIRST_0 = {"column": "preference", "first": [0], "second": [1]}


def compared(*values: Any, **columns: str) -> list[dict[str, Any]]:
    named = {columns.get(name, name): value for name, value in COMPARED.items()}
    return [{**named, "preference": value} for value in values]


@pytest.mark.parametrize(
    "columns",
    [{}, {"instruction": "prompt", "output_1": "response_1", "output_2": "response_2"}],
    ids=["annotated", "preference_1_2"],
)
def test_verdicts_of_0_and_1_alone_are_refused_with_what_to_say(columns: dict[str, str], tmp_path: Path) -> None:
    with raises("data.answers") as caught:
        read(tmp_path, compared(0, 1, "0", None, **columns))
    assert "preference is 0 and 1 and never 2" in caught.value.what
    assert "columns: {preference: {column: preference, first: [0], second: [1]}" in caught.value.fix
    said = {name: columns.get(name, name) for name in COMPARED} | {"preference": FIRST_0}
    named = {"columns": said}
    assert answers(read(tmp_path, compared(0, 1, **columns), **named)) == ["a", "b"]
    assert answers(read(tmp_path, compared(0, 1, 2, **columns))) == ["tie", "a", "b"]
    assert answers(read(tmp_path, compared(1, 1.0, **columns))) == ["a", "a"]


def test_a_plan_may_say_that_0_is_a_tie_beside_1(tmp_path: Path) -> None:
    verdict = {"column": "preference", "first": [1], "second": [2], "tie": [0]}
    columns = {"columns": {**{name: name for name in COMPARED}, "preference": verdict}}
    assert answers(read(tmp_path, compared(0, 1), **columns)) == ["tie", "a"]
