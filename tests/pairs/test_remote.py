"""Files at URLs: the same rows and labels as on a disk, known by what their store says, and errors that help."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from raised import raises
from ratchet.pairs.estimate import estimate_rows
from ratchet.pairs.files import digests
from ratchet.pairs.flow import pairs_identity
from ratchet.pairs.read import plan_spans, read_span
from ratchet.pairs.sample import sample_pairs
from ratchet.plan.data import Source
from ratchet.store.fingerprint import digest_file

ROWS: list[dict[str, Any]] = [{"prompt": f"{n}?", "chosen": "yes", "rejected": f"no {n}"} for n in range(50)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def values_of(source: Source, span_bytes: int = 1 << 20) -> list[Any]:
    return [row.value for span in plan_spans(source, span_bytes) for row in read_span(span, source)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x.jsonl").write_bytes(LINES)
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(json.dumps({"data": ROWS}).encode()))
    (tmp_path / "x.csv").write_text("prompt,chosen,rejected\n" + "".join(f"{','.join(r.values())}\n" for r in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet", row_group_size=20)
    with (
        pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file,
        pa.ipc.new_file(file, pa.Table.from_pylist(ROWS).schema) as out,
    ):
        out.write_table(pa.Table.from_pylist(ROWS))
    return tmp_path


class Plain(http.server.SimpleHTTPRequestHandler):
    """A server that sends whole files alone, without tags."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Parts(Plain):
    """A server that sends parts of files, and a tag of each."""

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = 0, len(data) - 1
        if asked := self.headers.get("Range"):
            first, last = (int(text) for text in asked.removeprefix("bytes=").split("-"))
            last = min(last, len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def end_headers(self) -> None:
        self.send_header("ETag", '"of-now"')
        super().end_headers()


class Sizeless(Plain):
    """A server that does not say how long a file is."""

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Content-Length":
            super().send_header(keyword, value)


@pytest.fixture(params=[Plain, Parts, Sizeless])
def site(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    handler = functools.partial(request.param, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def memory(folder: Path) -> Iterator[str]:
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe(f"/of-test/{path.name}", path.read_bytes())
    yield "memory://of-test"
    files.rm("/of-test", recursive=True)


NAMES = ["x.arrow", "x.csv", "x.json.gz", "x.jsonl", "x.parquet"]


@pytest.mark.parametrize("name", NAMES)
def test_a_server_of_the_web_gives_the_rows_of_its_files(site: str, name: str) -> None:
    source = Source(path=f"{site}/{name}?download=true", held_out=0)
    assert values_of(source, 300) == ROWS
    assert estimate_rows(source) in (50, 51) and len(sample_pairs(source, None, 99).pairs) == 50


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_a_store_gives_the_rows_of_its_files(folder: Path, memory: str, name: str, scheme: str) -> None:
    root = memory if scheme == "memory" else f"file://{folder}"
    assert values_of(Source(path=f"{root}/{name}"), 300) == ROWS


def test_the_identity_is_the_stores_tag_or_the_content(site: str, folder: Path) -> None:
    source = Source(path=f"{site}/x.jsonl")
    tagged = digests(source)
    content = digest_file(folder / "x.jsonl")
    assert tagged in ([["x.jsonl", 'ETag "of-now"']], [["x.jsonl", content]])
    if tagged[0][1] == content:
        assert pairs_identity(source, None) == pairs_identity(Source(path=str(folder / "x.jsonl")), None)
        for changed in (LINES.replace(b"yes", b"YES"), LINES + LINES):
            (folder / "x.jsonl").write_bytes(changed)
            assert digests(source) == [["x.jsonl", digest_file(folder / "x.jsonl")]] != tagged


def test_folders_and_patterns_of_a_store_are_as_on_a_disk(memory: str) -> None:
    files = fsspec.filesystem("memory")
    for name in (
        "data/train-00000-of-00002.jsonl",
        "data/train-00001-of-00002.jsonl",
        "data/test-00000-of-00001.jsonl",
    ):
        files.pipe(f"/of-test/clone/{name}", LINES)
    source = Source(path=f"{memory}/clone")
    assert [span.file for span in plan_spans(source)] == ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]
    assert len(values_of(source.model_copy(update={"split": "test"}))) == 50
    assert len(values_of(Source(path=f"{memory}/clone/data/t*-00000-*.jsonl"))) == 100


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("memory://of-test/gone.jsonl", "data.no-file", "rights"),
        ("memory://of-test/gone-*.jsonl", "data.no-file", "pattern"),
        ("http://127.0.0.1:9/x.jsonl", "data.remote", "each reaches"),
        ("s3://bucket/x.jsonl", "data.remote", "install it on every node: s3fs"),
        ("gs://bucket/x.jsonl", "data.remote", "install it on every node: gcsfs"),
        ("nonsense://x.jsonl", "data.remote", "nonsense"),
    ],
)
def test_a_url_that_cannot_be_read_says_what_to_do(url: str, code: str, said: str) -> None:
    with raises(code) as caught:
        plan_spans(Source(path=url))
    assert said in str(caught.value) and caught.value.where == url


def test_a_file_of_the_web_that_ends_too_early_stops_the_run(folder: Path) -> None:
    class Short(Plain):
        def copyfile(self, source: Any, outputfile: Any) -> None:
            outputfile.write(source.read()[:-40])

    handler = functools.partial(Short, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with raises("data.remote"):
            values_of(Source(path=f"http://127.0.0.1:{server.server_port}/x.jsonl"))
        server.shutdown()
        thread.join()


class Counted(MemoryFileSystem):
    """Files in memory that keep how many bytes were asked for at once."""

    protocol = "counted"
    asked: ClassVar[list[int]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("counted://", "memory://")))

    def _open(self, path: str, mode: str = "rb", **keys: Any) -> Any:
        class File(MemoryFile):
            def read(self, size: int = -1) -> bytes:
                Counted.asked.append(size)
                return bytes(super().read(size))

        return File(self, path, self.store[path].getvalue()) if mode == "rb" else super()._open(path, mode, **keys)


def test_parquet_of_one_row_group_is_asked_for_two_megabytes_at_most() -> None:
    fsspec.register_implementation("counted", Counted, clobber=True)
    rows = [{"prompt": f"{n}", "chosen": f"{n} " * 700, "rejected": "no"} for n in range(4_000)]
    with Counted().open("/x.parquet", "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows), file, compression=None, use_dictionary=False, data_page_size=1 << 16)
    source = Source(path="counted://x.parquet")
    Counted.asked.clear()
    spans = plan_spans(source, span_bytes=4 << 20)
    assert [(span.start, span.stop) for span in spans] == [(0, 1333), (1333, 2666), (2666, 4000)]
    assert [row.row for span in spans for row in read_span(span, source)] == [*range(1, 4001)]
    assert sum(Counted.asked) > 8 << 20 and max(Counted.asked) <= 2 << 20
