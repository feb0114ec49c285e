"""Layouts of public data sets and of other trainers, as rows, and what is read of them.

A case of `known/*.yaml` has `rows` (with `keys` of the source), and what these become: `says` has one text for each
pair or skipped row. In it stand the turns, then `+` and the chosen answer, `-` and the rejected one; `[…]` are the
thoughts, `{…}` calls. `unread` are the columns that hold something and are not read. A case that is `refused` has the
code of the error and what the error speaks `about`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raised import raises
from ratchet.errors import RatchetError
from ratchet.pairs.pair import PreferencePair, Skipped, Turn
from ratchet.pairs.read import plan_spans
from ratchet.pairs.source import make_reading, read_source, span_pairs
from ratchet.plan.data import Source
from ratchet.plan.signatures.demonstrations import WITH_THOUGHTS
from ratchet.plan.signatures.sides import SIDES
from ratchet.plan.signatures.signature import Signature
from ratchet.plan.signatures.table import SIGNATURES

FILES = sorted((Path(__file__).parent / "known").glob("*.yaml"))
CASES = {
    f"{file.stem}-{name}": case
    for file in FILES
    for name, case in yaml.safe_load(file.read_text(encoding="utf-8")).items()
}
READ = sorted(name for name, case in CASES.items() if "says" in case)
REFUSED = sorted(name for name, case in CASES.items() if "says" not in case)


def source_of(case: dict[str, Any], folder: Path) -> Source:
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in case["rows"]), encoding="utf-8")
    return Source.model_validate({"path": str(folder / "rows.jsonl"), **case.get("keys", {})})


def shown(turn: Turn) -> str:
    thoughts = f"[{turn.reasoning}] " if turn.reasoning else ""
    called = [one["function"] for one in json.loads(turn.tool_calls)] if turn.tool_calls else []
    calls = "".join(f"{{{one['name']}({json.dumps(one['arguments'])})}}" for one in called)
    return f"{thoughts}{turn.content}{calls}"


def said(item: PreferencePair | Skipped) -> str:
    if isinstance(item, Skipped):
        return f"skipped {item.reason}"
    tools = (
        [f"tools {', '.join(one.get('function', one)['name'] for one in json.loads(item.tools))}"] if item.tools else []
    )
    turns = [f"{turn.role} {shown(turn)}" for turn in item.prompt]
    rejected = [] if item.rejected is None else [f"- {shown(item.rejected)}"]
    return " | ".join([*tools, *turns, f"+ {shown(item.chosen)}", *rejected])


@pytest.mark.parametrize("name", READ)
def test_a_known_layout_is_read(name: str, tmp_path: Path) -> None:
    source = source_of(CASES[name], tmp_path)
    spans = plan_spans(source)
    reading = make_reading(source, spans, None)
    # One demonstration of each row says what was read. As a key of the plan it would be refused beside pairs.
    reading = dataclasses.replace(reading, source=source.model_copy(update={"train_on": "last"}))
    assert [said(item) for span in spans for item in span_pairs(span, reading)] == CASES[name]["says"]
    if "unread" in CASES[name]:
        assert " ".join(reading.unread_columns) == CASES[name]["unread"]


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_cannot_be_used_are_refused_with_what_they_are(name: str, tmp_path: Path) -> None:
    source = source_of(CASES[name], tmp_path)
    with raises(CASES[name]["refused"]) as caught:
        make_reading(source, plan_spans(source), None)
    error: RatchetError = caught.value
    for text in CASES[name]["about"]:
        assert text in str(error)


@pytest.mark.parametrize("signature", SIDES, ids=lambda one: one.name)
def test_sides_of_other_names_are_read(signature: Signature, tmp_path: Path) -> None:
    field = "instruction" if signature.reader == "alpaca" else "prompt"
    row = {signature.columns[name]: text for name, text in ((field, "q"), ("chosen", "a"), ("rejected", "b"))}
    items = read_source(source_of({"rows": [{**row, "system": "s", "id": "x"}]}, tmp_path))
    assert [said(item) for item in items] == ["system s | user q | + a | - b"]


@pytest.mark.parametrize("signature", WITH_THOUGHTS, ids=lambda one: one.name)
def test_thoughts_beside_a_demonstration_are_read(signature: Signature, tmp_path: Path) -> None:
    row = {signature.columns[name]: text for name, text in (("prompt", "q"), ("completion", "a"), ("reasoning", "t"))}
    items = read_source(source_of({"rows": [{**row, "system": "s", "id": "x"}]}, tmp_path))
    assert [said(item) for item in items] == ["system s | user q | + [t] a"]


def test_every_signature_has_rows_that_are_read_by_it(tmp_path: Path) -> None:
    found = {signature.name for signature in (*SIDES, *WITH_THOUGHTS)}
    for number, case in enumerate(CASES.values()):
        (folder := tmp_path / str(number)).mkdir()
        source = source_of(case, folder)
        try:
            kinds = make_reading(source, plan_spans(source), None).kinds
            found |= {kind.name.removesuffix(", renamed") for kind in kinds}
        except RatchetError as error:
            found |= {one.name for one in SIGNATURES if one.refusal and one.refusal in str(error)}
    assert {one.name for one in SIGNATURES} - found == set()


def test_no_two_signatures_have_one_name() -> None:
    names = [one.name for one in SIGNATURES]
    assert sorted(names) == sorted(set(names))
