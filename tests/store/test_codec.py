"""The codec of documents: what is written is read back, and what a file lacks or has wrong is named by its key."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ratchet.documents.report import read_report
from ratchet.documents.scores import read_scores
from ratchet.documents.sweep import read_sweep
from ratchet.errors import CorruptError, DataError
from ratchet.store.codec import from_values, read_document, to_values
from report_example import example
from scores_example import scores
from sweep_example import beta_lambda, orders, troubled, two_objectives


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leaf:
    """A part of a document."""

    share: float | None = None
    name: str
    count: int = 0


@dataclasses.dataclass(frozen=True)
class Whole:
    """A document with parts in a list and by name, and a value of any shape."""

    parts: tuple[Leaf, ...]
    by: Mapping[str, Leaf] = dataclasses.field(default_factory=dict)
    free: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read(values: Any) -> Whole:
    return from_values(Whole, values, where="f.json", fix="look")


@pytest.mark.parametrize("made", [example, scores, beta_lambda, orders, troubled, two_objectives])
def test_a_document_that_was_read_is_written_with_every_value_it_had(made: Any) -> None:
    reader = {"example": read_report, "scores": read_scores}.get(made.__name__, read_sweep)
    found: Any = reader(made())
    values = to_values(found)
    assert reader(json.loads(json.dumps(values))) == found
    assert values == _with(values, made()), "a value that was in the file"


def _with(values: Any, more: Any) -> Any:
    """Return `values` with what `more` says of the same keys."""
    if isinstance(values, dict) and isinstance(more, dict):
        return values | {key: _with(values[key], more[key]) for key in values.keys() & more.keys()}
    if isinstance(values, list) and isinstance(more, list | tuple):
        return [_with(one, other) for one, other in zip(values, more, strict=True)]
    return more


def test_keys_are_written_in_the_order_of_the_fields() -> None:
    assert list(to_values(Whole((Leaf(name="x"),)))) == ["parts", "by", "free"]
    assert list(to_values(Leaf(name="x"))) == ["share", "name", "count"]


def test_what_json_does_not_have_is_null_or_a_question_mark_and_nothing_else_is_converted() -> None:
    found = Whole((Leaf(name="cut \ud83d off", share=math.inf),), free={"x": [math.nan, 1, (2,)]})
    values = to_values(found)
    assert values["parts"] == [{"share": None, "name": "cut ? off", "count": 0}]
    assert read(values).free == {"x": [None, 1, [2]]}
    assert read({"parts": [{"name": "x", "share": 1}]}).parts == (Leaf(name="x", share=1.0),)


def test_keys_of_a_later_version_are_passed_over_and_absent_ones_have_their_default() -> None:
    assert read({"parts": [{"name": "x", "later": 3}], "more": {}}) == Whole((Leaf(name="x"),))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "parts: missing"),
        ([], "top: expected a mapping, got list"),
        ({"parts": "x"}, "parts: expected a list, got 'x'"),
        ({"parts": [{}]}, "parts[0].name: missing"),
        ({"parts": [{"name": 3}]}, "parts[0].name: expected text, got '3'"),
        ({"parts": [{"name": "x", "count": True}]}, "parts[0].count: expected a whole number, got 'True'"),
        ({"parts": [{"name": "x", "count": 1.5}]}, "parts[0].count: expected a whole number, got '1.5'"),
        ({"parts": [{"name": "x", "share": "1"}]}, "parts[0].share: expected a number, got '1'"),
        ({"parts": [], "by": {"y": 3}}, "by.y: expected a mapping, got int"),
    ],
)
def test_the_first_key_that_is_wrong_is_named_with_the_file_and_the_advice(values: Any, says: str) -> None:
    with pytest.raises(DataError) as caught:
        read(values)
    assert (caught.value.what, caught.value.where, caught.value.fix) == (says, "f.json", "look")
    with pytest.raises(CorruptError):
        from_values(Whole, values, where="f.json", fix="look", error=CorruptError)


def test_a_file_that_is_absent_or_not_json_has_its_own_advice(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    for text, fix in ((None, "make it"), ("{", "look")):
        if text is not None:
            path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError) as caught:
            read_document(Whole, path, absent="make it", fix="look")
        assert (caught.value.where, caught.value.fix) == (str(path), fix)
