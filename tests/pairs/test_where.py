"""`where` of a source: margins of scores, fields that no row has, and where a plan is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raised import raises
from ratchet.pairs.pair import PreferencePair
from ratchet.pairs.source import make_reading, plan_spans, read_source
from ratchet.plan.data import Source
from ratchet.plan.load import load_plan


def written_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ANSWERS = [
    {"prompt": f"q{n}", "chosen": "yes", "rejected": "no", "score_chosen": 5.0, "score_rejected": 5.0 - n / 2}
    for n in range(1, 7)
]


@pytest.mark.parametrize(
    ("where", "kept"),
    [("margin >= 2", "q4 q5 q6"), ("margin < 1 or prompt == q5", "q1 q5"), ("not margin > 1", "q1 q2")],
)
def test_margin_is_the_difference_of_scores(where: str, kept: str, tmp_path: Path) -> None:
    found = list(read_source(Source(path=written_rows(tmp_path / "r.jsonl", ANSWERS), where=(where,))))
    pairs = [item for item in found if isinstance(item, PreferencePair)]
    assert [pair.prompt[-1].content for pair in pairs] == kept.split()
    assert len(found) == len(ANSWERS)


def test_margin_is_the_rows_own_field_where_it_has_one(tmp_path: Path) -> None:
    rows = [{**row, "margin": n} for n, row in enumerate(ANSWERS)]
    source = Source(path=written_rows(tmp_path / "r.jsonl", rows), where=("margin == 0",))
    assert [item.row for item in read_source(source) if isinstance(item, PreferencePair)] == [1]


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        ("promt == q1", "plan.condition", "no row that was looked at has the field promt; did you mean prompt?"),
        ("meta.lnag == en or prompt == q1", "plan.condition", "the field meta.lnag; did you mean meta.lang?"),
        ("margin > 1", "plan.rows", "these rows are pair: they have no scores"),
    ],
)
def test_a_condition_on_what_no_row_has_stops_the_reading(where: str, code: str, said: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no", "meta": {"lang": "en"}} for n in range(3)]
    source = Source(path=written_rows(tmp_path / "r.jsonl", rows), where=(where,))
    with raises(code) as caught:
        make_reading(source, plan_spans(source), None)
    assert said in caught.value.what


def test_a_field_that_a_condition_compares_with_null_may_be_absent(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "no"} for n in range(3)]
    source = Source(path=written_rows(tmp_path / "r.jsonl", rows), where=("flag is null or flag == good",))
    assert sum(isinstance(item, PreferencePair) for item in read_source(source)) == 3


def test_a_plan_says_at_which_line_a_condition_cannot_be_read(tmp_path: Path) -> None:
    plan = tmp_path / "p.yaml"
    plan.write_text(
        "name: p\nmodel: {path: m}\ndata:\n  a:\n    path: a.jsonl\n    where:\n      - rating >= 4\n"
        "      - rating is good\nstages:\n  s: {kind: sft, data: [a]}\n"
    )
    with raises("plan") as caught:
        load_plan(plan)
    assert f"{plan}:8: data.a.where[1]: cannot read the condition `rating is good`" in caught.value.what
