"""Storage that cannot be used, and output that a terminal cannot write: told in words, never by a traceback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nightly import nightly
from raised import raises
from ratchet import cli
from ratchet.commands.plans import _MARKS
from ratchet.commands.terminal import LOOKALIKES
from ratchet.errors import StorageError
from ratchet.pipeline.session import native_noise_to
from ratchet.store.files import open_storage, write_text
from ratchet.store.lease import leased


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("a-file", "is a file, not a folder"),
        ("a-file/below", "is a file, not a folder"),
        ("/proc/ratchet/below", "no folder can be made here"),
        ("x" * 300, "cannot be used: File name too long"),
        ("loop/below", "cannot be used: Too many levels of symbolic links"),
        ("dangling", "is a file, not a folder"),
    ],
)
def test_the_first_touch_tells_what_stands_in_the_way(tmp_path: Path, place: str, said: str) -> None:
    (tmp_path / "a-file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("a-file")
    with pytest.raises(StorageError) as raised:
        open_storage(tmp_path / place)
    assert raised.value.what == said
    assert raised.value.exit_code == 74
    assert "cluster.storage" in raised.value.fix


def test_a_storage_that_can_be_used_is_left_as_it_was(tmp_path: Path) -> None:
    open_storage(tmp_path / "a/b")
    assert list((tmp_path / "a/b").iterdir()) == []


def test_a_lease_below_a_file_and_a_report_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    with raises("storage.unusable"), leased(tmp_path / "a-file/x", what="it"):
        pass
    (tmp_path / "report.html").mkdir()
    with raises("storage.unusable"):
        write_text(tmp_path / "report.html", "x")


def test_every_command_touches_the_storage_before_it_loads_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is none that could be loaded, and is not reached; `evaluate` has no plan whose storage was checked."""
    monkeypatch.chdir(tmp_path)
    Path("out").write_text("")
    Path("model").mkdir()
    Path("story.txt").write_text("Once.")
    Path("suite.yaml").write_text("tasks: {story: {kind: perplexity, rows: {path: story.txt}}}\n")
    assert cli.main(["evaluate", "model", "suite.yaml", "--storage", "out"]) == 2
    assert "--storage: it is a file" in capsys.readouterr().err


@pytest.mark.heavy
@pytest.mark.parametrize("encoding", nightly(["ascii", "latin-1", "cp1252"], lambda encoding: encoding == "ascii"))
def test_what_a_terminal_has_no_sign_for_becomes_one_that_it_has(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [
        sys.executable,
        "-m",
        "ratchet.cli",
        "show",
        "jobs/quickstart.yaml",
        "--set",
        "cluster.storage=/dev/shm/no",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert "o sums" in text and "`- o" in text and "?" not in text


def test_each_mark_of_show_stays_one_of_its_own() -> None:
    written = [mark.encode("ascii", LOOKALIKES) for mark in _MARKS.values()]
    assert len(set(written)) == len(_MARKS) and all(len(one) == 1 for one in written)
    assert "a name \udcff, 木".encode(errors=LOOKALIKES) == "a name ?, 木".encode()


def test_a_run_writes_every_sign_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While native noise is kept off the terminal, lines go there by another stream, of the same encoding."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=LOOKALIKES)
    monkeypatch.setattr(sys, "stderr", terminal)
    with native_noise_to(tmp_path / "native.log"):
        assert (sys.stderr.encoding, sys.stderr.errors) == ("ascii", LOOKALIKES)
