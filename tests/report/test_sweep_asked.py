"""A sweep's page holds what came of it against what was asked for and what was there: seeds, `--set`, stages found."""

from __future__ import annotations

import shlex
from typing import Any

from ratchet.documents.sweep import read_sweep
from ratchet.report.sweep.page import sweep_facts
from ratchet.report.sweep.stage_tree import stage_tree
from ratchet.report.sweep.words import measure, plan_point, saved, winner
from ratchet.report.tables.sweep import ranked, stages, work_shared
from sweep_example import PLAN_TEXT, beta_lambda, troubled


def cells(table: Any, column: str) -> list[str]:
    place = [one.name for one in table.columns].index(column)
    return [row.cells[place].text for row in table.rows]


def test_stages_found_from_before_are_told_apart_from_trained_ones() -> None:
    document = beta_lambda(3)
    document["stages"][0]["made_by"] = "quickstart"
    document["work"] |= {"stages": 6, "stages_found": 1, "stages_unshared": 12}
    read = read_sweep(document)
    assert saved(read).startswith("6 stages trained, 1 found from before, in place of 12, ")
    table, listed, tree = work_shared(read), stages(read), stage_tree(read)
    assert table and listed and tree
    assert [[cell.text for cell in row.cells] for row in table.rows][:2] == [
        ["stages trained", "6", "12", "50.0"],
        ["stages found from before", "1", "–", "–"],
    ]
    assert cells(listed, "made by")[0] == "quickstart"
    assert tree.boxes[1].shape.lines[1] == "6 trials · made before"
    assert "found" not in " ".join(cells(work_shared(read_sweep(beta_lambda(3))), "work"))


def test_points_without_all_of_their_seeds_say_so() -> None:
    document = troubled()
    document["space"]["seeds"] = [4, 5]
    read = read_sweep(document)
    seeds = dict(zip(cells(ranked(read), "point"), cells(ranked(read), "seeds finished"), strict=True))
    assert {name: said for name, said in seeds.items() if said != "2"} == {
        "p00000003": "0 of 2",
        "p00000004": "1 of 2",
        "p00000005": "1 of 2",
    }
    assert measure(read, read.points[4], 0).endswith("(standard error over items of 1 of 2 seeds, not over seeds)")
    assert measure(read, read.points[0], 0).endswith("(standard error over 2 seeds)")
    document["space"]["seeds"] = [4, 5, 6]
    assert "(standard error over 2 of 3 seeds)" in " ".join(winner(read_sweep(document)))


def test_what_was_set_for_the_sweep_is_set_again_and_counts_as_the_plans_own() -> None:
    document = beta_lambda()
    wanted = document["points"][2]["values"]
    sets = [f"{key}={value!r}" for key, value in wanted.items()] + ["stages.warm.data=[slips, quiz]"]
    head = "".join(f"# --set {one}\n" for one in [sets[0], *sets])
    read = read_sweep(document | {"plan_text": head + PLAN_TEXT + "# --set no.such=1\n"})
    assert plan_point(read) is read.points[2]
    files = ["sweeps/sums-beta_lambda/plan.yaml", "sweeps/sums-beta_lambda/space.yaml"]
    words = [word for one in sets for word in ("--set", one)]
    assert shlex.split(dict(sweep_facts(read))["to repeat"]) == ["ratchet", "sweep", *files, *words]
    assert plan_point(read_sweep(document | {"plan_text": "# --set a.b=1\nnull"})) is None


def test_a_result_stands_at_the_stage_that_it_is_of_whatever_was_trained_after_it() -> None:
    document = beta_lambda(3)
    last = document["trials"][0]["steps"][-1]
    control = {**document["stages"][-1], "id": "control" * 3, "name": "control", "chunk": "all", "trials": []}
    control["start"] = document["stages"][0]["id"]
    for trial in document["trials"]:
        trial["steps"].append(control["id"])
        control["trials"].append(trial["id"])
    document["stages"].append(control)
    tree = stage_tree(read_sweep(document))
    assert tree
    box = next(one for one in tree.boxes if one.shape.id == last)
    other = next(one for one in tree.boxes if one.shape.id == control["id"])
    assert any(abs(note.y - box.y) < 80 and note.x > box.x for note in tree.notes)
    assert not any(note.x > other.x and abs(note.y - other.y) < 20 for note in tree.notes)
