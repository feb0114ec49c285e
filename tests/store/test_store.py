"""The store: fingerprints that cannot be mistaken, files that are whole or absent, one run at a time."""

from __future__ import annotations

import errno
import json
import math
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raised import raises
from ratchet import errors
from ratchet.errors import CorruptError, RatchetError
from ratchet.store.files import folder_aside, remove_leftovers, storage_errors, write_bytes, write_json
from ratchet.store.fingerprint import canonical, changed_keys, digest_files, fingerprint
from ratchet.store.made import hold
from ratchet.store.record import Record, read_json_or_none, read_record, write_record

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_fingerprint_outlives_json_and_the_order_of_keys(identity: dict[str, object]) -> None:
    shuffled = dict(reversed(list(identity.items())))
    assert fingerprint(identity) == fingerprint(shuffled) == fingerprint(json.loads(json.dumps(identity)))


def test_whole_floats_and_integers_are_one_number() -> None:
    assert fingerprint({"beta": 1}) == fingerprint({"beta": 1.0}) != fingerprint({"beta": 1.5})


@pytest.mark.parametrize("value", [{1, 2}, object(), math.nan, math.inf, Path("x"), b"x", {1: "x"}])
def test_a_value_without_a_stable_form_raises_and_names_its_key(value: object) -> None:
    with pytest.raises(TypeError, match=r"stages\[1\]\.beta"):
        canonical({"stages": [0, {"beta": value}]})


def test_changed_keys_name_what_differs() -> None:
    old = {"options": {"beta": 0.1, "seed": 0}, "start": "a"}
    new = {"options": {"beta": 0.3, "seed": 0}, "start": "a", "rows": None}
    assert changed_keys(old, new) == ["options.beta: 0.1 → 0.3"]


def test_digest_files_reads_content_and_not_place(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w").write_bytes(b"1" * 100)
    assert digest_files([tmp_path / "a/w"]) == digest_files([tmp_path / "b/w"])
    (tmp_path / "b/w").write_bytes(b"1" * 99 + b"2")
    assert digest_files([tmp_path / "a/w"]) != digest_files([tmp_path / "b/w"])


def test_files_that_swap_their_names_are_other_files(tmp_path: Path) -> None:
    """What `import helper` runs depends on which file is called helper."""
    for folder, contents in (("a", ("one", "two")), ("b", ("two", "one"))):
        (tmp_path / folder).mkdir()
        for name, content in zip(("model.py", "helper.py"), contents, strict=True):
            (tmp_path / folder / name).write_text(content)
    assert digest_files([*(tmp_path / "a").iterdir()]) != digest_files([*(tmp_path / "b").iterdir()])


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    write_bytes(tmp_path / "f", b"old")
    script = (
        "import resource, signal, sys; from pathlib import Path; from ratchet.store.files import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from ratchet.errors import RunError, StorageError\n"
        "try: write_bytes(Path(sys.argv[1]), b'n' * 5000)\n"
        "except StorageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "f")], capture_output=True, text=True, check=True
    )
    assert "no space left on the disk" in done.stdout
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_an_unfinished_folder_never_gets_its_name(tmp_path: Path) -> None:
    with pytest.raises(KeyError), folder_aside(tmp_path / "x") as aside:
        (aside / "half").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_goes_and_nothing_else(tmp_path: Path) -> None:
    for name in (".x.0a1b2c3d", ".x.deadbeef", ".xy.0a1b2c3d", ".x.backup", ".x.0A1B2C3D", "x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text("w")
    (tmp_path / ".x.12345678").symlink_to(tmp_path / "x")
    remove_leftovers(tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.0A1B2C3D", ".x.backup", ".xy.0a1b2c3d", "x"]
    assert (tmp_path / "x/weights").exists()


def test_who_wakes_up_after_another_took_over_is_told_so(tmp_path: Path) -> None:
    with raises("run.taken-over"), folder_aside(tmp_path / "x") as aside:
        remove_leftovers(tmp_path / "x")
        (aside / "half").write_text("half")
    with pytest.raises(FileNotFoundError), folder_aside(tmp_path / "x"):
        (tmp_path / "absent").read_text()
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_equal_folders_is_kept(tmp_path: Path) -> None:
    with folder_aside(tmp_path / "x") as late:
        (late / "f").write_text("late")
        with folder_aside(tmp_path / "x") as early:
            (early / "f").write_text("early")
    assert (tmp_path / "x/f").read_text() == "early"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_other_os_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), storage_errors(tmp_path):
        raise OSError(errno.EPIPE, "nobody reads")
    with raises("storage.read-only"), storage_errors(tmp_path):
        raise OSError(errno.EROFS, "read-only file system")


def test_a_record_comes_back_as_written_and_a_broken_one_says_so(tmp_path: Path) -> None:
    record = Record("pairs", "f" * 20, {"kind": "pairs"}, {"read": 3}, "2026-01-01T00:00:00Z", 1.5)
    assert read_record(tmp_path) is None
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert {"ratchet", "python", "torch", "ray"} <= set(record.versions)
    (tmp_path / "record.json").write_text('{"kind": 1')
    with raises("corrupt.document"):
        read_record(tmp_path)


def test_json_or_none(tmp_path: Path) -> None:
    assert read_json_or_none(tmp_path / "x") is None
    write_json(tmp_path / "x", {"ä": 1})
    assert read_json_or_none(tmp_path / "x") == {"ä": 1}
    (tmp_path / "x").write_text("{")
    with pytest.raises(CorruptError):
        read_json_or_none(tmp_path / "x")


def test_a_second_run_on_a_folder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from ratchet.store.made import hold\n"
        "with hold(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with raises("run.held", f"process {other.pid} on "), hold(tmp_path):
            pass
        other.kill()  # not a clean end: the system must let go by itself
    with hold(tmp_path):
        pass


def test_every_error_crosses_a_process_border_and_has_its_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RatchetError)]
    assert {kind.__name__: kind.exit_code for kind in kinds} == {
        "RatchetError": 1, "PlanError": 2, "DataError": 3, "ModelError": 4, "TrainingError": 5, "RunError": 6,
        "ClusterError": 69,
        "EndpointError": 69,
        "EngineDeathError": 69, "StoppedError": 75, "StorageError": 74, "CorruptError": 74,
    }  # fmt: skip
    for kind in kinds:
        error = pickle.loads(pickle.dumps(kind("what", where="file:3", fix="do this")))  # noqa: S301
        assert type(error) is kind
        assert str(error) == "file:3: what\n  do this"
