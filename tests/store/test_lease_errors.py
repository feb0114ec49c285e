"""A lease is released after an error, and a disk that cannot hold one is an error with words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raised import raises
from ratchet.errors import RunError
from ratchet.store import lease
from ratchet.store.lease import Wait, leased
from tests.store.test_lease import files, stranger


def test_an_error_lets_go(tmp_path: Path) -> None:
    with pytest.raises(KeyError), leased(tmp_path, what="x"):
        raise KeyError
    with leased(tmp_path, what="x") as second:
        assert second.generation == 2


def test_a_number_that_was_used_and_removed_is_not_taken_from_a_higher_one(tmp_path: Path) -> None:
    path = stranger(tmp_path, generation=7)
    with leased(tmp_path / "other", what="x") as probe:
        assert lease._take(tmp_path, 5, probe.holder) is None
        assert lease._take(tmp_path, 7, probe.holder) is None
    assert sorted(files(tmp_path)) == ["7.json", "other"]
    assert path.stat().st_size


def test_what_is_called_while_waiting_can_end_the_wait(tmp_path: Path) -> None:
    error = RunError("stopped")

    def stop() -> None:
        raise error

    stranger(tmp_path)
    with pytest.raises(RunError) as caught, leased(tmp_path, what="x", wait=Wait(look=stop)):
        pass
    assert caught.value is error
    assert files(tmp_path) == ["1.json"]


def test_a_disk_without_room_or_links_or_leave_to_write_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path; from ratchet.store.lease import leased\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try:\n    with leased(Path(sys.argv[1]), what='x'): pass\nexcept Exception as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "no space left on the disk" in done.stdout
    assert files(tmp_path) == []
    (tmp_path / "file").write_text("")
    with raises("storage.unusable"), leased(tmp_path / "file" / "x", what="x"):
        pass
    with raises("storage.no-links"), monkeypatch.context() as patched:
        patched.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
        with leased(tmp_path / "y", what="x"):
            pass
    assert files(tmp_path / "y") == []
