"""A result on disk, and averages of several tasks."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raised import raises
from ratchet.documents.scores import Score
from ratchet.evaluate.results import RESULT, Item, TaskResult, average_of, read_result, write_result


def score(value: float | None, error: float | None, count: int = 100, unit: str = "share") -> Score:
    return Score("accuracy", "acc", value, error, count, unit)


def test_an_average_has_the_error_of_independent_tasks() -> None:
    # SOLAR-10.7B-Instruct, as recorded by evalverse: H6 is 74.62.
    found = average_of(
        {
            "arc": score(0.7133, 0.0132), "hellaswag": score(0.8819, 0.0032), "mmlu": score(0.6552, 0.0038),
            "truthfulqa": score(0.7172, 0.0150), "winogrande": score(0.8319, 0.0105), "gsm8k": score(0.6778, 0.0129),
        },
        "H6",
    )  # fmt: skip
    assert (found.name, found.unit, found.count, found.note) == ("H6", "share", 600, "")
    assert found.value == pytest.approx(0.7462, abs=5e-5)
    draws = np.random.default_rng(11).normal(0, [0.0132, 0.0032, 0.0038, 0.0150, 0.0105, 0.0129], (40_000, 6))
    assert found.standard_error == pytest.approx(draws.mean(axis=1).std(), rel=0.02)


def test_an_average_of_tasks_without_a_score_is_none() -> None:
    missing = average_of({"arc": score(0.5, 0.1), "gsm8k": score(None, None, 3)}, "H4")
    assert (missing.value, missing.standard_error, missing.note) == (None, None, "no score of gsm8k")
    unsure = average_of({"arc": score(0.5, 0.1), "gsm8k": score(0.7, None)}, "H4")
    assert (unsure.value, unsure.standard_error) == (pytest.approx(0.6), None)
    assert unsure.note == "no error of gsm8k"
    sure = average_of({"arc": score(0.5, 0.0), "gsm8k": score(0.7, 0.2)}, "H4")
    assert (sure.standard_error, sure.note) == (pytest.approx(0.1), "no error of arc")
    mixed = average_of({"arc": score(0.5, 0.1), "mt": score(7.0, 0.3, unit="points")}, "H4")
    assert (mixed.value, mixed.note) == (None, "these cannot be averaged: arc in share, mt in points")
    with raises("data"):
        average_of({}, "H4")


def kept() -> TaskResult:
    items = (Item("a:1", "a", {"acc": 1.0, "nll": 2.5}, "g", "q ☃", "yes", "no"), Item("a:2", "a", {}, problem="lost"))
    scores = (Score("acc", "acc", 0.5, None, 2, note="one"), Score("nll", "nll", 2.5, 0.25, 1, "nats", "g", "", True))
    return TaskResult("t", "harness", scores, items, {"shots": 5, "of": {"x": [1, None]}}, {"lost": 1}, ("careful",))


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_result(tmp_path, kept())
    assert read_result(tmp_path) == kept()


def test_a_value_that_is_no_number_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A task of another package may give one; each evaluation reads its own result right after."""
    write_result(tmp_path, dataclasses.replace(kept(), items=(Item("a:1", "a", {"acc": math.nan, "nll": math.inf}),)))
    (item,) = read_result(tmp_path).items
    assert math.isnan(item.values["acc"]) and item.values["nll"] == math.inf


def changed(folder: Path, change: Any) -> Path:
    write_result(folder, kept())
    fields = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    change(fields)
    (folder / RESULT).write_text(json.dumps(fields), encoding="utf-8")
    return folder


def test_a_result_of_another_version_is_read(tmp_path: Path) -> None:
    def older(fields: dict[str, Any]) -> None:
        del fields["problems"], fields["warnings"], fields["scores"][0]["lower_is_better"]
        fields["later"] = "a key of a version to come"

    found = read_result(changed(tmp_path, older))
    assert (found.problems, found.warnings) == ({}, ()) and found.scores == kept().scores


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.pop("scores"),
        lambda fields: fields["scores"][0].update(value="many"),
        lambda fields: fields["scores"][0].pop("metric"),
        lambda fields: fields.update(problems=["lost"]),
    ],
)
def test_a_document_that_is_no_result_is_damaged(tmp_path: Path, change: Any) -> None:
    with raises("corrupt") as caught:
        read_result(changed(tmp_path, change))
    assert caught.value.where == str(tmp_path) and "made again" in caught.value.fix
