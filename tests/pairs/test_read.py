"""Reading files: the same rows whatever the form or the spans, and nothing lost in silence."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raised import raises
from ratchet.pairs.read import plan_spans, read_span
from ratchet.pairs.span import SourceRow
from ratchet.plan.data import Hub, Source

VALUES = [
    {"prompt": f"p{i}", "chosen": "c ✓" * (i % 5), "rejected": None, "n": i, "deep": {"x": [i]}} for i in range(700)
]


def rows_of(source: Source, span_bytes: int = 1 << 20) -> list[SourceRow]:
    return [row for span in plan_spans(source, span_bytes, 100) for row in read_span(span, source)]


def saved(folder: Path, values: list[dict[str, Any]]) -> Path:
    """Write the folder that `Dataset.save_to_disk` would."""
    folder.mkdir()
    table = pa.Table.from_pylist(values)
    half = len(values) // 2
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(names, (table[:half], table[half:]), strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(part, max_chunksize=50)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def written(folder: Path, form: str) -> Path:
    lines = "".join(json.dumps(value) + "\n" for value in VALUES).encode()
    array = json.dumps(VALUES, indent=1).encode()
    path = folder / f"rows.{form}"
    match form:
        case "jsonl":
            path.write_bytes(lines)
        case "json":
            path.write_bytes(array)
        case "jsonl.gz" | "json.gz":
            path.write_bytes(gzip.compress(lines if "jsonl" in form else array))
        case "lines.json":
            path.write_bytes(b"\xef\xbb\xbf" + lines)
        case "parquet":
            pq.write_table(pa.Table.from_pylist(VALUES), path, row_group_size=90)
        case "saved":
            saved(path, VALUES)
    return path


@pytest.mark.parametrize("form", ["jsonl", "json", "jsonl.gz", "json.gz", "lines.json", "parquet", "saved"])
@pytest.mark.parametrize("span_bytes", [1 << 20, 700])
def test_every_form_gives_the_same_rows(tmp_path: Path, form: str, span_bytes: int) -> None:
    rows = rows_of(Source(path=str(written(tmp_path, form))), span_bytes)
    assert [row.value for row in rows] == VALUES
    numbers = [row.row for row in rows]
    assert numbers == ([*range(1, 351)] * 2 if form == "saved" else [*range(1, 701)])


@given(
    st.lists(st.sampled_from([b"", b" ", b'{"a":1}', b'{"b":"' + b"x" * 90 + b'"}', b"nonsense", b"\xff"])),
    st.integers(1, 80),
)
def test_spans_of_lines_give_each_line_once_with_its_number(lines: list[bytes], span_bytes: int) -> None:
    text = b"\n".join([*lines, b'{"end":1}'])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.write_bytes(text)
        source = Source(path=str(path))
        spans = plan_spans(source, span_bytes)
        assert [spans[0].start, *(span.stop for span in spans)] == [*(span.start for span in spans), len(text)]
        rows = [row for span in spans for row in read_span(span, source)]
        assert rows == [row for span in plan_spans(source) for row in read_span(span, source)]
    expected = [number for number, line in enumerate(text.split(b"\n"), 1) if line.strip()]
    assert [row.row for row in rows] == expected


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_each_bad_line_is_named_and_the_next_one_is_read(tmp_path: Path, ending: str) -> None:
    lines = [
        b'{"a": 1}',
        b'{"a": ',
        b'{"a": "\xff"}',
        b'{"a": "\x00"}',
        b"[1, 2]",
        b"null",
        b'{"a": "' + b"y" * (17 << 20) + b'"}',
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 2}',
    ]
    text = b"\n".join(lines)
    path = tmp_path / f"x.{ending}"
    path.write_bytes(gzip.compress(text, 1) if ending.endswith("gz") else text)
    rows = rows_of(Source(path=str(path), max_characters=100), 1 << 30)
    assert [(row.row, row.reason) for row in rows] == [
        (1, ""),
        (2, "not JSON"),
        (3, "not UTF-8"),
        (4, "NUL character"),
        (5, "wrong type"),
        (6, "wrong type"),
        (7, "too long"),
        (8, "not JSON"),
        (9, "not JSON"),
        (10, ""),
    ]
    assert [row.value for row in rows if not row.reason] == [{"a": 1}, {"a": 2}]
    assert rows[6].detail == f"a line of {len(lines[6]) + 1} bytes"


@pytest.mark.parametrize("kept", [0.3, 0.999])
def test_an_array_without_its_end_stops_the_run(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "x.json"
    array, document = json.dumps(VALUES), json.dumps({"data": VALUES}, indent=1)
    for text in (*(one[: int(len(one) * kept)] for one in (array, document)), array[:-1]):
        path.write_text(f"{text}\n")
        with raises("data.damaged") as caught:
            rows_of(Source(path=str(path), max_bad_share=1.0))
        assert "has no end" in caught.value.what


def test_lines_that_break_off_say_that_the_file_ends_there(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 2}\n{"a": 3, "b')
    rows = rows_of(Source(path=str(path)))
    assert [(row.row, row.reason) for row in rows] == [(1, ""), (2, "not JSON"), (3, ""), (4, "not JSON")]
    assert ["may be cut off" in row.detail for row in rows] == [False, False, False, True]


def test_an_array_that_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(VALUES)[:-30] + "]")
    rows = rows_of(Source(path=str(path)))
    assert [row.value for row in rows[:-1]] == VALUES[:-1]
    assert (rows[-1].row, rows[-1].reason) == (700, "not JSON")


def test_an_array_that_breaks_off_early_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(VALUES * 20).replace('"n": 300,', '"n": 300 oops', 1))
    with raises("data.damaged") as caught:
        rows_of(Source(path=str(path)))
    assert caught.value.where == f"{path}:301"
    assert len(rows_of(Source(path=str(path), max_bad_share=1.0))) == 301


def test_a_byte_that_is_not_utf8_costs_an_array_one_row(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"a": "1"}, {"a": "\xff\xfe"}, {"a": "\xe2\x9c\x93"}]')
    values = [row.value for row in rows_of(Source(path=str(path)))]
    assert values == [{"a": "1"}, {"a": "\ufdd0\ufdd0"}, {"a": "✓"}]


def test_a_byte_that_is_not_utf8_costs_a_table_one_row(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"a": texts}), tmp_path / "x.parquet")
    rows = rows_of(Source(path=str(tmp_path / "x.parquet")))
    assert [(row.row, row.value, row.reason) for row in rows] == [
        (1, {"a": "good"}, ""),
        (2, None, "not UTF-8"),
        (3, {"a": "fine"}, ""),
    ]


@pytest.mark.parametrize("form", ["jsonl.gz", "json.gz", "parquet", "saved"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.999])
def test_a_file_cut_off_stops_the_run_and_is_named(tmp_path: Path, form: str, kept: float) -> None:
    path = written(tmp_path, form)
    file = path / "data-00001-of-00002.arrow" if form == "saved" else path
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    with raises("data.damaged") as caught:
        rows_of(Source(path=str(path), max_bad_share=1.0))
    assert caught.value.where == str(file)


def test_an_arrow_stream_cut_between_batches_is_noticed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "d", VALUES)
    file = folder / "data-00001-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:-8])
    with raises("data.damaged"):
        rows_of(Source(path=str(folder)))


def test_a_gzip_with_changed_bytes_stops_the_run(tmp_path: Path) -> None:
    path = written(tmp_path, "jsonl.gz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with raises("data.damaged"):
        rows_of(Source(path=str(path)))


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("x.jsonl", b"", "data.no-rows"),
        ("x.jsonl", b"\n \n", "data.no-rows"),
        ("x.json", b"[]", "data.no-rows"),
        ("x.json", b"  ", "data.form"),
        ("x.json", b"hello", "data.form"),
        ("x.jsonl.gz", gzip.compress(b"", mtime=0), "data.no-rows"),
        ("x.jsonl.gz", b"plain", "data.damaged"),
        ("x.parquet", b"plain", "data.damaged"),
        ("x.csv", b"a,b", "data.no-rows"),
        ("x.xlsx", b"PK\x03\x04", "data.form"),
    ],
)
def test_a_file_without_rows_is_an_error(tmp_path: Path, name: str, content: bytes, code: str) -> None:
    (tmp_path / name).write_bytes(content)
    with raises(code) as caught:
        rows_of(Source(path=str(tmp_path / name)))
    assert caught.value.where == str(tmp_path / name)
    assert caught.value.fix


def test_a_parquet_file_without_rows_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "x.parquet")
    with raises("data.no-rows"):
        rows_of(Source(path=str(tmp_path / "x.parquet")))


def test_paths_that_lead_nowhere_are_errors(tmp_path: Path) -> None:
    saved(tmp_path / "train", VALUES)
    for path, code in (
        ("absent.jsonl", "data.no-file"),
        ("*.jsonl", "data.no-file"),
    ):
        with raises(code):
            plan_spans(Source(path=str(tmp_path / path)))
    assert [span.file for span in plan_spans(Source(path=str(tmp_path)))] == [
        "data-00000-of-00002.arrow",
        "data-00001-of-00002.arrow",
    ], "the folder's only split"
    (tmp_path / "bare").mkdir()
    with raises("data.form"):
        plan_spans(Source(path=str(tmp_path / "bare")))
    (tmp_path / "train" / "data-00000-of-00002.arrow").unlink()
    with raises("data.no-file"):
        plan_spans(Source(path=str(tmp_path / "train")))


def test_globs_and_lists_give_each_file_once_under_a_label_free_of_place(tmp_path: Path) -> None:
    for name in ("a/x.jsonl", "b/x.jsonl", "b/y.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"a": 1}\n')
    paths = (str(tmp_path / "b/y.jsonl"), str(tmp_path / "**/*.jsonl"))
    assert [row.file for row in rows_of(Source(path=paths))] == ["b/y.jsonl", "a/x.jsonl", "b/x.jsonl"]


@pytest.mark.heavy
def test_the_hub_without_a_network_is_an_error_that_says_so() -> None:
    script = (
        "from ratchet.errors import DataError\n"
        "from ratchet.pairs.source import read_source\n"
        "from ratchet.plan.data import Hub, Source\n"
        "try:\n    next(read_source(Source(hub=Hub(name='nobody/nothing', config='main', revision='abc'))))\n"
        "except DataError as error:\n    assert 'reaches huggingface.co' in error.fix; print(error.where)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "hub:nobody/nothing/main/train"
    assert plan_spans(Source(hub=Hub(name="nobody/nothing")))[0].form == "hub"
