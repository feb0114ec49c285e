"""Harm to what two workers of DeepSpeed left behind: the checkpoint's files, and Ray's own snapshot of a run."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet.train.checkpoint import COMMITTED, MANIFEST
from tests.train.test_checkpoint import empty, newest, truncate
from train_bench import flip
from train_ray_bench import assert_same_end, go, spec_at

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
NEWEST, BEFORE = "step-000012", "step-000008"


@pytest.fixture(scope="module")
def base(session: None, inputs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ZeRO-2 on two workers, uninterrupted."""
    folder = tmp_path_factory.mktemp("base")
    go(spec_at(folder, inputs, zero=2, workers=2))
    return folder


def other_rank(path: Path) -> Path | None:
    """The file of the other rank that stands beside this one's, if there is one."""
    name = re.sub(r"(?<=_pp_rank_)[01]", lambda rank: str(1 - int(rank[0])), path.name)
    return path.with_name(name) if name != path.name else None


def swap(path: Path) -> None:
    """With the other rank's shard; a file that has no other becomes that of the checkpoint before."""
    other = other_rank(path)
    theirs = (other or Path(str(path).replace(NEWEST, BEFORE))).read_bytes()
    mine = path.read_bytes()
    assert mine != theirs
    path.write_bytes(theirs)
    if other is not None:
        other.write_bytes(mine)


def unlinked(source: Path, folder: Path) -> Path:
    """A copy of a run's checkpoints of which each file is its own."""
    shutil.copytree(source / "checkpoints", folder / "checkpoints")
    return folder / "checkpoints" / NEWEST


@pytest.mark.parametrize("harm", [truncate, empty, flip, swap, Path.unlink])
def test_every_harm_to_every_file_of_two_ranks_is_found(
    base: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    files = sorted(path.relative_to(base) for path in (base / "checkpoints" / NEWEST).rglob("*") if path.is_file())
    shards = [path for path in files if other_rank(base / path)]
    assert len(shards) >= 2 and {MANIFEST, COMMITTED} < {path.name for path in files}
    for number, path in enumerate(files):
        unlinked(base, tmp_path / str(number))
        harm(tmp_path / str(number) / path)
        found, events = newest(tmp_path / str(number))
        assert found is not None and found.path.name == BEFORE, path
        assert [(event.code, event.checkpoint) for event in events] == [("checkpoint-damaged", NEWEST)], path
        assert (tmp_path / str(number) / "checkpoints" / f"bad-{NEWEST}").is_dir()


SNAPSHOTS = [
    b"",
    b'{"ray_version": "2.60.0", "checkpoint_resul',
    b'{"ray_version": "1.0.0", "other": []}',
    os.urandom(64),
]


def test_swapped_shards_and_broken_snapshots_of_ray_cost_one_checkpoint_and_no_bit(
    base: Path, inputs: dict[str, Any], tmp_path: Path
) -> None:
    """As a killed driver leaves them: what is left of Ray's folders is not read, and goes."""
    run = tmp_path / "run"
    shutil.copytree(base, run)
    shutil.rmtree(run / "model")
    swap(next(path for path in (run / "checkpoints" / NEWEST).rglob("*.pt") if other_rank(path)))
    for number, content in enumerate(SNAPSHOTS):
        left = run / f".ray-align-{number}" / f"align-{number}"
        left.mkdir(parents=True)
        (left / "checkpoint_manager_snapshot.json").write_bytes(content)
    result = go(spec_at(run, inputs, zero=2, workers=2))
    assert result.resumed_from == 8
    assert [event.checkpoint for event in result.events if event.code == "checkpoint-damaged"] == [NEWEST]
    assert not list(run.glob(".ray-*"))
    shutil.rmtree(run / "checkpoints" / f"bad-{NEWEST}")
    assert_same_end(run, base)
