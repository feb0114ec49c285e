"""Columns that mean something and are not read: they stop the reading, and what is advised works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from column_rows import PAIR, reading_of, said, source_of
from raised import raises
from ratchet.pairs.read import plan_spans
from ratchet.pairs.source import make_reading, read_source

MEANINGFUL: list[tuple[dict[str, Any], str, Any, str]] = [
    (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        "worse_response",
        "b",
        "rejected answer",
    ),
    (PAIR, "images", ["x.png"], "pictures"),
    (PAIR, "Reasoning_Content", "because", "thoughts"),
    (PAIR, "chosen_reasoning", "because", "thoughts"),
    (PAIR, "thinking_rejected", "because", "thoughts"),
    (PAIR, "enable_thinking", True, "whether the template thinks"),
    (PAIR, "chat_template_kwargs", {"custom_instructions": "Be brief."}, "what its template is given"),
    ({"prompt": "q", "response": "a"}, "is_response_safe", False, "whether the answer is a good one"),
    (PAIR, "context", "c", "text that the question is about"),
    (PAIR, "response_prefix", "first,", "beginning of the answer"),
    (PAIR, "winner", "model_a", "which answer is the better one"),
    ({"question": "q", "answer": "a"}, "label", 0, "whether the answer is a good one"),
    ({"question": "q", "answer": "a"}, "label", "True", "whether the answer is a good one"),
    ({"question": "q", "answer": "a"}, "kto_tag", False, "whether the answer is a good one"),
    ({"question": "q", "answer": "a"}, "is_correct", True, "whether the answer is a good one"),
    ({"prompt": "q", "response": "a"}, "quality", 0, "how good the answer is"),
    *(
        ({"prompt": "q", "response": "a"}, column, value, "whether the answer is a good one")
        for column, value in (
            *(("thumbs", "down"), ("Thumbs-Up", False), ("thumbs_down", True), ("liked", "false"), ("upvoted", 0)),
            *(("feedback", "negative"), ("rating", "bad"), ("is_good", False), ("preferred", False), ("passed", False)),
            *(("reaction", "👎"), ("verdict", "fail"), ("preference", "rejected"), ("kto_label", False)),
            *(("status", "rejected"), ("answer_type", "Undesirable"), ("anything", "thumbs_down")),
        )
    ),
]


@pytest.mark.parametrize(("row", "column", "value", "what"), MEANINGFUL)
def test_a_column_that_means_something_and_is_not_read_stops_the_reading(
    row: dict[str, Any], column: str, value: Any, what: str, tmp_path: Path
) -> None:
    with raises("data.unread") as caught:
        reading_of(tmp_path, [row, {**row, column: value}])
    assert f"the column {column} is not read (1 of the 2 rows looked at have it)" in caught.value.what
    assert what in caught.value.what
    assert caught.value.where == "rows.jsonl:2"
    assert f"`ignore: [{column}]`" in caught.value.fix
    assert len(said(source_of(tmp_path, [row, {**row, column: value}], ignore=[column]))) == 2


@pytest.mark.parametrize("value", [None, "", " ", [], {}, [None], "[]", "null"])
def test_a_column_without_content_stops_nothing(value: Any, tmp_path: Path) -> None:
    assert said(source_of(tmp_path, [{**PAIR, "context": value}])) == [([("user", "q")], "a", "b")]


def test_a_topic_in_label_is_no_verdict(tmp_path: Path) -> None:
    reading = reading_of(tmp_path, [{"question": "q", "answer": "a", "label": "geometry"}])
    assert (reading.read_columns, reading.unread_columns) == (("question", "answer"), ("label",))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("thumbs", "up"),
        ("liked", True),
        ("thumbs_down", False),
        ("success", 1),
        ("status", "done"),
        ("topic", "down"),
        ("result", 0),
        ("like", 0),
    ],
)
def test_a_verdict_that_calls_no_answer_bad_stops_nothing(column: str, value: Any, tmp_path: Path) -> None:
    reading = reading_of(tmp_path, [{"prompt": "q", "response": "a", column: value}] * 2)
    assert reading.unread_columns == (column,)


@pytest.mark.parametrize("column", ["user_rating", "human_feedback", "rating"])
def test_a_rating_by_people_is_a_score_whatever_its_numbers(column: str, tmp_path: Path) -> None:
    rows = [{"prompt": "q", "response": "a", column: value} for value in (5, 2, 1)]
    with raises("data.unread", column) as caught:
        reading_of(tmp_path, rows)
    assert f"where: [{column} >= …]" in caught.value.fix


@pytest.mark.parametrize(
    ("column", "good", "bad", "use"),
    [
        ("thumbs", "up", "down", '`where: [thumbs == "up"]`'),
        ("thumbs_down", False, True, "`where: [thumbs_down != true]`"),
        ("status", "accepted", "rejected", '`where: [status != "rejected"]`'),
        ("liked", 1, 0, "`where: [liked == 1]`"),
        ("reaction", "👍", "👎", '`where: [reaction == "👍"]`'),
        ("feedback", "positive", "negative", '`where: [feedback == "positive"]`'),
        ("finish_reason", "stop", "failed", '`where: [finish_reason != "failed"]`'),
    ],
)
def test_what_is_advised_for_a_verdict_reads_the_good_answers_alone(
    column: str, good: Any, bad: Any, use: str, tmp_path: Path
) -> None:
    rows = [{"prompt": f"q{n}", "response": "a", column: (good, bad)[n % 2]} for n in range(4)]
    with raises("data.unread") as caught:
        reading_of(tmp_path, rows)
    assert use in caught.value.fix
    where = use.removeprefix("`where: [").removesuffix("]`")
    found = said(source_of(tmp_path, rows, where=[where]))
    assert [one[0] for one in found] == [[("user", "q0")], "where", [("user", "q2")], "where"]
    # Under a name that no layout knows, too: what is advised there is read as well.
    odd = [{"prompt": f"q{n}", "reply": "a", column: (good, bad)[n % 2]} for n in range(4)]
    with raises("data.no-layout") as caught:
        reading_of(tmp_path, odd)
    assert caught.value.what.startswith(f"these are single answers marked good or bad by {column}, not pairs")
    assert use in caught.value.fix and "columns: {prompt: prompt, completion: reply}" in caught.value.fix
    columns = {"prompt": "prompt", "completion": "reply"}
    assert (
        len([one for one in said(source_of(tmp_path, odd, where=[where], columns=columns)) if one[0] != "where"]) == 2
    )


def test_two_answers_and_a_verdict_are_not_called_single_answers(tmp_path: Path) -> None:
    with raises("data.no-layout") as caught:
        reading_of(tmp_path, [{"ask": "q", "answer_a": "a", "answer_b": "b", "label": 0}])
    assert "two answers" in caught.value.what


def test_a_label_beside_an_answer_is_not_the_answer(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "reply": "a", "label": ("desirable", "undesirable")[n % 2]} for n in range(4)]
    with raises("data.no-layout") as caught:
        reading_of(tmp_path, rows)
    assert "marked good or bad by label" in caught.value.what


def test_a_value_late_in_the_file_stops_the_reading_there(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "chosen": "a", "rejected": "b"} for n in range(9000)]
    rows[4000]["context"] = "c"
    source = source_of(tmp_path, rows)
    assert make_reading(source, plan_spans(source), None).unread_columns == ()
    with raises("data.unread") as caught:
        list(read_source(source))
    assert caught.value.where == "rows.jsonl:4001"
