"""Folders of pairs as folders of tokens: the files, their record and identity, and the same by Ray Data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raised import raises
from ratchet.model.scratch import make_scratch
from ratchet.pairs.chat import ChatTemplate
from ratchet.pairs.pair import PreferencePair
from ratchet.pairs.pair_table import pairs_table
from ratchet.pairs.table import open_table
from ratchet.pairs.token_flow import prepare_tokens, tokens_identity
from ratchet.pairs.tokenizer import digest_tokenizer
from ratchet.pairs.tokens import Policy
from ratchet.store.layout import Layout
from ratchet.store.record import read_record
from token_pairs import CHATML, LARGE, SPEC, TEXTS, pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scratch")
    make_scratch(SPEC, TEXTS, made)
    return made


def write_pairs(folder: Path, train: list[PreferencePair], heldout: list[PreferencePair]) -> Path:
    folder.mkdir()
    for side, rows in (("train", train), ("heldout", heldout)):
        pq.write_table(pairs_table(rows), folder / f"{side}.parquet")
    return folder


def some_pairs(count: int, start: int = 0) -> list[PreferencePair]:
    return [pair(f"What is {i} + 1?", f"It is {i + 1}.", f"It is {i + 2}.") for i in range(start, start + count)]


def test_the_folder_keeps_the_contract(folder: Path, tmp_path: Path) -> None:
    train = [*some_pairs(300), pair(chosen="<|end|>"), pair("long " * 300)]
    source = write_pairs(tmp_path / "pairs", train, some_pairs(20, start=900))
    layout = Layout(tmp_path)
    arguments: dict[str, Any] = {"max_length": 128, "overlong": "drop", "chat_template": None}
    fp, out = prepare_tokens(source, "abc", folder, layout, **arguments)
    record = read_record(out)
    assert record is not None and record.kind == "tokens" and record.fingerprint == fp and out == layout.tokens(fp)
    counts = record.counts
    assert (counts["read"], counts["kept"], counts["train"], counts["heldout"]) == (322, 320, 300, 20)
    assert counts["skipped"] == {"special token in text": 1, "too long": 1}
    table = open_table([out / "train.arrow"], [1.0], 0)
    assert table.pair_ids().to_pylist() == [one.pair_id for one in train[:300]]
    assert counts["tokens_train"] == table.lengths_N3.sum() and not table.demonstrations
    _, whole = prepare_tokens(source, "abc", folder, layout, **arguments | {"max_length": 10_000})
    assert record.facts["longest_seen"] == read_record(whole).facts["longest"] > 300  # type: ignore[union-attr]
    assert record.facts["longest"] == max((n[0] + max(n[1:])) for n in table.lengths_N3.tolist())
    histogram = record.facts["edit_distance"]
    assert sum(histogram["counts"]) == 320 and len(histogram["edges"]) == 21 and 0 < histogram["median"] < 1
    skipped = pq.read_table(out / "skipped.parquet").to_pylist()
    assert [one["reason"] for one in skipped] == ["special token in text", "too long"] and skipped[0]["row"] == 7
    before = (out / "record.json").stat().st_mtime_ns
    assert prepare_tokens(source, "abc", folder, layout, **arguments) == (fp, out)
    assert (out / "record.json").stat().st_mtime_ns == before


def test_identity_is_of_what_decides_the_ids(folder: Path, tmp_path: Path) -> None:
    base = tokens_identity("abc", folder, LARGE, None)
    make_scratch(SPEC, TEXTS, tmp_path / "elsewhere")
    assert tokens_identity("abc", tmp_path / "elsewhere", LARGE, None) == base
    for other in (
        tokens_identity("abd", folder, LARGE, None),
        tokens_identity("abc", folder, Policy(9_999, "drop"), None),
        tokens_identity("abc", folder, Policy(10_000, "trim_prompt"), None),
        tokens_identity("abc", folder, LARGE, ChatTemplate(CHATML)),
        tokens_identity("abc", folder, LARGE, ChatTemplate("{{ level }}", (("level", "1"),))),
        tokens_identity("abc", folder, LARGE, ChatTemplate("{{ level }}", (("level", "2"),))),
    ):
        assert other != base
    config = tmp_path / "elsewhere" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token": "<|turn|>"}))
    assert digest_tokenizer(tmp_path / "elsewhere") != digest_tokenizer(folder)


def test_nothing_left_to_train_on_is_an_error_and_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs", some_pairs(3), some_pairs(1, start=9))
    with raises("data.nothing-left") as caught:
        prepare_tokens(source, "x", folder, Layout(tmp_path), max_length=8, overlong="drop", chat_template=None)
    assert "answer too long: 4" in caught.value.what
    assert not any((tmp_path / "store" / "tokens").iterdir())


@pytest.mark.ray
def test_ray_data_writes_the_same_bytes(session: None, folder: Path, tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs", some_pairs(2500), some_pairs(700, start=5000))
    arguments: dict[str, Any] = {"max_length": 128, "overlong": "drop", "chat_template": None}
    _, here = prepare_tokens(source, "x", folder, Layout(tmp_path / "a"), **arguments, small_rows=10_000)
    _, there = prepare_tokens(source, "x", folder, Layout(tmp_path / "b"), **arguments, small_rows=100)
    for side in ("train", "heldout"):
        left, right = (pa.ipc.open_file(pa.memory_map(str(out / f"{side}.arrow"))).read_all() for out in (here, there))
        assert left.combine_chunks().equals(right.combine_chunks())
    records = [read_record(out) for out in (here, there)]
    assert records[0].counts == records[1].counts and records[0].facts == records[1].facts  # type: ignore[union-attr]
