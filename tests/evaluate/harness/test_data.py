"""`datasets`' copies of local data are held against digests; a damaged one is made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from bits import flip
from harness_example import own_task
from mirror import write_hub_folder
from ratchet.evaluate.harness.data import NAME, Copies, content_of, copy_faults
from ratchet.evaluate.harness.definitions import load_definitions, quiet
from ratchet.plan.tasks import Harness

ROWS = [{"text": f"question {n}", "choices": ["a", "bb", "ccc"], "answer": n % 3} for n in range(40)]


def loaded(folder: Path, store: Path) -> str:
    with quiet():
        asked = Harness(kind="harness", task="mine", metric="acc", include=str(folder / "tasks"))
        (task,) = load_definitions(asked, folder / "data", store / "datasets").leaves.values()
        return content_of(task)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own_task(tmp_path / "tasks", dataset_path="team/letters", dataset_kwargs={})
    write_hub_folder(tmp_path / "data/team/letters", {"default": {"test": ROWS}})
    return tmp_path


def copies(store: Path) -> Path:
    (found,) = (store / "datasets").iterdir()
    return found


@pytest.mark.heavy
@pytest.mark.parametrize("damage", ["bit", "gone", "strange", "list", "unfinished"])
def test_a_damaged_copy_is_made_again(folder: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    store = folder / "store"
    before = loaded(folder, store)
    (arrow,) = copies(store).rglob("*.arrow")
    made = arrow.stat().st_ino
    assert copy_faults(copies(store)) == [] and loaded(folder, store) == before and arrow.stat().st_ino == made
    if damage == "bit":
        flip(arrow, arrow.read_bytes().index(b"question 7") + 3)
    elif damage == "gone":
        arrow.unlink()
    elif damage == "strange":
        (arrow.parent / "cache-0123.arrow").write_bytes(arrow.read_bytes())
    elif damage == "list":
        flip(copies(store) / NAME, 30)
    else:
        (copies(store) / NAME).unlink()
    assert copy_faults(copies(store)) and loaded(folder, store) == before and copy_faults(copies(store)) == []
    assert len(caplog.records) == 1 and "they are made again" in caplog.text


def test_loading_that_fails_seals_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Copies(tmp_path / "datasets") as made:
        made.of("d", "c").mkdir(parents=True)
        raise ZeroDivisionError
    assert copy_faults(tmp_path / "datasets/d") == ["they were never finished"]
