"""`few_shot` puts worked examples above a question: right ones, of rows that are trained on, and never its own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from raised import raises
from ratchet.errors import PlanError
from ratchet.look.rows import read_whole
from ratchet.pairs.assemble import assemble
from ratchet.pairs.ids import held_out
from ratchet.pairs.pair import PreferencePair, Skipped
from ratchet.pairs.pair_table import read_pairs
from ratchet.pairs.source import read_source
from ratchet.plan.data import Source

SUMS = [
    {"question": f"Ann has {a} red and {b} blue pens in {n} bags. How many?",
     "answer": f"{a} + {b} = {a + b} a bag.\n{a + b} * {n} = {(a + b) * n} in all.\n#### {(a + b) * n}"}
    for n, (a, b) in enumerate(((a, b) for a in range(3, 15) for b in range(4, 9)), 2)
]  # fmt: skip


def source_of(folder: Path, rows: list[dict[str, Any]], **source: Any) -> Source:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Source(path=str(path), **{"build": "arithmetic_corruption", "few_shot": 3, "held_out": 0.2} | source)


def pairs_in(source: Source) -> list[PreferencePair]:
    found = list(read_source(source))
    assert not [item for item in found if isinstance(item, Skipped)]
    return [item for item in found if isinstance(item, PreferencePair)]


def shown(pair: PreferencePair) -> list[tuple[str, str]]:
    """Return the questions and answers above a pair's question, read back from its prompt."""
    *examples, last = pair.prompt[-1].content.split("Question: ")[1:]
    assert last.endswith("\nAnswer:")
    return [tuple(one.removesuffix("\n\n").split("\nAnswer: ", 1)) for one in examples]  # type: ignore[misc]


def test_examples_are_right_trained_on_and_of_other_questions(tmp_path: Path) -> None:
    source = source_of(tmp_path, SUMS, system="Be brief.")
    right = {row["question"]: row["answer"] for row in SUMS}
    sides = {pair.asked: held_out(source.seed, source.held_out, pair.prompt_key) for pair in pairs_in(source)}
    assert len(sides) == len(SUMS) and 0 < sum(sides.values()) < len(SUMS) / 2
    for pair in pairs_in(source):
        assert [turn.role for turn in pair.prompt] == ["system", "user"] and pair.prompt[0].content == "Be brief."
        above = shown(pair)
        assert len({question for question, _ in above} | {pair.asked}) == 4
        assert all(right[question] == answer and not sides[question] for question, answer in above)


def test_the_split_and_both_answers_are_those_without_examples(tmp_path: Path) -> None:
    few, none = (pairs_in(source_of(tmp_path, SUMS, few_shot=count)) for count in (3, 0))
    assert [one.prompt_key for one in few] == [one.prompt_key for one in none]
    assert [(one.chosen, one.rejected) for one in few] == [(one.chosen, one.rejected) for one in none]
    assert not {one.prompt_id for one in few} & {one.prompt_id for one in none}


def test_examples_follow_from_the_question_and_the_seed_alone(tmp_path: Path) -> None:
    before = {pair.pair_id for pair in pairs_in(source_of(tmp_path, SUMS))}
    mixed = random.Random(1).sample(SUMS, len(SUMS))
    assert {pair.pair_id for pair in pairs_in(source_of(tmp_path, mixed))} == before
    assert {pair.pair_id for pair in pairs_in(source_of(tmp_path, SUMS, seed=1))} != before


def test_pairs_of_one_question_have_one_prompt(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "choices": [f"{n}a", f"{n}b", f"{n}c"], "answer": n % 3} for n in range(30)]
    found = pairs_in(source_of(tmp_path, rows, build="multiple_choice"))
    assert len(found) == 60 and len({pair.prompt_id for pair in found}) == 30
    assert all(
        answer == f"{question[1:]}{'abc'[int(question[1:]) % 3]}" for pair in found for question, answer in shown(pair)
    )


def test_a_folder_of_pairs_keeps_what_the_split_went_by(tmp_path: Path) -> None:
    source = source_of(tmp_path, SUMS)
    (tmp_path / "pairs").mkdir()
    assemble(read_source(source), tmp_path / "pairs", source)
    read = [pair for side in ("train", "heldout") for pair in read_pairs(tmp_path / "pairs" / f"{side}.parquet")]
    assert {(pair.pair_id, pair.prompt_key) for pair in read} == {(p.pair_id, p.prompt_key) for p in pairs_in(source)}


def test_rows_that_are_held_out_by_themselves_are_shown_with_what_is_trained_on(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*SUMS[:5], *SUMS[-20:]]))
    source = source_of(tmp_path, SUMS[:-20], held_out={"path": str(tmp_path / "test.jsonl")})
    (tmp_path / "pairs").mkdir()
    counts = read_whole("sums", source, None, tmp_path / "pairs", None, lambda *_: None).counts
    assert (counts["train"], counts["heldout"]) == (len(SUMS) - 25, 25)
    trained, held = (list(read_pairs(tmp_path / "pairs" / f"{side}.parquet")) for side in ("train", "heldout"))
    asked = {pair.asked for pair in trained}
    assert all(question in asked for pair in (*trained, *held) for question, _ in shown(pair))


def test_a_dialogue_is_no_question(tmp_path: Path) -> None:
    alone = [[("user", row["question"]), ("assistant", row["answer"])] for row in SUMS]
    talks = [*alone, [("user", "Hello"), ("assistant", "Hi"), *alone[0]]]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in talks]
    *_, last = read_source(source_of(tmp_path, rows))
    assert isinstance(last, Skipped) and last.reason == "bad messages" and "few_shot" in last.detail


def test_too_few_questions_are_an_error(tmp_path: Path) -> None:
    with raises("plan.rows") as caught:
        list(read_source(source_of(tmp_path, SUMS[:3], held_out=0)))
    assert isinstance(caught.value, PlanError)
    assert caught.value.what == "few_shot: 3 takes 4 questions to train on, and the rows looked at give 3"


def test_it_needs_a_builder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it belongs to `build:`"):
        source_of(tmp_path, SUMS, build=None)


def test_examples_of_rows_with_a_prefix_are_whole_answers(tmp_path: Path) -> None:
    rows = [{**row, "start": "So: "} for row in SUMS]
    columns = {"prompt": "question", "completion": "answer", "prefix": "start"}
    found = pairs_in(source_of(tmp_path, rows, columns=columns))
    right = {row["question"]: f"So: {row['answer']}" for row in SUMS}
    assert found and all(pair.prompt[-1].content == "So: " for pair in found)
    for pair in found:
        *examples, _ = pair.prompt[-2].content.split("Question: ")[1:]
        shots = [one.removesuffix("\n\n").split("\nAnswer: ", 1) for one in examples]
        assert len(shots) == 3 and all(right[question] == answer for question, answer in shots)
