"""Checkpoints: whole or absent, verified before use, and fenced."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from raised import raises
from ratchet.errors import RunError, StorageError
from ratchet.store.fingerprint import digest_file
from ratchet.train.checkpoint import COMMITTED, MANIFEST, Checkpoints, Saved
from ratchet.train.communicate import Alone, agree
from ratchet.train.engine import save_tensors
from train_bench import flip


class Threads:
    """Workers that are threads: `run` calls a function with each one's communicator."""

    def __init__(self, world: int) -> None:
        self.world, self.barrier, self.slots = world, threading.Barrier(world, timeout=600), [None] * world

    def run(self, work: Callable[[Any], Any]) -> list[Any]:
        with ThreadPoolExecutor(self.world) as pool:
            return list(pool.map(lambda rank: _outcome(work, _Thread(self, rank)), range(self.world)))


class _Thread:
    def __init__(self, group: Threads, rank: int) -> None:
        self.group, self.rank, self.world = group, rank, group.world

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather(values)).sum(0)

    def gather(self, value: Any) -> list[Any]:
        self.group.slots[self.rank] = value
        self.group.barrier.wait()
        found = list(self.group.slots)
        self.group.barrier.wait()
        return found

    def reached(self, step: int) -> None:
        pass


def _outcome(work: Callable[[Any], Any], communicator: _Thread) -> Any:
    try:
        return work(communicator)
    except Exception as error:
        return error


def shards(rank: int, step: int) -> Callable[[Path], dict[Path, str]]:
    """A save of two files a worker, one in a folder below."""

    def write(folder: Path) -> dict[Path, str]:
        (folder / "engine").mkdir(exist_ok=True)
        files = [folder / f"rank-{rank}.bin", folder / "engine" / f"rank-{rank}.bin"]
        for place, path in enumerate(files):
            path.write_bytes(f"step {step} rank {rank} file {place} ".encode() * 50)
        return {path: digest_file(path) for path in files}

    return write


def save_steps(
    folder: Path, world: int, steps: list[int], losses: dict[int, float] | None = None, keep: int = 9
) -> list[Any]:
    def work(communicator: Any) -> list[str]:
        checkpoints = Checkpoints(folder, communicator, keep)
        for step in steps:
            facts = {"metrics": {"heldout/loss": losses[step]}} if losses else {}
            checkpoints.save(step, shards(communicator.rank, step), facts)
        return checkpoints.events

    return Threads(world).run(work)


def newest(folder: Path, world: int = 2) -> tuple[Saved | None, list[str]]:
    """What each of `world` workers finds; all must find the same."""

    def work(communicator: Any) -> tuple[Saved | None, list[str]]:
        checkpoints = Checkpoints(folder, communicator, 9)
        return checkpoints.newest(), checkpoints.events

    found = Threads(world).run(work)
    assert all(one[0] == found[0][0] for one in found), found
    return found[0]


FILES = ["rank-0.bin", "rank-1.bin", "engine/rank-0.bin", "engine/rank-1.bin", MANIFEST, COMMITTED]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(path: Path) -> None:
    """With the other worker's file of the same size, or the other kind of marker."""
    partners = dict(zip(FILES, ["rank-1.bin", "rank-0.bin", "engine/rank-1.bin", "engine/rank-0.bin"], strict=False))
    name = str(path.relative_to(path.parents[1] if path.parent.name == "engine" else path.parent))
    root = path.parents[1] if path.parent.name == "engine" else path.parent
    other = root / partners[name] if name in partners else root.parent / "step-000004" / name
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    if name in partners:
        other.write_bytes(mine)


@pytest.mark.heavy
@pytest.mark.parametrize("harm", [truncate, empty, flip, swap, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_every_harm_to_every_file_is_found(tmp_path: Path, name: str, harm: Callable[[Path], None]) -> None:
    save_steps(tmp_path, 2, [4, 8])
    harm(tmp_path / "checkpoints/step-000008" / name)
    found, events = newest(tmp_path)
    assert found is not None and found.step == 4
    assert len(events) == 1 and (events[0].code, events[0].checkpoint) == ("checkpoint-damaged", "step-000008")
    assert (tmp_path / "checkpoints/bad-step-000008").is_dir()
    # Once set aside it is out of the way: step 8 can be saved again, and counts.
    save_steps(tmp_path, 2, [8])
    again, events = newest(tmp_path)
    assert again is not None and again.step == 8 and not events


def test_a_foreign_file_makes_a_checkpoint_suspect(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, [4, 8])
    (tmp_path / "checkpoints/step-000008/rank-7.bin").write_text("left over")
    found, events = newest(tmp_path, 1)
    assert found is not None and found.step == 4 and "rank-7.bin does not belong" in events[0].what


def test_a_renamed_checkpoint_is_not_another_step(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, [4])
    (tmp_path / "checkpoints/step-000004").rename(tmp_path / "checkpoints/step-000012")
    found, events = newest(tmp_path, 1)
    assert found is None and "of step 4" in events[0].what


def test_all_bad_means_none(tmp_path: Path) -> None:
    save_steps(tmp_path, 2, [4, 8])
    for step in (4, 8):
        flip(tmp_path / f"checkpoints/step-{step:06d}/rank-1.bin")
    found, events = newest(tmp_path)
    assert found is None and len(events) == 2


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    losses = {2: 0.7, 4: 0.3, 6: 0.5, 8: 0.6, 10: 0.4}
    save_steps(tmp_path, 2, list(losses), losses, keep=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000004", "step-000008", "step-000010"]
    best = Checkpoints(tmp_path, Alone(), 2).best()
    assert best is not None and best.step == 4 and best.loss == 0.3


def test_without_a_held_out_loss_the_newest_is_the_best(tmp_path: Path) -> None:
    save_steps(tmp_path, 1, [2, 4, 6], keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000004", "step-000006"]
    best = Checkpoints(tmp_path, Alone(), 2).best()
    assert best is not None and best.step == 6


def test_a_full_disk_on_one_worker_stops_all_and_keeps_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_steps(tmp_path, 3, [4])
    monkeypatch.setenv("RATCHET_FAULT", "ckpt:disk_full@8#1")
    ends = save_steps(tmp_path, 3, [8])
    assert [type(end) for end in ends] == [StorageError] * 3
    assert "no space left" in str(ends[0]) and ends[0].exit_code == 74
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000004"]
    assert newest(tmp_path, 3)[0] is not None


def test_too_little_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet.train.checkpoint.free_bytes", lambda _folder: 2500)
    ends = save_steps(tmp_path, 2, [4, 8])
    assert [type(end) for end in ends] == [StorageError] * 2
    assert "goes on after step 4" in str(ends[1])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000004"]


def read_so_far() -> int:
    """The bytes that this process has asked the kernel to read."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_checkpoint_is_hashed_while_it_is_written_and_never_read_again(tmp_path: Path) -> None:
    state = {"masters": [torch.randn(1000, 500), torch.arange(7)], "step": 3}
    checkpoints = Checkpoints(tmp_path, Alone(), 2)
    before = read_so_far()
    saved = checkpoints.save(
        4, lambda folder: {folder / "state.pt": save_tensors(state, folder / "state.pt")}, {"step": 4}
    )
    read = read_so_far() - before
    assert saved.size > 2_000_000 and read < 0.05 * saved.size
    assert saved.files["state.pt"]["sha256"] == digest_file(saved.path / "state.pt")
    assert checkpoints.verify(saved)


def test_torch_on_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: torch gives no error number for either."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError):
            save_tensors({"weight": torch.zeros(100_000)}, tmp_path / "state.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def test_a_stale_worker_group_commits_nothing(tmp_path: Path) -> None:
    old = Checkpoints(tmp_path, Alone(), 2)
    old.save(4, shards(0, 4), {})
    new = Checkpoints(tmp_path, Alone(), 2)
    with raises("run.taken-over"):
        old.save(8, shards(0, 8), {})
    found = new.newest()
    assert found is not None and found.step == 4
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000004"]


def test_a_store_that_vanished_is_told_as_that_and_not_as_another_group(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    checkpoints = Checkpoints(folder, Alone(), 2)
    folder.rename(tmp_path / "unmounted")
    folder.mkdir()  # what is left is the bare folder that the disk was mounted on
    with raises("storage.gone") as caught:
        checkpoints.still_ours()
    assert caught.value.exit_code == 74 and "mount cluster.storage again" in caught.value.fix
    assert not list(folder.iterdir())


def test_a_group_that_goes_stale_while_it_writes_commits_nothing(tmp_path: Path) -> None:
    old = Checkpoints(tmp_path, Alone(), 2)

    def write(folder: Path) -> dict[Path, str]:
        Checkpoints(tmp_path, Alone(), 2)  # the network is back, and Ray has started others meanwhile
        return shards(0, 4)(folder)

    with raises("run.taken-over"):
        old.save(4, write, {})
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_a_group_that_goes_stale_while_the_disk_takes_its_time_commits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marker is written, and then the sync of a busy disk takes as long as Ray needs to start other workers."""
    old, sync = Checkpoints(tmp_path, Alone(), 2), os.fsync

    def slow(handle: int) -> None:
        sync(handle)
        if list(tmp_path.glob(f"checkpoints/.step-*.{old.attempt}/{COMMITTED}")):
            monkeypatch.setattr(os, "fsync", sync)
            Checkpoints(tmp_path, Alone(), 2)

    monkeypatch.setattr(os, "fsync", slow)
    with raises("run.taken-over"):
        old.save(4, shards(0, 4), {})
    assert os.fsync is sync
    assert not list((tmp_path / "checkpoints").iterdir())


def test_workers_that_see_different_folders_are_told(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, Alone(), 2)

    def write(folder: Path) -> dict[Path, str]:
        files = shards(0, 4)(folder)
        (folder / "stray.bin").write_text("a file that no worker names")
        return files

    with raises("storage.not-shared"):
        checkpoints.save(4, write, {})


def test_one_workers_error_is_everyones() -> None:
    def work(communicator: Any) -> int:
        def act() -> int:
            if communicator.rank == 1:
                raise RunError("only here")
            return communicator.rank

        return agree(communicator, act)

    assert [str(end) for end in Threads(3).run(work)] == ["only here"] * 3
