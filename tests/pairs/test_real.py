"""Real preference files of every shape, read whole: how many rows are kept, why the others are not, what they say."""

from __future__ import annotations

import collections
import gzip
import json
from pathlib import Path

from raised import raises
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.pairs.source import Item, read_source
from ratchet.plan.data import Source

USER, BOT, SYSTEM = "user", "assistant", "system"


def tally(items: list[Item]) -> dict[str, int]:
    return dict(collections.Counter("kept" if isinstance(item, PreferencePair) else item.reason for item in items))


def test_hh_text(shared: Path) -> None:
    path = shared / "preference/hh_rlhf/harmless-base/test.jsonl.gz"
    items = list(read_source(Source(path=str(path))))
    assert tally(items) == {"kept": 2303, "bad messages": 5, "empty text": 4}
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    for item in items:
        if isinstance(item, PreferencePair):
            for side, answer in (("chosen", item.chosen), ("rejected", item.rejected)):
                turns = [*item.prompt, *([answer] if answer else [])]
                again = "".join(f"{'Human' if turn.role == USER else 'Assistant'}:{turn.content}" for turn in turns)
                assert "".join(again.split()) == "".join(rows[item.row - 1][side].split())


def test_llamafactory(shared: Path) -> None:
    path = shared / "preference/llamafactory/dpo_en_demo.json"
    items = list(read_source(Source(path=str(path))))
    assert tally(items) == {"kept": 300}
    row = json.loads(path.read_text())[41]
    assert items[41] == PreferencePair(
        tuple(
            Turn({"human": USER, "gpt": BOT, "system": SYSTEM}[turn["from"]], turn["value"])
            for turn in row["conversations"]
        ),
        Turn(BOT, row["chosen"]["value"]),
        Turn(BOT, row["rejected"]["value"]),
        "dpo_en_demo.json",
        42,
    )


def test_answers_marked_good_or_bad_are_not_taken_for_demonstrations(shared: Path) -> None:
    path = str(shared / "preference/llamafactory/kto_en_demo.json")
    with raises("data.no-layout") as caught:
        next(read_source(Source(path=path)))
    assert "fields seen: label, messages" in caught.value.what and "label == true" in caught.value.fix
    assert tally(list(read_source(Source(path=path, layout="instruction", where=("label == true",))))) == {
        "kept": 150,
        "where": 150,
    }


def test_alpaca_and_annotations(shared: Path) -> None:
    alpaca = shared / "preference/llms_from_scratch/instruction-data-with-preference.json"
    items = list(read_source(Source(path=str(alpaca))))
    rows = json.loads(alpaca.read_text())
    assert tally(items) == {
        "kept": sum(row["chosen"] != row["rejected"] for row in rows),
        "chosen = rejected": sum(row["chosen"] == row["rejected"] for row in rows),
    }
    path = shared / "preference/alpaca_eval_gpt4/alpaca-7b.json"
    items = list(read_source(Source(path=str(path))))
    assert tally(items) == {"kept": 789, "tie": 16}
    for item, row in zip(items, json.loads(path.read_text()), strict=True):
        if isinstance(item, PreferencePair):
            assert item.chosen == Turn(BOT, row[f"output_{row['preference']}"])
            assert item.rejected == Turn(BOT, row[f"output_{3 - row['preference']}"])


def test_multiple_choice_files(shared: Path) -> None:
    """ARC-Challenge gives 3,357 training pairs in the Smaug paper (appendix D), and 895 for evaluation."""
    for path, count in (
        ("arc_challenge/train.jsonl", 3357),
        ("arc_challenge/validation", 895),
        ("hellaswag/validation_1000_hfcolumns.jsonl", 3000),
    ):
        items = list(read_source(Source(path=str(shared / path), build="multiple_choice")))
        assert tally(items) == {"kept": count}
