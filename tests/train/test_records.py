"""Learning rate, ledger, and the join with the reference."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from raised import raises
from ratchet.errors import CorruptError
from ratchet.reference.store import Logps
from ratchet.reference.store import write_block as write_scores
from ratchet.train.batches import Course, global_batches
from ratchet.train.data import join_reference
from ratchet.train.launch import train_result
from ratchet.train.ledger import Ledger, prove_ledger
from ratchet.train.optimiser import learning_rate, warmup_steps

THEIRS = {
    "cosine": get_cosine_schedule_with_warmup,
    "linear": get_linear_schedule_with_warmup,
    "constant": lambda optimizer, warm, _: get_constant_schedule_with_warmup(optimizer, warm),
}


def test_what_starting_took_is_apart_from_work_and_all_of_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 112.5)
    unasked = dict.fromkeys(("steps", "resumed_from", "workers", "token_budget", "peak_memory_mb"), 0)
    unasked |= dict.fromkeys(("counts", "metrics", "first", "published", "attempt", "unshared", "scored", "rehearsal"))
    work = {"setup": 1.5, "training": 6.0, "publishing": 0.25}
    found = train_result(unasked | {"events": [], "seconds": work}, 100.0)
    assert found.seconds == {"starting": 4.75, **work, "all": 12.5}


@pytest.mark.parametrize("kind", sorted(THEIRS))
@pytest.mark.parametrize(("total", "warmup"), [(1, 0.0), (10, 0.0), (10, 0.1), (37, 0.25), (100, 0.101)])
def test_after_the_warm_up_the_learning_rate_is_the_one_of_transformers(kind: str, total: int, warmup: float) -> None:
    """Theirs rises from 0: in its first step it trains nothing, which ours is one step ahead of."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    rise = int(np.ceil(warmup * total))
    theirs = THEIRS[kind](optimizer, rise, total)
    rates = []
    for _ in range(total + 1):
        rates.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    for step in range(1, total + 1):
        wanted = rates[step] if step <= rise else rates[step - 1]
        assert learning_rate(kind, 3e-4, step, total, warmup) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("kind", sorted(THEIRS))
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("total", [1, 2, 3, 10])
def test_every_step_has_a_learning_rate(kind: str, total: int, warmup: float) -> None:
    rates = [learning_rate(kind, 1.0, step, total, warmup) for step in range(1, total + 1)]
    assert min(rates) > 0 and max(rates) == 1.0
    assert rates[0] == 1 / max(1, warmup_steps(total, warmup))


COURSE = Course(rows=22, batch=8, epochs=2, seed=0)


def write_ledger(path: Path, course: Course = COURSE) -> None:
    ledger = Ledger(path, 0)
    for batch in global_batches(course):
        ledger.append(batch)
    ledger.close()


def test_a_whole_ledger_proves_itself(tmp_path: Path) -> None:
    write_ledger(tmp_path / "l")
    assert prove_ledger(tmp_path / "l", COURSE) == {"steps": 6, "pairs_seen": 44, "pairs": 22, "epochs": 2}


def test_a_capped_course_is_proved_too(tmp_path: Path) -> None:
    course = Course(22, 8, 2, 0, max_steps=5)
    write_ledger(tmp_path / "l", course)
    assert prove_ledger(tmp_path / "l", course)["pairs_seen"] == 38


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_last_epoch_is_proved_whole_like_every_other(tmp_path: Path, epochs: int) -> None:
    """Also where it is the only one, and where the steps end with it."""
    course = Course(22, 8, epochs, 0)
    write_ledger(tmp_path / "l", course)
    *lines, last = [json.loads(line) for line in (tmp_path / "l").read_text().splitlines()]
    lines.append({**last, "rows": last["rows"][:-1]})
    (tmp_path / "l").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with raises("training.ledger", f"epoch {epochs} missed 1"):
        prove_ledger(tmp_path / "l", course)


def _double(lines: list[dict]) -> list[dict]:
    return [*lines[:1], {**lines[1], "rows": [*lines[1]["rows"][:-1], lines[0]["rows"][0]]}, *lines[2:]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[:-1], "5 steps"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "order"),
        (lambda lines: [{**lines[0], "rows": lines[0]["rows"][1:]}, *lines[1:]], "missed 1 rows"),
        (_double, "1 rows twice"),
        (lambda lines: [{**lines[0], "rows": [22, *lines[0]["rows"][1:]]}, *lines[1:]], "outside"),
    ],
)
def test_a_ledger_that_is_wrong_proves_nothing(tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    write_ledger(tmp_path / "l")
    lines = change([json.loads(line) for line in (tmp_path / "l").read_text().splitlines()])
    (tmp_path / "l").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with raises("training.ledger", words):
        prove_ledger(tmp_path / "l", COURSE)


def test_a_ledger_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "l"
    write_ledger(path)
    stale = Ledger(path, 6)
    with path.open("a") as file:
        file.write('{"step": 7, "ep')
    ledger = Ledger(path, 4)
    for batch in global_batches(COURSE, 4):
        stale.append(batch)  # a worker of an older group still writes: into the file that was replaced
        ledger.append(batch)
    ledger.close()
    stale.close()
    assert prove_ledger(path, COURSE)["steps"] == 6


def test_a_ledger_that_lost_lines_does_not_go_on(tmp_path: Path) -> None:
    write_ledger(tmp_path / "l")
    with raises("corrupt.ledger", "1 to 7"):
        Ledger(tmp_path / "l", 7)


def test_a_line_that_is_damaged_is_named_by_its_number(tmp_path: Path) -> None:
    write_ledger(tmp_path / "l")
    lines = (tmp_path / "l").read_text().splitlines()
    (tmp_path / "l").write_text("\n".join([*lines[:2], lines[2][1:], *lines[3:]]) + "\n")
    with pytest.raises(CorruptError) as caught:
        prove_ledger(tmp_path / "l", COURSE)
    assert caught.value.where == f"{tmp_path / 'l'}:3"


def test_a_ledger_is_on_the_disk_once_it_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that loses its power after a checkpoint must not lose the lines that the checkpoint rests on."""
    ledger, synced, sync = Ledger(tmp_path / "l", 0), [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), sync(handle)))
    ledger.make_durable()
    ledger.close()
    assert synced == [(tmp_path / "l").stat().st_ino]


def write_block(folder: Path, ids: list[str], chosen: list[float], rejected: list[float], name: str = "000000") -> None:
    folder.mkdir(exist_ok=True)
    ones = np.ones(len(ids), np.int32)
    write_scores(folder, int(name), ids, Logps(np.array(chosen), np.array(rejected), ones, ones))


def test_the_reference_joins_by_id(tmp_path: Path) -> None:
    write_block(tmp_path / "a", ["c", "a"], [-3.0, -1.0], [-30.0, -10.0])
    write_block(tmp_path / "a", ["x"], [-9.0], [-90.0], "000001")
    write_block(tmp_path / "b", ["b", "a"], [-2.0, -7.0], [-20.0, -70.0])
    chosen, rejected = join_reference(["a", "b", "c"], [tmp_path / "a", tmp_path / "b"])
    assert chosen.tolist() == [-1.0, -2.0, -3.0]
    assert rejected.tolist() == [-10.0, -20.0, -30.0]


@pytest.mark.parametrize(
    ("ids", "chosen", "code", "first"),
    [
        (["a"], [-1.0], "data.no-score", "b"),
        (["a", "b", "b"], [-1.0, -2.0, -2.0], "data.scored-twice", "b"),
        (["a", "b"], [-1.0, float("nan")], "data.score-not-finite", "b"),
        (["a", "b"], [-float("inf"), -1.0], "data.score-not-finite", "a"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(
    tmp_path: Path, ids: list[str], chosen: list[float], code: str, first: str
) -> None:
    write_block(tmp_path / "a", ids, chosen, [-1.0] * len(ids))
    with raises(code) as caught:
        join_reference(["a", "b"], [tmp_path / "a"])
    assert caught.value.what.endswith(f" {first}")


def test_broken_and_missing_blocks_are_named(tmp_path: Path) -> None:
    with raises("data.no-score", "1 of 1"):
        join_reference(["a"], [tmp_path])
    (tmp_path / "block-000000.parquet").write_bytes(b"PAR1 not really")
    with raises("corrupt.scores", "block-000000"):
        join_reference(["a"], [tmp_path])
