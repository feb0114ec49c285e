"""No item of a task of lm-eval is one of its own examples, whatever split they are drawn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness_example import mine, own_task
from raised import raises
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.harness.definitions import Loaded, load_definitions, quiet
from ratchet.evaluate.harness.requests import build_rows
from ratchet.evaluate.harness.run import run_all

BY_VALIDATION = {"test_split": None, "validation_split": "test", "fewshot_split": "test"}
BY_RULE: dict[str, Any] = {}
FIRST = {"fewshot_config": {"sampler": "first_n"}}


def loaded(folder: Path, rows: int = 5, shots: int = 2, **definition: Any) -> Loaded:
    own_task(folder, rows=rows, num_fewshot=shots, **definition)
    with quiet():
        return load_definitions(mine(folder, shots=shots), None, folder / "cache")


def contexts(task: Any) -> list[tuple[str, str, bool]]:
    """Each document's own question, what it is asked with, and whether its examples were drawn again."""
    docs = list(task.eval_docs)
    with quiet():
        rows = build_rows(task, docs, "harness", None, None)
    return [(docs[row.doc_id]["text"], row.requests[0][1][0], row.redrawn) for row in rows]


@pytest.mark.parametrize("definition", [BY_RULE, BY_VALIDATION, FIRST], ids=["rule", "validation", "first"])
def test_no_item_is_its_own_example(tmp_path: Path, definition: dict[str, Any]) -> None:
    [task] = loaded(tmp_path, **definition).leaves.values()
    found = contexts(task)
    assert [context.count(question) for question, context, _ in found] == [1] * 5
    assert all(len(set(context.split("\n\n"))) == 3 for _, context, _ in found), "two different examples each"
    assert 0 < sum(redrawn for *_, redrawn in found) < 5


def test_examples_that_were_right_are_those_of_lm_eval(tmp_path: Path) -> None:
    [ours] = loaded(tmp_path, rows=40).leaves.values()
    [theirs] = loaded(tmp_path, rows=40).leaves.values()
    docs = list(theirs.eval_docs)
    first = next(n for n, (*_, redrawn) in enumerate(contexts(ours)) if redrawn)
    assert first > 0, "from the first one on that was drawn again, the generator stands elsewhere"
    drawn = [theirs.fewshot_context(doc=doc, num_fewshot=2) for doc in docs[: first + 1]]
    found = [context for _, context, _ in contexts(loaded(tmp_path, rows=40).leaves["mine"])]
    assert found[:first] == drawn[:first]
    assert drawn[first].count(docs[first]["text"]) == 2, "lm-eval puts the item before itself"


def test_the_same_question_in_another_row_is_no_example_either(tmp_path: Path) -> None:
    loaded(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "mine.jsonl").read_text().splitlines()]
    lines[3]["text"] = lines[0]["text"]
    lines[3]["choices"], lines[3]["answer"] = lines[0]["choices"], 2
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with quiet():
        [task] = load_definitions(mine(tmp_path, shots=2), None, tmp_path / "cache").leaves.values()
    for question, context, _ in contexts(task):
        assert context.count(question) == 1


def test_too_few_other_rows_are_told(tmp_path: Path) -> None:
    [task] = loaded(tmp_path, rows=3, shots=3).leaves.values()
    with raises("data") as caught:
        contexts(task)
    assert caught.value.where == "mine" and "document 0" in caught.value.what


def test_how_many_were_drawn_again_is_said_with_the_score(tmp_path: Path, small: Candidate) -> None:
    task = loaded(tmp_path / "task")
    again = sum(redrawn for *_, redrawn in contexts(next(iter(task.leaves.values()))))
    with quiet():
        fresh = load_definitions(task.asked, None, tmp_path / "cache")
    for _ in range(2):  # built, and found again
        result, _ = run_all({"mine": fresh}, small, tmp_path / "store")["mine"]
        assert f"{again} items were among their own examples, which were drawn again." in result.warnings[-1]
