"""Rows that are read many at once give what they give one by one, whatever stands in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightly import examples
from ratchet.errors import RatchetError
from ratchet.pairs import plain, span_table
from ratchet.pairs.pair_table import items_table
from ratchet.pairs.read import plan_spans
from ratchet.pairs.row_kind import RowKind
from ratchet.pairs.source import SourceReading, make_reading, pairs_of
from ratchet.pairs.span import SourceRow
from ratchet.plan.data import Source

TEXTS = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    [
        *("", " ", "a", "A", " a", "a\n", "5 - 3", "-5.", "é – 😀", "null", "n/a", "\ud800", "\0", "\ufdd0", "x\x7f"),
        *(
            'say "no"\\',
            "\t\r\x0b",
            "[1]",
            "{",
            ' [{"role": "user", "content": "q"}]',
            "1.5",
            "x" * 300,
            "Say why " * 8,
        ),
        *("Human: q\n\nAssistant: a", " Human: q", "Hi", "q\n\nAssistant:", "[{'role': 'user'}]", "<think>t</think>a"),
    ]
)
ROLES = st.sampled_from(["user", "user", "assistant", "assistant", "system", "gpt", "tool", "nobody", ""])
MESSAGE = (
    st.fixed_dictionaries({"role": ROLES, "content": TEXTS})
    | st.fixed_dictionaries({"from": ROLES, "value": TEXTS})
    | st.fixed_dictionaries({"content": TEXTS | st.none(), "role": ROLES, "weight": st.sampled_from([0, 1])})
)
DIALOGUE = st.lists(MESSAGE, max_size=4) | st.builds(
    lambda *said: [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)],
    TEXTS,
    TEXTS,
)
SCORES = st.sampled_from([1, 2, 2.5, 0, -1.0, 1e300, float("nan"), float("inf"), 10**400, True, None, "3", "n/a"])
SAID = TEXTS | DIALOGUE | st.none()
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("prompt", "chosen", "rejected", "messages", "conversations", "question", "answer"), SAID),
    **dict.fromkeys(("instruction", "input", "output", "system", "system_prompt", "completion"), TEXTS | st.none()),
    **dict.fromkeys(("score_chosen", "score_rejected", "chosen_rating", "rejected_rating", "margin"), SCORES),
    "history": st.sampled_from([[], None, [["q", "a"]]]),
    "tools": st.sampled_from(["", None, "[]", [], [{"name": "f"}]]),
    "id": st.integers() | TEXTS,
}
SHAPES = {
    "pair": ("prompt", "chosen", "rejected", "system", "id"),
    "scored": ("prompt", "chosen", "rejected", "score_chosen", "score_rejected", "id"),
    "implicit_prompt": ("chosen", "rejected", "system_prompt"),
    "alpaca": ("instruction", "input", "chosen", "rejected", "history", "system"),
    "sharegpt": ("conversations", "chosen", "rejected", "tools"),
    "reply": ("messages", "rejected", "system"),
    "instruction": (
        "instruction",
        "input",
        "output",
        "messages",
        "question",
        "answer",
        "prompt",
        "completion",
        "tools",
    ),
}


CHANGES: list[dict[str, Any]] = [{}, {"max_rows": 3}, {"min_margin": 1.0}, {"max_characters": 20}, {"seed": 2}]


def first_sketches(table: pa.Table) -> pa.Table:
    """The table with a sketch where its prompt stands for the first time: no other is looked at."""
    for key, sketch in (("prompt_key", "sketch"), ("last_key", "last_sketch")):
        seen: set[str | None] = {None}
        kept = []
        for one, value in zip(table.column(key).to_pylist(), table.column(sketch).to_pylist(), strict=True):
            kept.append(None if one in seen else value)
            seen.add(one)
        at = table.schema.get_field_index(sketch)
        table = table.set_column(at, table.schema.field(at), pa.array(kept, table.schema.field(at).type))
    return table


def both(rows: list[dict[str, Any]], reading: SourceReading) -> tuple[pa.Table | str, pa.Table | str]:
    """Rows read many at once and one by one: their tables, or what stopped them."""
    found: list[pa.Table | str] = []
    at = [SourceRow("f", number, value) for number, value in enumerate(rows, 1)]
    for read in (
        lambda: pa.concat_tables([*span_table.row_tables(at, reading)]),
        lambda: items_table([item for row in at for item in pairs_of(row, reading)], reading.source),
    ):
        try:
            found.append(first_sketches(read()))
        except RatchetError as error:
            found.append(str(error))
    return found[0], found[1]


@pytest.mark.parametrize("layout", sorted(SHAPES))
@settings(max_examples=examples(60))
@given(st.data())
def test_many_at_once_are_read_as_one_by_one(layout: str, data: st.DataObject) -> None:
    names = SHAPES[layout]
    row = st.fixed_dictionaries({}, optional={name: COLUMNS[name] for name in names})
    full = st.fixed_dictionaries({name: COLUMNS[name] for name in names})
    rows = data.draw(st.lists(row | full, min_size=1, max_size=8))
    changes = data.draw(st.sampled_from(CHANGES))
    system = data.draw(st.sampled_from([None, "be brief", " "]))
    kind = RowKind(layout, layout, read=names, quiet=frozenset(names))
    source = Source.model_validate({"path": "f", "held_out": 0.4, **changes})
    one, other = both(rows * 2, SourceReading(source, layout, {}, (), system, (kind,)))
    assert one == other
    assert isinstance(one, str) or len(one) >= len(rows)


def plain_rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {at}?", "chosen": f" {at} \n", "rejected": "I don't know"} for at in range(count)]


def test_plain_rows_make_no_pair_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all of this would hold without any row being read many at once."""
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain_rows(3000)))
    source = Source(path=str(tmp_path / "x.jsonl"))
    spans = plan_spans(source)
    reading = make_reading(source, spans, None)
    asked: list[int] = []
    monkeypatch.setattr(span_table, "pairs_of", lambda row, reading: asked.append(row.row) or pairs_of(row, reading))
    tables = [*span_table.span_tables(spans[0], reading)]
    assert asked == [] and [len(table) for table in tables] == [2048, 952]


def test_a_row_that_is_not_plain_stands_in_its_place() -> None:
    rows = plain_rows(5)
    rows[1]["chosen"] = "[1, 2]"
    rows[3]["chosen"] = "\0"
    kind = RowKind("pair", "pair", read=("prompt", "chosen", "rejected"), quiet=frozenset(rows[0]))
    one, other = both(rows, SourceReading(Source(path="f"), "pair", {}, (), None, (kind,)))
    assert one == other and isinstance(one, pa.Table)
    assert one.column("row").to_pylist() == [1, 2, 3, 4, 5]
    assert [reason is None for reason in one.column("reason").to_pylist()] == [True, True, True, False, True]


def test_a_form_says_where_texts_stand() -> None:
    names = ("instruction", "input", "chosen", "rejected")
    kind = RowKind("alpaca", "alpaca", read=names, quiet=frozenset(names))
    reading = SourceReading(Source(path="f"), "alpaca", {}, (), "be brief", (kind,))
    row = {"instruction": "add", "input": "1", "chosen": "2", "rejected": "3"}
    found = plain.Forms(reading).of(row)
    assert found is not None
    assert found[0] == plain.PlainForm(("system", "user"), (("be brief",), (0, "\n", 1)), (2,), (3,), None)
    assert found[1] == ["add", "1", "2", "3"]


def test_real_rows_are_read_as_one_by_one(shared: Path) -> None:
    files = [
        path
        for path in sorted(shared.glob("preference/**/*"))
        if path.suffix in {".jsonl", ".json", ".parquet", ".gz", ".csv"} and path.stat().st_size < 40 << 20
    ]
    read = 0
    for path in files:
        source = Source(path=str(path))
        try:
            spans = plan_spans(source)
            reading = make_reading(source, spans, None)
        except RatchetError:
            continue
        rows = [row for _, row in zip(range(300), span_table.span_rows(spans[0], reading), strict=False)]
        one = pa.concat_tables([*span_table.row_tables(rows, reading)])
        other = items_table([item for row in rows for item in pairs_of(row, reading)], source)
        assert first_sketches(one) == first_sketches(other), path
        read += len(rows)
    assert read > 1000


@pytest.mark.parametrize("share", [0, 0.4])
def test_plain_dialogues_have_the_keys_and_sketches_of_both_questions(share: float) -> None:
    first = "Say in a few plain words, for a pupil of ten, what people mean when they speak of a mean of"
    last = "And now say the same of a median, as you would to a teacher who has asked you for class"
    talk = [
        [("user", f"{first} {at % 3}"), ("assistant", "x"), ("user", f"{last} {at % 2}"), ("assistant", str(at))]
        for at in range(8)
    ]
    rows = [
        {"chosen": [{"role": role, "content": said} for role, said in turns], "rejected": "I don't know"}
        for turns in talk
    ]
    kind = RowKind("implicit_prompt", "implicit_prompt", read=("chosen", "rejected"), quiet=frozenset(rows[0]))
    for row, turns in zip(rows, talk, strict=True):
        row["rejected"] = [*row["chosen"][:3], {"role": "assistant", "content": f"not {turns[3][1]}"}]
    reading = SourceReading(Source(path="f", held_out=share), "implicit_prompt", {}, (), None, (kind,))
    assert plain.Forms(reading).of(rows[0]) is not None
    one, other = both(rows, reading)
    assert one == other and isinstance(one, pa.Table)
    nulls = [one.column(name).null_count for name in ("last_key", "sketch", "last_sketch")]
    assert nulls == ([0, 5, 6] if share else [8, 8, 8])
