"""Thoughts in columns of their own: each goes before its answer, and none is lost or replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raised import raises
from ratchet.pairs.pair import PreferencePair, Skipped
from ratchet.pairs.source import read_source
from ratchet.plan.data import Source

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
SIDES = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
BOTH = {**SIDES, "reasoning_chosen": "why", "reasoning_rejected": "how"}


def read(folder: Path, row: dict[str, Any], columns: dict[str, Any] | None) -> PreferencePair | Skipped:
    (folder / "rows.jsonl").write_text(f"{json.dumps(row)}\n", encoding="utf-8")
    keys = {} if columns is None else {"columns": columns}
    (item,) = read_source(Source.model_validate({"path": str(folder / "rows.jsonl"), **keys}))
    return item


def thoughts(item: PreferencePair | Skipped) -> tuple[str | None, str | None]:
    assert isinstance(item, PreferencePair)
    assert (item.chosen.content, item.rejected and item.rejected.content) in {("a", "b"), ("a", None)}
    return item.chosen.reasoning, item.rejected.reasoning if item.rejected else None


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({**PAIR, "why": "t", "how": "u"}, BOTH, ("t", "u")),
        ({**PAIR, "why": "\nt\n", "how": " "}, BOTH, ("t", None)),
        ({**PAIR, "why": " ", "how": "u"}, BOTH, (None, "u")),
        ({**PAIR, "meta": {"why": ["t"]}}, {**SIDES, "reasoning_chosen": "meta.why[0]"}, ("t", None)),
        ({"ask": "q", "say": "a", "why": "t"}, {"prompt": "ask", "completion": "say", "reasoning": "why"}, ("t", None)),
    ],
)
def test_each_answer_has_the_thoughts_of_its_column(
    row: dict[str, Any], columns: dict[str, Any], expected: tuple[str | None, str | None], tmp_path: Path
) -> None:
    assert thoughts(read(tmp_path, row, columns)) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {
                **PAIR,
                "chosen": [{"role": "assistant", "content": "a", "reasoning_content": "t"}],
                "why": "u",
                "how": "v",
            },
            "thoughts of its own, and reasoning_chosen has more",
        ),
        ({**PAIR, "why": 7, "how": "u"}, "reasoning_chosen is a number"),
    ],
)
def test_a_row_whose_thoughts_cannot_be_put_before_its_answer_is_skipped(
    row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    item = read(tmp_path, row, BOTH)
    assert isinstance(item, Skipped) and reason in str(item.detail)


@pytest.mark.parametrize(
    "columns",
    [
        {**SIDES, "reasoning": "why"},
        {"prompt": "prompt", "completion": "chosen", "reasoning_chosen": "why"},
        {"question": "prompt", "choices": "chosen", "answer": "rejected", "reasoning": "why"},
        {"messages": "chosen", "rejected": "rejected", "reasoning": "why"},
    ],
)
def test_thoughts_of_an_answer_that_a_row_lacks_are_refused(columns: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"reasoning\w* would not be read"):
        read(tmp_path, PAIR, columns)


def test_thoughts_that_nobody_reads_stop_with_the_fields_for_them(tmp_path: Path) -> None:
    with raises("data.unread") as caught:
        read(tmp_path, {**PAIR, "chosen_reasoning": "t", "rejected_reasoning": "u"}, None)
    assert "columns: {reasoning_chosen: …, reasoning_rejected: …, …}" in str(caught.value)
