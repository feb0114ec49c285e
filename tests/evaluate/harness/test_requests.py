"""Requests of lm-eval's tasks: built once, known by what decides them, kept whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.task import ConfigurableTask

from harness_example import asking, mine, own_task
from mirror import write_hub_folder
from plain_engine import run
from raised import raises
from ratchet.evaluate.engines.pool import Candidate

pytestmark = [pytest.mark.usefixtures("offline"), pytest.mark.heavy]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the tasks that built a prompt, one for each prompt."""
    names: list[str] = []
    plain = ConfigurableTask.fewshot_context

    def counted(self: Any, **options: Any) -> Any:
        names.append(self.task_name)
        return plain(self, **options)

    monkeypatch.setattr(ConfigurableTask, "fewshot_context", counted)
    return names


def test_requests_are_built_once_for_all_models(small: Candidate, built: list[str], tmp_path: Path) -> None:
    folder, store = own_task(tmp_path / "tasks"), tmp_path / "store"
    first = run("t", mine(folder), small, data_root=None, store=store)
    assert first.warnings == ()
    assert built == ["mine"] * 4
    other = dataclasses.replace(small, longest=64, identity="other")
    second = run("t", mine(folder), other, data_root=None, store=store)
    assert built == ["mine"] * 4, "the second model's requests were there"
    assert [item.item for item in first.items] == [item.item for item in second.items]
    assert run("t", mine(folder), small, data_root=None, store=store) == first


@pytest.mark.parametrize("change", ["data", "definition", "limit", "shots"])
def test_what_decides_requests_is_in_their_key(change: str, small: Candidate, built: list[str], tmp_path: Path) -> None:
    folder, store, task = own_task(tmp_path / "tasks"), tmp_path / "store", mine(tmp_path / "tasks")
    run("t", task, small, data_root=None, store=store)
    built.clear()
    match change:
        case "data":
            path = folder / "mine.jsonl"
            path.write_text(path.read_text().replace("2 of", "9 of"))
        case "definition":
            own_task(folder, description="Think.\n")
        case "limit":
            task = mine(folder, limit=3)
        case "shots":
            task = mine(folder, shots=1)
    run("t", task, small, data_root=None, store=store)
    assert len(built) == (3 if change == "limit" else 4)
    assert len(list((store / "requests").iterdir())) == 2


@pytest.mark.parametrize("damage", ["bit", "end", "empty"])
def test_damaged_requests_are_built_again(
    damage: str, small: Candidate, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, store = own_task(tmp_path / "tasks"), tmp_path / "store"
    run("t", mine(folder), small, data_root=None, store=store)
    (path,) = (store / "requests").iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {"bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], "end": whole[:-9], "empty": b""}[
            damage
        ]
    )
    run("t", mine(folder), small, data_root=None, store=store)
    assert path.read_bytes() == whole and caplog.text.count("they are built again") == 1


def test_folders_of_the_same_name_do_not_share_rows(small: Candidate, tmp_path: Path) -> None:
    definition = own_task(tmp_path / "tasks", dataset_path="team/letters", dataset_kwargs={})
    found = {}
    for root, rows in (("one", 3), ("two", 5)):
        letters = [{"text": f"{root} {n}", "choices": ["a", "bb", "ccc"], "answer": 0} for n in range(rows)]
        write_hub_folder(tmp_path / root / "team" / "letters", {"default": {"test": letters}})
        result = run("t", mine(definition), small, data_root=tmp_path / root, store=tmp_path / "store")
        assert [item.question for item in result.items] == [letter["text"] for letter in letters]
        found[root] = result.settings["data"]
    assert found["one"] != found["two"]


def test_data_that_are_not_there_are_named(small: Candidate, tmp_path: Path) -> None:
    gsm8k = asking("gsm8k", "exact_match")
    with raises("data.no-file") as caught:
        run("t", gsm8k, small, data_root=tmp_path, store=tmp_path / "store")
    assert caught.value.where.endswith("openai/gsm8k")
    with raises("data") as error:
        run("t", gsm8k, small, data_root=None, store=tmp_path / "store")
    assert "openai/gsm8k" in error.value.where


def test_what_a_task_has_not_is_told_before_the_model_is_asked(small: Candidate, tmp_path: Path) -> None:
    folder = own_task(tmp_path / "tasks")
    with raises("plan.task") as caught:
        run("t", asking("mine", "f1", include=str(folder)), small, data_root=None, store=tmp_path / "store")
    assert "acc, acc_norm" in caught.value.fix
    with raises("plan.task") as caught:
        run("t", mine(own_task(folder, num_fewshot=0), shots=3), small, data_root=None, store=tmp_path / "store")
    assert "shots" in caught.value.fix
    with raises("plan.task") as caught:
        run("t", mine(tmp_path / "absent"), small, data_root=None, store=tmp_path / "store")
    assert "absent" in caught.value.what


@pytest.mark.slow
def test_an_unknown_task_is_met_with_near_names(small: Candidate, tmp_path: Path) -> None:
    with raises("plan.task") as caught:
        run("t", asking("arc_chalenge", "acc"), small, data_root=None, store=tmp_path / "store")
    assert "arc_challenge" in caught.value.fix
