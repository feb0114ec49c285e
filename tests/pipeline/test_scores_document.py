"""The document of scores is the same whether results were just made or read again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ratchet.documents.scores import Score, SuiteScores
from ratchet.evaluate.results import Item, TaskResult, read_result, write_result
from ratchet.evaluate.suites import Scored
from ratchet.pipeline.scores_document import Entry, score_facts, suite_scores
from ratchet.plan.suite import Suite

SUITE = Suite.model_validate({"tasks": {"pairs": {"kind": "perplexity", "rows": {"path": "x"}}}})


def result(seed: int) -> TaskResult:
    """A task with two metrics, whose order by name is not that of the scores."""
    items = tuple(
        Item(
            f"i{n}",
            f"i{n}",
            {"reward": float((n * seed) % 7 > 3), "chosen": float((n * n * seed) % 11)},
            answer=f"a{n}",
        )
        for n in range(40)
    )
    mean = sum(item.values["reward"] for item in items) / 40
    return TaskResult("pairs", "preference", (Score("reward", "reward", mean, 0.08, 40),), items, {"a": 1})


def told(folder: Path, kept: tuple[bool, bool]) -> SuiteScores:
    entries = []
    for n, (name, again) in enumerate(zip(("base", "mine"), kept, strict=True)):
        home = folder / "store" / name
        home.mkdir(parents=True, exist_ok=True)
        write_result(home, made := result(n + 2))
        scored = Scored(name, "s.yaml", "pairs", read_result(home) if again else made, home, 1.0, reused=False)
        entries.append(Entry(name, str(n), "float32", "base" if n else None, (scored,)))
    found = suite_scores(entries, {"s.yaml": SUITE}, folder, folder)
    return dataclasses.replace(found, created="")


def test_fresh_and_kept_results_give_one_document(tmp_path: Path) -> None:
    fresh = told(tmp_path, (False, False))
    assert told(tmp_path, (True, True)) == told(tmp_path, (True, False)) == fresh
    assert len(fresh.answers) == 20
    spread = [abs(row.by["base"].values["reward"] - row.by["mine"].values["reward"]) for row in fresh.answers]
    assert spread == sorted(spread, reverse=True) and spread[0] == 1.0


def test_an_item_that_only_one_model_could_be_judged_on_comes_first(tmp_path: Path) -> None:
    home = tmp_path / "store"
    home.mkdir()
    whole = result(2)
    items = (*whole.items[:30], Item("i30", "i30", {}, answer="?", problem="no rating"), *whole.items[31:])
    entries = [
        Entry(name, "w", "float32", None, (Scored(name, "s.yaml", "pairs", one, home, 1.0, reused=False),))
        for name, one in (("a", whole), ("b", TaskResult("pairs", "preference", whole.scores, items, {"a": 1})))
    ]
    assert suite_scores(entries, {"s.yaml": SUITE}, tmp_path, tmp_path).answers[0].item == "i30"


def test_the_line_of_a_task_that_all_items_agree_in_has_its_interval() -> None:
    none = Score("exact match", "exact_match", 0.0, 0.0, 60)
    assert score_facts(none) == {"exact match": "0.000 (0.000 to 0.060)", "of": 60}
    assert score_facts(Score("average", "rating", 1.0, 0.0, 32, "points"))["average"] == "1.00 (no error)"
    some = Score("exact match", "exact_match", 0.5, 0.05, 60)
    assert score_facts(some)["exact match"] == "0.500 ± 0.050"
