"""A task's rows: the same texts from any kind of file, and faults that name the row."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raised import raises
from ratchet.errors import DataError
from ratchet.evaluate.task_files import read_rows
from ratchet.plan.data import Hub
from ratchet.plan.task_parts import Rows
from tests.conftest import ROOT

TEXTS = [{"question": f"What is {n} + 1?", "answer": f"naïve: {n + 1}", "id": n} for n in range(3)]
LINES = "\n".join(map(json.dumps, TEXTS))
WRITERS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_text(LINES),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "a.json": lambda path: path.write_text(json.dumps(TEXTS, indent=1)),
    "a.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(TEXTS, ensure_ascii=False).encode())),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(TEXTS), path),
}
BOTH = ("question", "answer")
DIGEST = "d580faf5227614f57fbb"  # sha256 of the texts as compact JSON


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows_and_digest(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    rows, digest = read_rows(Rows(path=str(tmp_path / name)), BOTH, None)
    assert rows == [{key: row[key] for key in BOTH} for row in TEXTS]
    assert digest == DIGEST


def test_the_digest_is_of_the_texts_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LINES)
    rows = Rows(path=str(path))
    digests = [read_rows(rows, columns, most)[1] for columns in (BOTH, ("question",)) for most in (None, 2)]
    assert len(set(digests)) == 4
    path.write_text(LINES.replace('"id": 0', '"id": 7'))
    assert read_rows(rows, BOTH, None)[1] == digests[0]  # a column that is not read decides nothing
    path.write_text(LINES.replace(': 3"', ': 4"'))
    assert read_rows(rows, BOTH, None)[1] != digests[0]


def test_rows_past_the_limit_are_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LINES + "\nthis is not JSON\n")
    assert len(read_rows(Rows(path=str(path)), BOTH, 3)[0]) == 3
    with raises("data") as caught:
        read_rows(Rows(path=str(path)), BOTH, None)
    assert caught.value.where.endswith("a.jsonl:4")


def test_a_text_file_is_one_row_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffOne\r\n\r\ntwo.\n".encode())
    assert read_rows(Rows(path=str(path)), ("anything",), None)[0] == [{"anything": "One\r\n\r\ntwo.\n"}]
    with raises("data") as caught:
        read_rows(Rows(path=str(path)), BOTH, None)
    assert "question, answer" in caught.value.what
    path.write_bytes(b"abc\xff")
    with raises("data") as caught:
        read_rows(Rows(path=str(path)), ("text",), None)
    assert "byte 4" in caught.value.what and caught.value.where.endswith("a.txt")
    path.write_text(" \n")
    with raises("data") as caught:
        read_rows(Rows(path=str(path)), ("text",), None)
    assert caught.value.where.endswith("a.txt:1")
    with raises("data.no-file"):
        read_rows(Rows(path=str(tmp_path / "b.txt")), ("text",), None)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"question": "q"}', "has no column 'answer'; it has 'question'"),
        ("{}", "has no column 'question'; it has none"),
        ('{"question": "q", "answer": 3}', "'answer' is a number, not a text"),
        ('{"question": "q", "answer": null}', "'answer' is null, not a text"),
        ('{"question": ["q"], "answer": "a"}', "'question' is a list, not a text"),
        ('{"question": "q", "answer": " \\n"}', "empty text: answer"),
        ('{"question": "q", "answer": "a\\u0000"}', "NUL character"),
        ('{"question": "q", "answer": "a\\ud800"}', "not UTF-8: answer, character 2"),
        ('["q", "a"]', "a list, not an object"),
        ("{", "not JSON"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(TEXTS[0])}\n\n{line}\n")
    with pytest.raises(DataError) as error:
        read_rows(Rows(path=str(path)), BOTH, None)
    assert error.value.where == f"{path}:3"
    assert says in error.value.what


def test_blank_texts_pass_where_the_task_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ""}\n{"text": " = Title = \\n"}\n')
    assert read_rows(Rows(path=str(path)), ("text",), None, blank=True)[0] == [{"text": ""}, {"text": " = Title = \n"}]
    with raises("data") as caught:
        read_rows(Rows(path=str(path)), ("text",), None)
    assert caught.value.where.endswith("a.jsonl:1")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_rows_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with raises("data.no-rows"):
        read_rows(Rows(path=str(path)), BOTH, None)


def test_a_kind_of_file_that_is_not_known_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("question,answer\n")
    with raises("data.form"):
        read_rows(Rows(path=str(tmp_path / "a.xlsx")), BOTH, None)


def test_the_hub_s_rows_go_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str, config: str | None, **settings: object) -> list[dict[str, object]]:
        asked.append((name, config, settings))
        return [*TEXTS, {"question": "q"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = Rows(hub=Hub(name="openai/gsm8k", config="main", split="test", revision="abc0" * 10))
    found, digest = read_rows(rows, BOTH, 3)
    assert (len(found), digest) == (3, DIGEST)
    assert asked == [("openai/gsm8k", "main", {"split": "test", "revision": "abc0" * 10, "streaming": True})]
    with raises("data") as caught:
        read_rows(rows, BOTH, None)
    assert caught.value.where == "hub:openai/gsm8k/main/test:4" and "'answer'" in caught.value.what


def test_the_sets_that_come_along_can_be_read() -> None:
    (text,), _ = read_rows(Rows(path=str(ROOT / "eval/sets/lighthouse.txt")), ("text",), None)
    assert 3000 < len(text["text"]) < 6000
    questions, _ = read_rows(Rows(path=str(ROOT / "eval/sets/word_problems.jsonl")), BOTH, None)
    assert len({row["question"] for row in questions}) == 20


def test_gsm8k_s_file_can_be_read(shared: Path) -> None:
    rows, _ = read_rows(Rows(path=str(shared / "gsm8k/test.jsonl")), BOTH, None)
    assert len(rows) == 1319
    assert all("####" in row["answer"] for row in rows)
