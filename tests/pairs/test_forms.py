"""Files as people have them: packed, tables of text, JSON of other shapes: the same rows, or a line that helps."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raised import raises
from ratchet.pairs.estimate import estimate_rows
from ratchet.pairs.read import plan_spans, read_span
from ratchet.pairs.sample import sample_pairs
from ratchet.pairs.source import read_source
from ratchet.pairs.span import SourceRow
from ratchet.plan.data import Source

ROWS: list[dict[str, Any]] = [
    {"prompt": f'Which is larger, {n} or "{n + 1}"?', "chosen": f"{n + 1},\nof course ✓", "rejected": f"{n}; no"}
    for n in range(40)
]


def rows_of(source: Source, span_bytes: int = 1 << 20) -> list[SourceRow]:
    return [row for span in plan_spans(source, span_bytes) for row in read_span(span, source)]


def values_of(path: Path, **keys: Any) -> list[Any]:
    return [row.value for row in rows_of(Source(path=str(path), **keys))]


def bad_of(path: Path, **keys: Any) -> list[tuple[int, str]]:
    return [(row.row, row.reason) for row in rows_of(Source(path=str(path), **keys)) if row.value is None]


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",", *, ends: str = "\n") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=ends, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TEXTS = {
    "jsonl": LINES,
    "ndjson": LINES,
    "jsonlines": LINES,
    "json": json.dumps(ROWS),
    "csv": as_csv(ROWS),
    "tsv": as_csv(ROWS, "\t"),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": as_zstd,
}


@pytest.mark.parametrize("packed", sorted(PACKED))
@pytest.mark.parametrize("ending", sorted(TEXTS))
def test_every_text_in_every_packing_gives_the_same_rows(tmp_path: Path, ending: str, packed: str) -> None:
    data = PACKED[packed](TEXTS[ending].encode())
    for name in (f"x.{ending}{packed}", f"X.{ending}{packed}".upper(), f"y.{ending}"):
        (tmp_path / name).write_bytes(data)
        source = Source(path=str(tmp_path / name), held_out=0)
        assert [row.value for row in rows_of(source, 300)] == ROWS
        assert estimate_rows(source) in (40, 40 + 2 * (ending in ("csv", "tsv")))
        assert len(sample_pairs(source, None, 99).pairs) == len(list(read_source(source))) == 40


@pytest.mark.parametrize("packed", sorted({*PACKED} - {""}))
@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_a_packed_file_that_ends_too_early_stops_the_run(tmp_path: Path, ending: str, packed: str) -> None:
    data = PACKED[packed](TEXTS[ending].encode() * 30)
    path = tmp_path / f"x.{ending}{packed}"
    for kept in (0.5, 0.98):
        path.write_bytes(data[: int(len(data) * kept)])
        with raises("data.damaged") as caught:
            rows_of(Source(path=str(path), max_bad_share=1.0))
        assert caught.value.where.startswith(str(path))


def test_numbers_of_csv_are_texts_and_empty_cells_are_null(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('a,b,c\n007,1.50,\n"",true,"x ""y"""\n', encoding="utf-8-sig")
    assert values_of(tmp_path / "x.csv") == [
        {"a": "007", "b": "1.50", "c": None},
        {"a": None, "b": "true", "c": 'x "y"'},
    ]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_that_of_the_header(tmp_path: Path, delimiter: str, ends: str) -> None:
    (tmp_path / "x.csv").write_bytes(as_csv(ROWS, delimiter, ends=ends).encode())
    assert values_of(tmp_path / "x.csv") == ROWS
    (tmp_path / "x.csv").write_bytes(f"sep={delimiter}{ends}".encode() + as_csv(ROWS, delimiter, ends=ends).encode())
    assert values_of(tmp_path / "x.csv") == ROWS, "as Excel writes it"


def test_a_row_of_csv_is_named_by_its_first_line_and_costs_no_other(tmp_path: Path) -> None:
    lines = [
        "prompt,chosen,rejected",
        '"two',
        'lines",b,c',
        "too,few",
        "one,too,many,here",
        "",
        '"never closed,b,c',
        "good,b,c",
        'a,"quoted" badly,c',
        "caf\udce9,b,c",
        "last,b,c",
    ]
    (tmp_path / "x.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    rows = rows_of(Source(path=str(tmp_path / "x.csv")))
    assert [(row.row, row.reason) for row in rows] == [
        (2, ""),
        (4, "not CSV"),
        (5, "not CSV"),
        (7, "not CSV"),
        (8, ""),
        (9, "not CSV"),
        (10, "not UTF-8"),
        (11, ""),
    ]
    assert [row.value["prompt"] for row in rows if row.value is not None] == ["two\nlines", "good", "last"]
    assert rows[1].detail == "2 fields, and the header has 3"


def test_a_long_answer_and_an_index_without_a_name_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f",prompt,chosen\n0,p,{'c' * 300_000}\n")
    assert values_of(tmp_path / "x.csv") == [{"Unnamed: 0": "0", "prompt": "p", "chosen": "c" * 300_000}]


@pytest.mark.parametrize(("header", "said"), [("a,b,a", "twice: a"), ("a,b;c", "',' or by ';'")])
def test_a_header_that_names_no_columns_is_an_error(tmp_path: Path, header: str, said: str) -> None:
    (tmp_path / "x.csv").write_text(f"{header}\n1,2,3\n")
    with raises("data.form") as caught:
        rows_of(Source(path=str(tmp_path / "x.csv")))
    assert said in str(caught.value) and caught.value.where.endswith("x.csv:1")


PRETTY = "\n".join(json.dumps(row, indent=2) for row in ROWS)
COLUMNS = {key: [row[key] for row in ROWS] for key in ROWS[0]}
SHAPES = {
    "pretty": PRETTY,
    "pretty, commas": ",\n".join(json.dumps(row, indent=4) for row in ROWS),
    "broken anywhere": " ".join(json.dumps(row, separators=(",\n", ": ")) for row in ROWS),
    "under data": json.dumps({"data": ROWS}),
    "under data, pretty": json.dumps({"version": "1.0", "data": ROWS, "meta": {"by": ["me"]}}, indent=1),
    "under a name of its own": json.dumps({"preferences": ROWS}),
    "under train": json.dumps({"train": ROWS}, indent=1),
    "two splits": json.dumps({"test": [{"prompt": "t"}], "train": ROWS}),
    "pandas": json.dumps({key: dict(enumerate(column)) for key, column in COLUMNS.items()}),
    "pandas lists": json.dumps(COLUMNS),
    "pandas split": json.dumps(
        {"columns": [*COLUMNS], "index": [*range(40)], "data": [[*row.values()] for row in ROWS]}
    ),
    "pandas index": json.dumps(dict(enumerate(ROWS))),
    "by names of their own": json.dumps({f"q-{n}": row for n, row in enumerate(ROWS)}, indent=1),
    "of the hub's viewer": json.dumps({"features": [{"name": "prompt"}], "rows": ROWS, "partial": False}),
    "pandas table": json.dumps({"schema": {"fields": [{"name": "prompt"}]}, "data": ROWS}),
    "array, pretty": json.dumps(ROWS, indent=2),
}


@pytest.mark.parametrize("ending", ["json", "jsonl", "json.gz"])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_json_of_other_shapes_gives_the_same_rows(tmp_path: Path, shape: str, ending: str) -> None:
    data = SHAPES[shape].encode()
    path = tmp_path / f"x.{ending}"
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else b"\xef\xbb\xbf" + data)
    assert values_of(path) == ROWS
    assert estimate_rows(Source(path=str(path))) == 40


def test_one_row_is_a_row_and_no_document(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for row in ({"messages": turns}, {"chosen": turns, "rejected": turns}, ROWS[0], {"texts": ["a", "b"], "n": 1}):
        for indent in (None, 2):
            (tmp_path / "x.json").write_text(json.dumps(row, indent=indent))
            assert values_of(tmp_path / "x.json") == [row]


def test_rows_with_a_list_called_data_stay_rows(tmp_path: Path) -> None:
    rows = [{"data": [{"x": n}], "prompt": "p"} for n in range(3)]
    for indent in (None, 1):
        (tmp_path / "x.json").write_text("\n".join(json.dumps(row, indent=indent) for row in rows))
        assert values_of(tmp_path / "x.json") == rows


def test_objects_over_many_lines_are_named_by_their_first(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{\n "a": "}"\n}\noops\n{\n "a": "{[",\n "b": [{"c": 1}]\n}\n{"a": nonsense\n}\n')
    rows = rows_of(Source(path=str(tmp_path / "x.json")))
    assert [(row.row, row.reason) for row in rows] == [(1, ""), (4, "not JSON"), (5, ""), (9, "not JSON")]
    assert rows[2].value == {"a": "{[", "b": [{"c": 1}]}


def test_an_object_that_is_never_closed_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(PRETTY.replace("}", "", 5).replace("{", "{{", 1))
    with raises("data.damaged"):
        rows_of(Source(path=str(tmp_path / "x.json")))


def test_columns_of_different_lengths_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"a": {"0": 1, "1": 2}, "b": {"0": 1, "2": 2}}))
    with raises("data.form") as caught:
        rows_of(Source(path=str(tmp_path / "x.json")))
    assert "same rows" in str(caught.value) and "lines=True" in caught.value.fix


def test_splits_inside_of_a_file_are_never_mixed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"train": [{"a": 1}], "test": [{"a": 2}]}))
    assert values_of(path) == [{"a": 1}] and values_of(path, split="test") == [{"a": 2}]
    with raises("data.split") as caught:
        values_of(path, split="tets")
    assert "did you mean test?" in str(caught.value)
    path.write_text(json.dumps({"easy": [{"a": 1}], "data": [{"a": 2}]}))
    with raises("data.split"):
        values_of(path)
    assert values_of(path, split="easy") == [{"a": 1}]
    path.write_text(json.dumps({"good": [{"a": 1}], "bad": [{"a": 2}]}))
    with raises("data.split") as caught:
        values_of(path)
    assert "good, bad" in caught.value.what
    assert values_of(path, split="bad") == [{"a": 2}]


@pytest.mark.parametrize("ending", ["arrow", "feather"])
def test_arrow_files_of_both_formats_are_read(tmp_path: Path, ending: str) -> None:
    table = pa.Table.from_pylist(ROWS)
    path = tmp_path / f"x.{ending}"
    with pa.OSFile(str(path), "wb") as file:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(file, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=7)
    assert values_of(path) == ROWS and estimate_rows(Source(path=str(path))) == 40
    path.write_bytes(path.read_bytes()[:-20])
    with raises("data.damaged"):
        values_of(path)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    assert values_of(path) == ROWS


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
@pytest.mark.parametrize(
    ("codec", "named"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-32", "UTF-32"),
        ("cp1252", "WINDOWS-1252"),
        ("gb18030", "GB18030"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, ending: str, codec: str, named: str) -> None:
    word = "你好，世界" if codec == "gb18030" else "Café Zürich, garçon"
    rows = [{"prompt": f"{word} {n}", "chosen": word, "rejected": "no"} for n in range(9)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    text = {"csv": as_csv(rows), "json": json.dumps(rows, ensure_ascii=False, indent=1), "jsonl": lines}[ending]
    (tmp_path / f"x.{ending}").write_bytes(text.encode(codec))
    with raises("data.encoding") as caught:
        values_of(tmp_path / f"x.{ending}")
    assert caught.value.what.endswith(named) and f"iconv -f {named}" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "head", "said"),
    [
        ("x.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("x.jsonl", b"PAR1....", ".parquet"),
        ("x.csv", b"PK\x03\x04....", "save a spreadsheet as CSV"),
        ("x.json", b"<!DOCTYPE html><html>", "web page"),
        ("x.jsonl", b"<!doctype html>\n<html>", "web page"),
        ("x.parquet", b"<html><body>Sign in</body></html>", "web page"),
        ("x.parquet", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("x.arrow", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("x.parquet", b'{"prompt": "p"}\n', "end in .jsonl"),
        ("x.csv", b'{"prompt": "p", "chosen": "c"}\n', "end in .jsonl"),
        ("x.csv", b"[\n {}\n]", "end in .jsonl"),
        ("x.xml", b"<?xml version=", "use one of"),
        ("x.jsonl", b"<?xml version=", "store's refusal"),
        ("x.feather", b"FEA1....", "or as Parquet"),
        ("x.parquet.gz", b"\x1f\x8b", "unpack it"),
        ("x.xlsx", b"PK\x03\x04", "CSV"),
        ("x.pkl", b"\x80\x04", "JSON lines"),
    ],
)
def test_a_file_of_another_kind_says_what_to_do(tmp_path: Path, name: str, head: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(head)
    with raises("data.form") as caught:
        values_of(tmp_path / name)
    assert said in str(caught.value)


def test_rows_that_are_none_of_them_utf8_say_how_to_write_them(tmp_path: Path) -> None:
    # Too few bytes to name the encoding by.
    (tmp_path / "x.csv").write_bytes("prompt,chosen,rejected\ncafé,b,c\n".encode("latin-1"))
    with raises("data.no-layout") as caught:
        list(read_source(Source(path=str(tmp_path / "x.csv"))))
    assert "x.csv:2: not UTF-8" in caught.value.what and "iconv" in caught.value.fix
