"""A finished pass in one file: how many files are opened, what a changed bit costs, and kills in between."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raised import raises
from ratchet.fsck.examine import fsck
from ratchet.reference import store
from ratchet.reference.pack import INDEX, MOST_BLOCKS, SCORES
from ratchet.reference.store import Logps, block_path, block_paths, blocks, finish, finished_files, write_block
from ratchet.store.record import NAME, Record, sound_record, write_record
from ratchet.train.data import join_reference

RECORD = Record("logps", "f" * 20, {"rows": "all"}, {}, "2026-01-01T00:00:00Z", 1.5)
_opened: list[str] = []
_listening: list[bool] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _listening:
        _opened.append(str(arguments[0]))


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sys.addaudithook(_hear)  # Python has no way to take it out again: outside of `opens` it does nothing


def opens(folder: Path, work: Callable[[], object]) -> list[str]:
    """Return the names of the files of `folder` that `work` opens, each as often as it does."""
    _opened.clear()
    _listening.append(True)
    try:
        work()
    finally:
        _listening.clear()
    return sorted(Path(path).name for path in _opened if Path(path).parent == folder)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(store, "BLOCK", 2)
    # The disk's own time is nothing to wait for here: what a kill leaves is made by hand.
    monkeypatch.setattr("os.fsync", lambda handle: None)
    yield


def scored(folder: Path, count: int) -> tuple[list[str], Logps]:
    """Write `count` blocks, the last one shorter, as a pass leaves them before it is finished."""
    rows = 2 * count - 1
    rng = np.random.default_rng(count)
    counts = rng.integers(1, 9, (2, rows)).astype(np.int32)
    ids = [f"{row:032x}" for row in range(rows)]
    logps = Logps(-rng.exponential(20, rows), -rng.exponential(20, rows), counts[0], counts[1])
    for number, start, end in blocks(rows):
        write_block(folder, number, ids[start:end], logps.at(np.arange(start, end)))
    return ids, logps


def finished(folder: Path, count: int) -> tuple[list[str], Logps]:
    ids, logps = scored(folder, count)
    finish(folder, RECORD, store.block_rows(folder))
    return ids, logps


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 4
    path.write_bytes(bytes(data))


def test_a_reader_opens_each_file_once_however_many_blocks_there_were(tmp_path: Path) -> None:
    for count in (MOST_BLOCKS + 1, 30):
        folder = tmp_path / str(count)
        ids, logps = finished(folder, count)
        order = np.random.default_rng(1).permutation(len(ids))
        found: list[Any] = []
        names = opens(folder, lambda: found.append(join_reference([ids[at] for at in order], [folder])))  # noqa: B023
        assert names == [NAME, SCORES] and block_paths(folder) == []
        assert found[0][0].tobytes() == logps.chosen[order].tobytes()
        assert found[0][1].tobytes() == logps.rejected[order].tobytes()
    few = tmp_path / "few"
    finished(few, MOST_BLOCKS)
    assert len(block_paths(few)) == MOST_BLOCKS and not (few / SCORES).exists()


def test_finishing_reads_each_block_once(tmp_path: Path) -> None:
    """`score_jobs` proves and packs what it read once: a block's own digest is opened for that, and no other time."""
    ids, _ = scored(tmp_path, 12)

    def end() -> None:
        rows = store.block_rows(tmp_path)
        store.proved(rows, tmp_path, ids)
        finish(tmp_path, RECORD, rows)

    names = opens(tmp_path, end)
    assert [names.count(f"block-{number:06d}.sha256") for number in range(12)] == [1] * 12


def test_a_store_of_single_blocks_is_still_read(tmp_path: Path) -> None:
    ids, logps = scored(tmp_path, 20)
    write_record(tmp_path, RECORD, finished_files(tmp_path))
    assert sound_record(tmp_path) is not None
    assert join_reference(ids, [tmp_path])[0].tobytes() == logps.chosen.tobytes()


def test_a_changed_bit_costs_its_block_and_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids, logps = finished(tmp_path, 12)
    whole = (tmp_path / SCORES).read_bytes()
    # The tenth pair's own bytes: pairs 9 and 10 are block 4.
    flip(tmp_path / SCORES, whole.index(logps.chosen[9:10].tobytes()))
    with raises("corrupt.scores", SCORES):
        join_reference(ids, [tmp_path])
    assert sound_record(tmp_path) is None
    assert store.missing_blocks(tmp_path, len(ids)) == [(4, 8, 10)] and "1 of its blocks" in caplog.text
    assert not (tmp_path / SCORES).exists() and not (tmp_path / INDEX).exists()
    write_block(tmp_path, 4, ids[8:10], logps.at(np.arange(8, 10)))
    finish(tmp_path, RECORD, store.block_rows(tmp_path))
    assert (tmp_path / SCORES).read_bytes() == whole and block_paths(tmp_path) == []


@pytest.mark.parametrize(("name", "kept"), [(SCORES, 0), (INDEX, 0), (NAME, 12)])
def test_without_its_schema_or_index_all_is_scored_again_and_without_its_record_nothing(
    tmp_path: Path, name: str, kept: int
) -> None:
    ids, _ = finished(tmp_path, 12)
    flip(tmp_path / name, 40)
    assert sound_record(tmp_path) is None
    assert len(store.missing_blocks(tmp_path, len(ids))) == 12 - kept


@pytest.mark.parametrize("at", ["before the file", "before the record", "before the blocks go"])
def test_a_kill_at_any_moment_costs_nothing(tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, logps = scored(tmp_path, 12)
    step = {
        "before the file": "write_pack",
        "before the record": "write_record",
        "before the blocks go": "remove_block",
    }

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, step[at], killed)
        finish(tmp_path, RECORD, store.block_rows(tmp_path))
    done = sound_record(tmp_path) is not None
    assert done == (at == "before the blocks go")
    assert join_reference(ids, [tmp_path])[0].tobytes() == logps.chosen.tobytes()
    if not done:
        assert store.missing_blocks(tmp_path, len(ids)) == [], "all blocks are there"
        finish(tmp_path, RECORD, store.block_rows(tmp_path))
        assert sound_record(tmp_path) is not None and block_paths(tmp_path) == []


def test_fsck_removes_blocks_that_were_packed_and_saves_those_of_a_damaged_file(tmp_path: Path) -> None:
    folder = tmp_path / "store/logps/l"
    ids, logps = finished(folder, 12)
    write_block(folder, 3, ids[6:8], logps.at(np.arange(6, 8)))
    told: list[Any] = []
    assert fsck(tmp_path, dry_run=False, say=told.append) == 1
    assert [one.part.state for one in told] == ["ok", "leftover"] and block_paths(folder) == []
    flip(folder / SCORES, (folder / SCORES).read_bytes().index(logps.chosen[9:10].tobytes()))
    told.clear()
    assert fsck(tmp_path, dry_run=False, say=told.append) == 1
    assert "11 of them unpacked" in told[0].done and not (folder / NAME).exists()
    assert block_paths(folder) == [block_path(folder, at) for at in range(12) if at != 4]
    assert fsck(tmp_path, dry_run=True, say=told.append) == 0


def test_rows_keep_their_order(tmp_path: Path) -> None:
    """`read_all` and `ids_in`, which sweeps use, see the rows in the order in which they were made."""
    ids, logps = finished(tmp_path, 20)
    assert store.ids_in(tmp_path) == ids
    assert store.read_all(tmp_path).chosen_tokens.tobytes() == logps.chosen_tokens.tobytes()
