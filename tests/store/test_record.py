"""What lies in the store is held against its digests before it is read, and made again where it was changed."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bits import flip
from raised import raises
from ratchet.errors import CorruptError
from ratchet.model.scratch import make_scratch
from ratchet.pairs.table import open_table
from ratchet.pairs.token_flow import prepare_tokens
from ratchet.store.files import read_sealed, sealed, write_sealed
from ratchet.store.layout import Layout
from ratchet.store.record import Record, checked, faults, make_room, read_record, sound_record, write_record
from tests.pairs.test_tokens_flow import SPEC, TEXTS, some_pairs, write_pairs


def finished(folder: Path) -> Path:
    (folder / "inner").mkdir(parents=True)
    (folder / "a").write_bytes(b"a" * 100)
    (folder / "inner/b").write_bytes(b"b" * 100)
    (folder / "README.md").write_text("a card that people may edit")
    (folder / ".being-written").write_text("x")
    write_record(folder, Record("pairs", "f" * 20, {"kind": "pairs"}, {"read": 3}, "2026-01-01T00:00:00Z", 1.5))
    return folder


def test_a_record_names_every_file_and_every_change_of_one_is_seen(tmp_path: Path) -> None:
    folder = finished(tmp_path / "x")
    record = read_record(folder)
    assert record is not None and sorted(record.files) == ["a", "inner/b"] and sound_record(folder) == record
    assert checked(folder / "a") == folder / "a"
    (folder / "README.md").write_text("edited")
    assert sound_record(folder) is not None
    flip(folder / "a", 7)
    assert faults(folder, record.files) == ["a does not have the bytes that were written"]
    assert sound_record(folder) is None
    with raises("corrupt.file", "x/a") as caught:
        checked(folder / "a")
    assert caught.value.fix.startswith("run again")
    flip(folder / "a", 7)
    (folder / "inner/b").unlink()
    assert faults(folder, record.files) == ["inner/b is missing"] and checked(folder / "a").exists()
    (folder / "stranger").write_text("x")
    with raises("corrupt.file", "stranger"):
        checked(folder / "stranger")


@pytest.mark.heavy
def test_a_changed_bit_of_a_record_is_seen_or_changes_nothing(tmp_path: Path) -> None:
    folder = finished(tmp_path / "x")
    path = folder / "record.json"
    before, size, seen = read_record(folder), path.stat().st_size, 0
    for byte in range(size):
        flip(path, byte, byte % 8)
        try:
            assert read_record(folder) == before
        except CorruptError:
            seen += 1
        flip(path, byte, byte % 8)
    assert seen > 0.6 * size and read_record(folder) == before


def test_what_is_damaged_is_put_aside_once_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layout = Layout(tmp_path)
    for number in (1, 2):
        folder = finished(layout.tokens("f"))
        assert make_room(folder, layout.damaged) == read_record(folder)
        flip(folder / "a", 3)
        assert make_room(folder, layout.damaged) is None and not folder.exists()
        assert (layout.damaged / f"tokens-f.{number}" / "record.json").exists()
    assert make_room(folder, layout.damaged) is None
    finished(folder)
    (folder / "record.json").unlink()
    assert make_room(folder, layout.damaged) is None and not folder.exists()
    lines = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert len(lines) == 3 and "record.json is missing" in lines[2]
    assert f"{folder} is damaged (a does not have the bytes that were written): it was put aside as" in lines[0]


def test_a_sealed_document_tells_another_content(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_sealed(path) is None
    write_sealed(path, {"rows": (1, 2), "ä": 0.1, "none": None})
    assert read_sealed(path) == {"rows": [1, 2], "ä": 0.1, "none": None}
    assert sealed(sealed({"a": 1})) == sealed({"a": 1})
    path.write_text(path.read_text().replace("0.1", "0.2"))
    with raises("corrupt.document"):
        read_sealed(path)
    path.write_text('["no object"]')
    with raises("corrupt.document"):
        read_sealed(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scratch")
    make_scratch(SPEC, TEXTS, made)
    return made


@pytest.mark.parametrize("file", ["train.arrow", "heldout.arrow", "skipped.parquet", "record.json"])
def test_damaged_tokens_are_made_again(
    model: Path, tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    source, layout = write_pairs(tmp_path / "pairs", some_pairs(30), some_pairs(5, start=90)), Layout(tmp_path)
    arguments: dict[str, Any] = {"max_length": 128, "overlong": "drop", "chat_template": None}
    fp, out = prepare_tokens(source, "abc", model, layout, **arguments)
    before = [pair.chosen.tolist() for pair in open_table([out / "train.arrow"], [1.0], 0)]
    flip(out / file, (out / file).stat().st_size // 2, 1)
    if file == "train.arrow":
        with raises("corrupt.file", "train.arrow"):
            open_table([out / "train.arrow"], [1.0], 0)
    assert prepare_tokens(source, "abc", model, layout, **arguments) == (fp, out)
    assert [pair.chosen.tolist() for pair in open_table([out / "train.arrow"], [1.0], 0)] == before
    assert len(caplog.records) == 1 and file in caplog.text and sound_record(out) is not None


def test_damaged_pairs_are_not_made_tokens_of(model: Path, tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs", some_pairs(30), some_pairs(5, start=90))
    write_record(source, Record("pairs", "abc", {}, {}, "2026-01-01T00:00:00Z", 1.5))
    rows = pq.read_table(source / "train.parquet").num_rows
    arguments: dict[str, Any] = {"max_length": 128, "overlong": "drop", "chat_template": None}
    flip(source / "train.parquet", 100)
    with raises("corrupt.file", "train.parquet"):
        prepare_tokens(source, "abc", model, Layout(tmp_path), **arguments)
    assert rows == 30


def test_several_who_find_the_same_damage_make_it_again_once(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, layout = write_pairs(tmp_path / "pairs", some_pairs(30), some_pairs(5, start=90)), Layout(tmp_path)
    arguments: dict[str, Any] = {"max_length": 128, "overlong": "drop", "chat_template": None}
    found = prepare_tokens(source, "abc", model, layout, **arguments)
    flip(found[1] / "train.arrow", 900)
    with ThreadPoolExecutor(4) as pool:
        again = [pool.submit(prepare_tokens, source, "abc", model, layout, **arguments) for _ in range(4)]
    assert {one.result() for one in again} == {found} and sound_record(found[1]) is not None
    assert len(list(layout.damaged.iterdir())) == 1 == len(caplog.records)
