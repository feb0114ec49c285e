"""The journal: what was answered is never asked for again, whatever ended the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endpoint_server import Server, serving, slow, well
from nightly import examples
from raised import raises
from ratchet.pairs.pair import Turn
from ratchet.serving.endpoint import Endpoint, EndpointSettings
from ratchet.serving.journal import Journal
from ratchet.serving.requests import Answer, ChatRequest, CompletionRequest, Request, ScoreRequest, answer_key
from ratchet.store.append import checked_line
from recorded_engine import RecordedEngine

ROOT = Path(__file__).resolve().parents[2]
REQUESTS: list[Request] = [ChatRequest((Turn("user", "é\n\ud800"),)), CompletionRequest((5, 6)), ScoreRequest((5, 6))]
ANSWERS = [Answer("ß\u2028\ud800", "stop", 7, 2), Answer("", "length"), Answer("", "stop", 2, 0, (None, -0.1))]


def chats(count: int) -> list[Request]:
    return [ChatRequest((Turn("user", str(i)),)) for i in range(count)]


def ask(server: Server, path: Path, requests: list[Request], **settings: object) -> list[str]:
    fields = {"base_url": server.url, "model": "m", "allow_private": True, **settings}
    with Journal(path) as journal:
        return [answer.text for answer in Endpoint(EndpointSettings(**fields), journal).answer(requests)]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of the three answers."""
    path = tmp_path_factory.mktemp("journal") / "deep" / "journal.jsonl"
    with Journal(path) as journal:
        for request, answer in zip(REQUESTS, ANSWERS, strict=True):
            journal.append("m", request, answer)
    return path


def test_answers_come_back_as_they_were(written: Path) -> None:
    with Journal(written) as journal:
        assert [journal.find(answer_key("m", request)) for request in REQUESTS] == ANSWERS
        assert answer_key("other", REQUESTS[0]) not in journal
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert lines[1]["request"]["prompt"] == [5, 6]
    assert [line["key"] for line in lines] == [answer_key("m", request) for request in REQUESTS]


@settings(max_examples=examples(30))
@given(st.data())
def test_wherever_the_last_line_is_cut_the_others_are_kept(written: Path, data: st.DataObject) -> None:
    raw = written.read_bytes()
    lines = raw.splitlines(keepends=True)
    cut = data.draw(st.integers(0, len(raw)))
    tail = data.draw(st.sampled_from([b"", b"\0" * 9, b"\0\n", b'{"key": 1}\n', b"[]\n", b"\xff\n"]))
    end = len(raw[:cut]) - len(raw[:cut].rpartition(b"\n")[2])
    kept = raw[:end].count(b"\n")
    torn = written.with_name("torn.jsonl")
    torn.write_bytes(raw[:cut] + tail if end < cut else raw[:end] + tail)
    with Journal(torn) as journal:
        assert torn.read_bytes() == raw[:end] == b"".join(lines[:kept])
        for request, answer in list(zip(REQUESTS, ANSWERS, strict=True))[kept:]:
            assert answer_key("m", request) not in journal
            journal.append("m", request, answer)
        assert [journal.find(answer_key("m", request)) for request in REQUESTS] == ANSWERS
    assert torn.read_bytes() == raw


@pytest.mark.parametrize(
    ("change", "lost", "says"),
    [
        (lambda lines: [lines[0], lines[1][:-9] + b"\n", lines[2]], [1], "line 2: "),
        (lambda lines: [lines[0].replace(b"user", b"system"), *lines[1:]], [0], "line 1: its check does not fit"),
        (lambda lines: [lines[0].replace(b'"text":"', b'"other":"'), *lines[1:]], [0], "line 1: its check"),
        (lambda lines: [lines[0], lines[1].replace(b'"text":""', b'"text":"x"'), lines[2]], [1], "line 2: its check"),
        (lambda lines: [lines[0], lines[1][:-1] + lines[2], lines[0]], [1, 2], "line 2: "),
    ],
)
def test_a_line_that_was_changed_is_asked_for_again_and_no_other(
    written: Path, tmp_path: Path, change: Any, lost: list[int], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(change(written.read_bytes().splitlines(keepends=True))))
    for opening in range(2):
        with Journal(path) as journal:
            keys = [answer_key("m", request) for request in REQUESTS]
            assert [number for number, key in enumerate(keys) if key not in journal] == ([] if opening else lost)
            for number in [] if opening else lost:
                journal.append("m", REQUESTS[number], ANSWERS[number])
            assert [journal.find(key) for key in keys] == ANSWERS
        assert len(caplog.records) == opening + 1 and says in caplog.records[0].getMessage()


def test_two_answers_to_a_request_are_refused(written: Path, tmp_path: Path) -> None:
    path, line = tmp_path / "journal.jsonl", written.read_bytes().splitlines()[1]
    body = json.loads(line.replace(b'"text":""', b'"text":"x"'))
    body.pop("check")
    path.write_bytes(written.read_bytes() + checked_line(body))
    with raises("corrupt.two-answers") as caught:
        Journal(path)
    assert caught.value.where.endswith(":4")


def test_the_same_answer_twice_is_one(written: Path, tmp_path: Path) -> None:
    (tmp_path / "both.jsonl").write_bytes(written.read_bytes() * 2)
    with RecordedEngine(tmp_path / "both.jsonl", "m") as recorded:
        assert recorded.answer(REQUESTS) == ANSWERS


def test_a_journal_is_written_by_one_process_alone(written: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ratchet.serving.journal import Journal; Journal(Path(sys.argv[1]))"
    )
    with Journal(written):
        done = subprocess.run([sys.executable, "-c", code, str(written)], **quiet(), check=False)
        with raises("run.held"):
            Journal(written)
        with RecordedEngine(written, "m") as recorded:  # reading is free
            assert recorded.answer(REQUESTS) == ANSWERS
    assert "RunError" in done.stderr
    Journal(written).close()


def quiet() -> dict[str, object]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    return {"env": environment, "cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from ratchet.serving.journal import Journal\n"
        "from ratchet.serving.requests import Answer, CompletionRequest, answer_key\n"
        "from ratchet.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "with Journal(Path(sys.argv[1])) as journal:\n"
        "    journal.append('m', CompletionRequest('a'), Answer('x', 'stop'))\n"
        "    try: journal.append('m', CompletionRequest('b'), Answer('x' * 2000, 'stop'))\n"
        "    except StorageError as error: print(error)\n"
        "    print(answer_key('m', CompletionRequest('b')) in journal)\n"
        "    journal.append('m', CompletionRequest('c'), Answer('y', 'stop'))\n"
    )
    path = tmp_path / "journal.jsonl"
    done = subprocess.run([sys.executable, "-c", code, str(path)], **quiet(), check=False)
    assert "no space left on the disk" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
    assert [json.loads(line)["answer"]["text"] for line in path.read_bytes().splitlines()] == ["x", "y"]


ASK = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to Ctrl-C
from pathlib import Path
from ratchet.pairs.pair import Turn
from ratchet.serving.endpoint import Endpoint, EndpointSettings
from ratchet.serving.journal import Journal
from ratchet.serving.requests import ChatRequest
settings = EndpointSettings(sys.argv[1], "m", concurrency=2, allow_private=True)
with Journal(Path(sys.argv[2])) as journal:
    Endpoint(settings, journal).answer([ChatRequest((Turn("user", str(i)),)) for i in range(8)])
"""


@pytest.mark.heavy
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_after_a_kill_or_ctrl_c_nothing_that_was_answered_is_asked_again(
    server: Server, tmp_path: Path, how: signal.Signals
) -> None:
    server.script.extend([well, well, well, slow(5), slow(5)])
    path = tmp_path / "journal.jsonl"
    process = subprocess.Popen([sys.executable, "-c", ASK, server.url, str(path)], **quiet())
    while len(server.said) < 5 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(how)
    _, said = process.communicate()
    assert process.returncode == -how, said
    if how == signal.SIGINT:
        assert "KeyboardInterrupt" in said
    raw = path.read_bytes()
    assert raw.endswith(b"\n")
    before = [json.loads(line)["request"]["turns"][0]["content"] for line in raw.splitlines()]
    assert len(before) == 3
    with path.open("ab") as file:  # and the kill had come in the middle of a fourth
        file.write(raw.splitlines()[0][:-30])

    asked = len(server.said)
    assert ask(server, path, chats(8)) == [f"re: {i}" for i in range(8)]
    assert sorted(server.said[asked:]) == sorted({str(i) for i in range(8)} - {*before})
    assert ask(server, path, chats(8)) == [f"re: {i}" for i in range(8)]
    assert len(server.said) == asked + 5
    assert len(path.read_bytes().splitlines()) == 8


def test_another_model_or_another_request_is_asked(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    ask(server, path, chats(1))
    ask(server, path, chats(2))
    ask(server, path, chats(2), model="n")
    assert [(body["model"], body["messages"][0]["content"]) for body in server.bodies[:2]] == [("m", "0"), ("m", "1")]
    assert len(server.bodies) == 4


def test_a_journal_is_replayed_without_a_server(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    texts = ask(server, path, chats(3))
    raw = path.read_bytes()
    path.write_bytes(raw + raw[:20])
    with RecordedEngine(path, "m") as recorded:
        assert [answer.text for answer in recorded.answer(chats(3)[::-1])] == texts[::-1]
        with raises("data") as caught:
            recorded.answer(chats(5))
        assert answer_key("m", chats(4)[3]) in caught.value.what
    with RecordedEngine(path, "n") as recorded, raises("data"):
        recorded.answer(chats(1))
    assert path.read_bytes() == raw + raw[:20], "a recording is only read"
    with raises("data"):
        RecordedEngine(tmp_path / "absent.jsonl", "m")
