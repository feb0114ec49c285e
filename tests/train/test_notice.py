"""What training is told while it trains: what is saved then, and that the workers that go on come to the same end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nightly import nightly
from ratchet.plan.training import Checkpoint
from ratchet.train.checkpoint import newest_step
from ratchet.train.notice import Ended, Kind, Notice, read_notice, write_notice
from ratchet.train.objective import Data
from train_bench import Pairs, lines_of, reference_of, same, spec_of, state_of, timeless, tiny_model, train

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def data() -> Data:
    table = Pairs(22)
    return Data(table, reference_of(tiny_model(), table))


@pytest.fixture(scope="module")
def whole(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = spec_of(tmp_path_factory.mktemp("whole"))
    return spec, state_of(train(spec, data).engine)


def told_at(monkeypatch: pytest.MonkeyPatch, step: int, kind: Kind) -> None:
    """Let the notice come while a step is under way: the driver's word may come at any moment."""
    looks = iter(range(1, 1000))

    def seen(folder: Path, stop_file: str | None) -> Notice | None:
        if next(looks) == step:
            write_notice(folder, Notice(kind, "for a reason"))
        return read_notice(folder, stop_file)

    monkeypatch.setattr("train_bench.read_notice", seen)


TOLD = [("stop", 1, 1), ("stop", 6, 6), ("stop", 8, 8), ("leave", 5, 5), ("grow", 5, 8), ("grow", 4, 4), ("grow", 1, 4)]
"""What is told, at which step, and after which step training ends."""


@pytest.mark.parametrize(
    ("kind", "at", "ends"),
    nightly(
        TOLD,
        lambda kind, at, ends: at == 5 or (kind, at) == ("stop", 6),
    ),
)
def test_training_that_was_told_to_end_is_saved_and_goes_on_to_the_same_bits(
    tmp_path: Path, data: Data, whole: Any, monkeypatch: pytest.MonkeyPatch, kind: Kind, at: int, ends: int
) -> None:
    base, state = whole
    spec = dataclasses.replace(base, folder=str(tmp_path))
    with monkeypatch.context() as patch:
        told_at(patch, at, kind)
        with pytest.raises(Ended) as ended:
            train(spec, data)
    assert (ended.value.step, ended.value.notice) == (ends, Notice(kind, "for a reason"))
    assert newest_step(tmp_path) == ends == lines_of(tmp_path)[-1]["step"]
    write_notice(tmp_path, None)
    done = train(spec, data)
    assert done.resumed == ends and same(state_of(done.engine), state)
    assert timeless(tmp_path) == timeless(Path(base.folder))
    assert (tmp_path / "ledger.jsonl").read_text() == (Path(base.folder) / "ledger.jsonl").read_text()


@pytest.mark.parametrize("kind", nightly(["stop", "leave", "grow", "drop"], lambda kind: kind in {"stop", "drop"}))
def test_at_the_last_step_there_is_nothing_left_to_end(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    told_at(monkeypatch, 3, kind)
    bench = train(spec_of(tmp_path, max_steps=3), data)
    assert bench.result is not None and bench.result.steps == 3


def test_a_dropped_trial_saves_nothing_that_was_not_due(
    tmp_path: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_at(monkeypatch, 3, "drop")
    with pytest.raises(Ended):
        train(spec_of(tmp_path, checkpoint=Checkpoint(every=2)), data)
    assert newest_step(tmp_path) == 2


def test_a_notice_can_be_taken_back(tmp_path: Path) -> None:
    write_notice(tmp_path, Notice("leave", "node abc is being taken away"))
    assert read_notice(tmp_path, None) == Notice("leave", "node abc is being taken away")
    write_notice(tmp_path, None)
    write_notice(tmp_path, None)
    assert read_notice(tmp_path, None) is None


def test_a_sweeps_word_comes_first(tmp_path: Path) -> None:
    write_notice(tmp_path, Notice("stop", "asked to stop by SIGTERM"))
    (tmp_path / "stop.json").touch()
    found = read_notice(tmp_path, str(tmp_path / "stop.json"))
    assert found is not None and found.kind == "drop" and not found.saves
