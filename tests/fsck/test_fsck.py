"""`ratchet fsck`: every kind of damage is told and mended, once, and nothing that a living process holds is touched."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bits import flip
from raised import raises
from ratchet.cli import main
from ratchet.fsck.examine import FINE, MENDED, WRONG, Outcome, fsck
from ratchet.pipeline.step_folder import write_step_record
from ratchet.serving.journal import UnitJournal
from ratchet.serving.requests import Answer
from ratchet.store.append import checked_line
from ratchet.store.files import read_sealed, write_sealed
from ratchet.store.layout import Layout
from ratchet.store.lease import leased
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.communicate import Alone
from store_example import record, write_store

DAMAGE = {
    "store/pairs/p/train.parquet": "store/pairs/p",
    "store/tokens/t/train.arrow": "store/tokens/t",
    "store/models/m/model.safetensors": "store/models/m",
    "store/rehearsals/h/record.json": "store/rehearsals/h",
    "store/logps/l/block-000001.parquet": "store/logps/l",
    "store/steps/s/model/model.safetensors": "store/steps/s",
    "runs/plan/steps/align/masters/masters.safetensors": "runs/plan/steps/align",
    "store/answers/a.jsonl": "store/answers/a.jsonl",
    "store/judgments/j.jsonl": "store/judgments/j.jsonl",
    "store/requests/task-k.requests": "store/requests/task-k.requests",
    "store/datasets/d/test.arrow": "store/datasets/d",
    "store/scores/r/items.parquet": "store/scores/r",
    "store/answered/k.json": "store/answered/k.json",
    "runs/plan/steps/align/record.json": "runs/plan/steps/align",
    "runs/plan/orders/align.json": "runs/plan/orders/align.json",
    "sweeps/s/trials/t1/trial.json": "sweeps/s/trials/t1/trial.json",
}
LEASES = {
    "store/pairs/p": "pairs-p", "store/tokens/t": "tokens-t", "store/models/m": "models-m", "store/steps/s": "step-s",
    "store/rehearsals/h": "rehearsals-h",
    "store/answers/a.jsonl": "answers-a", "store/judgments/j.jsonl": "judgments-j",
    "sweeps/s/trials/t1/trial.json": "trial-s-t1", "store/datasets/d": "datasets",
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("sound")).root


@pytest.fixture
def layout(sound: Path, tmp_path: Path) -> Layout:
    return Layout(shutil.copytree(sound, tmp_path / "copy"))


def look(layout: Layout, *, dry_run: bool = False) -> tuple[int, list[Outcome]]:
    found: list[Outcome] = []
    return fsck(layout.root, dry_run=dry_run, say=found.append), found


def wrong(layout: Layout, found: list[Outcome]) -> list[str]:
    return [str(one.part.path.relative_to(layout.root)) for one in found if one.part.wrong]


def contents(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file() and "lease" not in str(path.relative_to(root)))
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_sound_store_is_left_as_it_is(layout: Layout) -> None:
    before = contents(layout.root)
    status, found = look(layout)
    assert status == FINE and {one.part.state for one in found} == {"ok"} and contents(layout.root) == before
    assert {str(one.part.path.relative_to(layout.root)) for one in found} == {*DAMAGE.values()}


@pytest.mark.parametrize("file", DAMAGE)
def test_each_kind_of_damage_is_told_mended_and_then_gone(layout: Layout, file: str) -> None:
    path = layout.root / file
    flip(path, path.stat().st_size // 2)
    damaged = contents(layout.root)
    status, found = look(layout, dry_run=True)
    assert (status, wrong(layout, found)) == (WRONG, [DAMAGE[file]]) and contents(layout.root) == damaged
    status, found = look(layout)
    assert (status, wrong(layout, found)) == (MENDED, [DAMAGE[file]])
    status, found = look(layout)
    assert status == FINE and not wrong(layout, found)
    lost = set(damaged) - set(contents(layout.root))
    assert all(name.startswith(DAMAGE[file]) for name in lost)
    if "block" in file:
        assert not path.exists() and (path.parent / "block-000000.parquet").exists()
    if "jsonl" in file:
        assert path.read_bytes().count(b"\n") == 5


@pytest.mark.parametrize("file", [file for file, part in DAMAGE.items() if part in LEASES])
def test_what_a_living_process_makes_is_left_alone(layout: Layout, file: str) -> None:
    path = layout.root / file
    flip(path, path.stat().st_size // 2)
    before = contents(layout.root)
    with leased(layout.lease(LEASES[DAMAGE[file]]), what="a run"):
        status, found = look(layout)
    (outcome,) = [one for one in found if one.part.wrong]
    assert status == WRONG and not outcome.mended and outcome.done.startswith("left alone: process ")
    assert contents(layout.root) == before and look(layout)[0] == MENDED


def test_the_lease_of_a_run_guards_its_steps_and_that_of_a_split_its_sample(layout: Layout) -> None:
    flip(layout.step("plan", "align") / "identity.json", 9)
    with leased(layout.run("plan") / "lease", what="a run"):
        assert look(layout)[0] == WRONG
    assert look(layout)[0] == MENDED and not layout.step("plan", "align").exists()
    (layout.logps("l") / "record.json").unlink()
    flip(layout.logps("l") / "block-000000.parquet", 99)
    with leased(layout.lease("logps-whole"), what="a run"):
        assert look(layout)[0] == WRONG
    assert look(layout)[0] == MENDED


def test_a_damaged_step_that_began_with_masters_stays_known_as_that(layout: Layout) -> None:
    folder, begun = layout.step("plan", "align"), {"kind": "dpo", "masters": "digest"}
    write_sealed(folder / "identity.json", begun)
    write_step_record(folder, record("step", "align"))
    flip(folder / "model/model.safetensors", 9)
    assert look(layout)[0] == MENDED
    assert [path.name for path in folder.iterdir()] == ["identity.json"]
    assert read_sealed(folder / "identity.json") == begun and look(layout)[0] == FINE


def test_metrics_that_were_changed_are_told_and_stay(layout: Layout) -> None:
    flip(layout.step("plan", "align") / "metrics.jsonl", 9)
    before = contents(layout.root)
    status, found = look(layout)
    (outcome,) = [one for one in found if one.part.wrong]
    assert status == WRONG and "only `--fresh` makes it again" in outcome.part.what
    assert contents(layout.root) == before


@pytest.fixture
def left(layout: Layout) -> Iterator[list[Path]]:
    paths = [
        layout.pairs(".p2.0123abcd"), layout.made_step("s") / ".model.0123abcd",
        layout.step("plan", "align") / "checkpoints/.step-000004.0123456789ab", layout.step("plan", "align") / ".ray-x",
    ]  # fmt: skip
    for path in paths:
        path.mkdir(parents=True)
        (path / "half").write_bytes(b"x")
    (layout.store / "answers/.a.jsonl.0123abcd").write_bytes(b"x")
    yield [*paths, layout.store / "answers/.a.jsonl.0123abcd"]


def test_leftovers_of_killed_processes_go_unless_their_lease_is_held(layout: Layout, left: list[Path]) -> None:
    young = layout.store / "requests/.task-k.requests.0123abcd"  # nobody's lease tells whether it is being written
    young.write_bytes(b"x")
    with leased(layout.lease("pairs-p2"), what="a run"), leased(layout.run("plan") / "lease", what="a run"):
        status, found = look(layout)
    assert status == WRONG and sorted(wrong(layout, found)) == sorted(str(one.relative_to(layout.root)) for one in left)
    assert [path.exists() for path in left] == [True, False, True, True, False]
    assert look(layout)[0] == MENDED and not any(path.exists() for path in left) and young.exists()


def test_an_unfinished_step_is_no_fault_and_its_damaged_checkpoint_is_set_aside(layout: Layout) -> None:
    step = layout.step("plan", "align")
    (step / "record.json").unlink()
    checkpoints = Checkpoints(step, Alone(), keep=2)

    def write(folder: Path) -> dict[Path, str]:
        (folder / "shard").write_bytes(b"w" * 200)
        return {folder / "shard": hashlib.sha256(b"w" * 200).hexdigest()}

    checkpoints.save(4, write, {})
    status, found = look(layout)
    assert status == FINE and [one.part.state for one in found if one.part.path == step] == ["unfinished"]
    flip(step / "checkpoints/step-000004/shard", 100)
    status, found = look(layout)
    assert status == MENDED and wrong(layout, found) == ["runs/plan/steps/align/checkpoints/step-000004"]
    status, found = look(layout)
    assert status == FINE and (step / "checkpoints/bad-step-000004").exists()
    assert "put aside" in {one.part.state for one in found}


def test_a_line_of_a_journal_that_another_program_wrote_is_damage(layout: Layout) -> None:
    path = layout.judgments("j")
    path.write_bytes(path.read_bytes() + checked_line({"key": "of nothing"}))
    assert look(layout, dry_run=True)[0] == WRONG


def test_two_answers_to_one_request_both_go(layout: Layout) -> None:
    """Nothing says which of them is right, and while both stand every evaluation is refused."""
    path = layout.answers("two")
    lines = []
    for key, text in (("k", "one"), ("other", ""), ("k", "two")):
        with UnitJournal(path) as journal:
            journal.append(key, [Answer(text, "stop")])
        lines.append(path.read_bytes())
        path.unlink()
    path.write_bytes(b"".join(lines))
    status, found = look(layout)
    assert status == MENDED and wrong(layout, found) == ["store/answers/two.jsonl"]
    assert path.read_bytes() == lines[1]
    path.write_bytes(lines[0] * 2)
    assert look(layout)[0] == FINE, "the same answer twice is one"


def test_the_command_counts_and_its_status_tells(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fsck", str(layout.root)]) == FINE
    assert capsys.readouterr().out.splitlines()[-1] == f"{layout.root}: {len({*DAMAGE.values()})} ok"
    flip(layout.tokens("t") / "train.arrow", 900)
    plan = Path(__file__).resolve().parents[2] / "jobs/quickstart.yaml"
    assert main(["fsck", str(plan), "--dry-run", "--set", f"cluster.storage={layout.root}"]) == WRONG
    out = capsys.readouterr().out
    assert "damaged    store/tokens/t: train.arrow does not have the bytes that were written: left as it is" in out
    assert main(["fsck", str(layout.root)]) == MENDED
    with raises("data.no-store"):
        fsck(layout.root / "store/tokens", dry_run=True, say=lambda outcome: None)
