"""Dialogues as demonstrations: which turns are trained on, what stands before each, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raised import raises
from ratchet.model.scratch import make_scratch
from ratchet.pairs.assemble import Counts, assemble
from ratchet.pairs.pair import PreferencePair, Skipped
from ratchet.pairs.pair_table import pairs_table, read_pairs
from ratchet.pairs.source import read_source
from ratchet.pairs.style import find_style
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pairs.tokens import tokenise
from ratchet.plan.data import Source
from token_pairs import CHATML, LARGE, SPEC, TEXTS

Demonstration = tuple[str, str]


def messages(said: str) -> list[dict[str, Any]]:
    """Return messages of words such as `u:hello`: a role's first letter and a text; `a0:` has weight 0."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    found = []
    for word in said.split():
        role, _, text = word.partition(":")
        found.append({"role": roles[role[0]], "content": text, **({"weight": 0} if role == "a0" else {})})
    return found


def read(row: dict[str, Any], tmp_path: Path, **keys: Any) -> list[PreferencePair | Skipped]:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return list(read_source(Source(path=str(path), **keys)))


def shown(items: list[PreferencePair | Skipped]) -> list[Demonstration]:
    """Return the turns before each answer as `messages` writes them, and the answer."""
    pairs = [item for item in items if isinstance(item, PreferencePair)]
    return [(" ".join(f"{t.role[0]}:{t.content}" for t in one.prompt), one.chosen.content) for one in pairs]


CASES: dict[str, tuple[str, list[Demonstration]]] = {
    "two answers": ("u:q1 a:r1 u:q2 a:r2", [("u:q1", "r1"), ("u:q1 a:r1 u:q2", "r2")]),
    "a system turn": ("s:be u:q1 a:r1 u:q2 a:r2", [("s:be u:q1", "r1"), ("s:be u:q1 a:r1 u:q2", "r2")]),
    "the human has the last word": ("u:q1 a:r1 u:q2 a:r2 u:q3", [("u:q1", "r1"), ("u:q1 a:r1 u:q2", "r2")]),
    "a greeting": ("a:hi u:q1 a:r1", [("a:hi u:q1", "r1")]),
    "a greeting after the system": ("s:be a:hi u:q1 a:r1", [("s:be a:hi u:q1", "r1")]),
    "one answer": ("u:q1 a:r1", [("u:q1", "r1")]),
    "weight 0": ("u:q1 a0:r1 u:q2 a:r2", [("u:q1 a:r1 u:q2", "r2")]),
    "weight 0 at the end": ("u:q1 a:r1 u:q2 a0:r2", [("u:q1", "r1")]),
}


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("key", ["conversations", "messages"])
def test_each_turn_of_the_assistant_follows_all_that_is_before_it(key: str, name: str, tmp_path: Path) -> None:
    said, wanted = CASES[name]
    assert shown(read({key: messages(said)}, tmp_path)) == wanted
    assert shown(read({key: messages(said)}, tmp_path, train_on="all")) == wanted
    assert shown(read({key: messages(said)}, tmp_path, train_on="last")) == wanted[-1:]


def test_a_system_prompt_of_the_row_or_the_plan_leads_each(tmp_path: Path) -> None:
    row = {"messages": messages("u:q1 a:r1 u:q2 a:r2")}
    for items in (read({**row, "system": "be"}, tmp_path), read(row, tmp_path, system="be")):
        assert [prompt.split()[0] for prompt, _ in shown(items)] == ["s:be", "s:be"]


def test_history_is_trained_on_as_what_it_belongs_to(tmp_path: Path) -> None:
    row = {"instruction": "q2", "output": "r2", "history": [["q1", "r1"]]}
    assert shown(read(row, tmp_path)) == [("u:q1", "r1"), ("u:q1 a:r1 u:q2", "r2")]


@pytest.mark.parametrize(
    ("column", "value"), [("label", True), ("label", 1), ("kto_tag", True), ("is_correct", "True")]
)
def test_a_verdict_is_one_on_the_last_turn(column: str, value: Any, tmp_path: Path) -> None:
    row = {"messages": messages("u:q1 a:r1 u:q2 a:r2"), column: value}
    where = [f'{column} == "True"' if isinstance(value, str) else f"{column} == {str(value).lower()}"]
    assert shown(read(row, tmp_path, layout="instruction", where=where)) == [("u:q1 a:r1 u:q2", "r2")]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("u:q1 u:q2", "messages has no turn of the assistant to train on"),
        ("u:q1 a0:r1", "has no turn of the assistant"),
    ],
)
def test_a_dialogue_without_an_answer_is_skipped(said: str, why: str, tmp_path: Path) -> None:
    (item,) = read({"messages": messages(said)}, tmp_path)
    assert isinstance(item, Skipped) and item.reason == "bad messages" and why in item.detail


def test_a_second_answer_in_a_row_is_skipped_by_itself(tmp_path: Path) -> None:
    items = read({"messages": messages("u:q1 a:r1 a:r2 u:q2 a:r3")}, tmp_path)
    assert shown(items) == [("u:q1", "r1"), ("u:q1 a:r1 a:r2 u:q2", "r3")]
    assert [item.reason for item in items if isinstance(item, Skipped)] == ["bad messages"]


@pytest.mark.parametrize("key", ["loss", "loss_weight", "train", "training", "weight"])
@pytest.mark.parametrize("no", [False, 0])
def test_a_message_that_says_so_is_not_trained_on(key: str, no: Any, tmp_path: Path) -> None:
    turns = messages("u:q1 a:r1 u:q2 a:r2")
    turns[1][key], turns[3][key] = no, True
    assert shown(read({"messages": turns}, tmp_path)) == [("u:q1 a:r1 u:q2", "r2")]


@pytest.mark.parametrize(
    ("key", "value"),
    [("label", False), ("loss_weight", 0.5), ("rating", 1), ("score", 0), ("train_detail", [{"train": False}])],
)
def test_a_verdict_on_a_message_is_not_passed_over(key: str, value: Any, tmp_path: Path) -> None:
    turns = messages("u:q1 a:r1")
    turns[1][key] = value
    (item,) = read({"messages": turns}, tmp_path)
    assert isinstance(item, Skipped) and item.reason == "bad messages"
    assert (key in item.detail) != (key == "loss_weight")


def test_an_odd_weight_is_refused(tmp_path: Path) -> None:
    turns = messages("u:q1 a:r1")
    turns[1]["weight"] = 0.5
    (item,) = read({"messages": turns}, tmp_path)
    assert isinstance(item, Skipped) and "weight 0.5: 0 and 1 are known" in item.detail


def test_train_on_is_no_key_of_pairs(tmp_path: Path) -> None:
    with raises("plan.rows") as caught:
        read({"prompt": "q", "chosen": "a", "rejected": "b"}, tmp_path, train_on="last")
    assert "pairs, whose two answers are trained on" in caught.value.what
    with raises("plan.rows"):
        read({"question": "q", "answer": "1 + 1 = 2"}, tmp_path, train_on="all", build="arithmetic_corruption")


def test_dialogues_of_preferences_train_their_last_answers_alone(tmp_path: Path) -> None:
    row = {"prompt": messages("u:q1 a:r1 u:q2"), "chosen": messages("a:yes"), "rejected": messages("a:no")}
    (item,) = read(row, tmp_path)
    assert isinstance(item, PreferencePair) and item.dialogue is None


def dialogues(count: int) -> list[dict[str, Any]]:
    """Return dialogues of 1 to 4 answers."""
    return [
        {"messages": [m for n in range(1 + k % 4) for m in messages(f"u:q{k}.{n} a:r{k}.{n}")]} for k in range(count)
    ]


def folder_of(rows: list[dict[str, Any]], tmp_path: Path, **keys: Any) -> Counts:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(path=str(path), **keys)
    return assemble(read_source(source), tmp_path, source)


def test_demonstrations_of_a_dialogue_are_on_one_side_and_counted_by_turns(tmp_path: Path) -> None:
    rows = [*dialogues(60), {"messages": messages("u:q1 u:q2")}, dialogues(4)[3]]
    counts = folder_of(rows, tmp_path, held_out=0.4)
    # 15 rounds of 1 + 2 + 3 + 4 answers, a row that gives none, and four that stood before.
    assert (counts.read, counts.kept, counts.skipped) == (155, 150, {"bad messages": 1, "duplicate": 4})
    assert counts.dialogues == 45
    rows_of = {side: {pair.row for pair in read_pairs(tmp_path / f"{side}.parquet")} for side in ("train", "heldout")}
    assert rows_of["train"] and rows_of["heldout"] and not rows_of["train"] & rows_of["heldout"]


def test_a_sample_takes_whole_dialogues_but_for_the_last(tmp_path: Path) -> None:
    counts = folder_of([row for row in dialogues(40) if len(row["messages"]) == 8], tmp_path, max_rows=18, held_out=0.0)
    table = pq.read_table(tmp_path / "train.parquet")
    each = table.group_by("dialogue").aggregate([("row", "count")]).column("row_count").to_pylist()
    assert counts.kept == 18 and sorted(each) == [2, 4, 4, 4, 4] and counts.dialogues == 5


def test_equal_beginnings_of_two_dialogues_are_kept_once(tmp_path: Path) -> None:
    rows = [{"messages": messages(f"u:q1 a:r1 u:{end} a:r2")} for end in ("q2", "q3")]
    counts = folder_of(rows, tmp_path, held_out=0.0)
    assert (counts.read, counts.kept, counts.skipped) == (4, 3, {"duplicate": 1})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("scratch")
    make_scratch(SPEC, TEXTS, folder)
    loaded = load_tokenizer(folder, None)
    loaded.chat_template = CHATML
    return loaded


@given(st.lists(st.tuples(st.text("ab 1", min_size=1), st.text("cd 2", min_size=1)), min_size=1, max_size=4))
def test_what_is_trained_on_is_what_a_masked_pass_over_the_dialogue_trains_on(
    tokenizer: Any, tmp_path_factory: pytest.TempPathFactory, exchanges: list[tuple[str, str]]
) -> None:
    exchanges = [(f"{ask}?", f"{answer}!") for ask, answer in exchanges]
    turns = [
        {"role": role, "content": text}
        for pair in exchanges
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    items = read({"messages": turns}, tmp_path_factory.mktemp("r"))
    pairs = [item for item in items if isinstance(item, PreferencePair)]
    table = pairs_table(pairs)
    found = tokenise(table, tokenizer, find_style(tokenizer), LARGE).to_pylist()
    # The other way: one text of the whole dialogue, where each turn of the assistant and the mark behind it count.
    pieces = [(f"<|turn|>{turn['role']}\n", turn["content"] + "<|end|>", "\n") for turn in turns]
    ids, mask = [], []
    for (head, said, tail), turn in zip(pieces, turns, strict=True):
        for text, counts in ((head, False), (said, turn["role"] == "assistant"), (tail, False)):
            piece = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += piece
            mask += [counts] * len(piece)
    trained = [False] * len(ids)
    for row in found:
        assert row["reason"] is None
        start, stop = len(row["prompt"]), len(row["prompt"]) + len(row["chosen"])
        assert row["prompt"] + row["chosen"] == ids[:stop]
        assert not any(trained[start:stop])
        trained[start:stop] = [True] * (stop - start)
    assert trained == mask
    assert len({row["dialogue"] for row in found}) == 1
