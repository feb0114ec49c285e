"""Held-out prompts near prompts to train on, against shares that are counted by sets of runs of letters."""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from ratchet.pairs.assemble import assemble_tables
from ratchet.pairs.near_prompts import near_prompts
from ratchet.pairs.pair import PreferencePair, Turn, answer_turn
from ratchet.pairs.pair_table import items_table
from ratchet.plan.data import HeldOutRows, Source, held_out_source


def pair(asked: str, row: int) -> PreferencePair:
    return PreferencePair((Turn("user", asked),), answer_turn("yes"), answer_turn("no"), "f", row)


def aside(folder: Path, held: list[PreferencePair], trained: list[PreferencePair]) -> None:
    """Write pairs that are held out by themselves, and others to train on."""
    source = Source(path="f.jsonl", held_out=HeldOutRows(path="h.jsonl"))
    rows = held_out_source(source)
    assert rows is not None
    tables: list[pa.Table] = [items_table(held, rows), items_table(trained, source)]
    assert assemble_tables(tables, folder, source).heldout == len(held)


@functools.cache
def runs(text: str) -> frozenset[str]:
    letters = text.replace(" ", "")
    return frozenset(letters[at : at + 8] for at in range(len(letters) - 7))


def alike(left: str, right: str) -> float:
    return len(runs(left) & runs(right)) / len(runs(left) | runs(right))


def word(draw: random.Random) -> str:
    return "".join(draw.choices("abcdefghijklmnop", k=5))


def test_prompts_that_share_most_of_their_letters_are_counted(tmp_path: Path) -> None:
    draw = random.Random(3)
    held, trained = [], []
    for _ in range(120):
        words = [word(draw) for _ in range(60)]
        held.append(" ".join(words))
        for at in draw.sample(range(60), draw.choice((1, 12, 24))):
            words[at] = word(draw)
        trained.append(" ".join(words))
    shares = [max(alike(one, other) for other in trained) for one in held]
    expected, between = sum(share > 0.8 for share in shares), sum(0.6 < share <= 0.8 for share in shares)
    aside(tmp_path, [pair(one, 1) for one in held], [pair(one, 1) for one in trained])
    found = near_prompts(tmp_path)
    assert found is not None and found.of == len(held) and found.gravity == "warns" and "held_out" in found.do
    # Of 64 bins a share of 0.8 errs by 0.05.
    assert 20 < expected <= found.count <= expected + between and expected + between < 60
    assert found.places[0].text.startswith(held[[share > 0.8 for share in shares].index(True)][:50])


def test_of_prompts_that_a_share_divides_none_is_near_one_on_the_other_side(tmp_path: Path) -> None:
    draw = random.Random(4)
    asked = [" ".join(word(draw) for _ in range(40)) for _ in range(150)]
    pairs = [pair(f"{one} {end}", row) for row, one in enumerate(asked) for end in ("ash", "birch")]
    source = Source(path="f.jsonl", held_out=0.3)
    found = []
    for name, items in (("one", pairs), ("two", pairs[::-1])):
        (tmp_path / name).mkdir()
        counts = assemble_tables([items_table(items, source)], tmp_path / name, source)
        found.append(near_prompts(tmp_path / name))
        assert counts.together == 300 and 60 < counts.heldout < 120
    assert found[0] is not None and found[1] is not None
    assert [(one.count, one.of, one.gravity) for one in found if one] == [(0, counts.heldout, "notes")] * 2


def test_nothing_is_said_where_nothing_is_held_out(tmp_path: Path) -> None:
    source = Source(path="f.jsonl", held_out=0)
    assemble_tables([items_table([pair("Name a river.", 1)], source)], tmp_path, source)
    assert near_prompts(tmp_path) is None


def test_a_template_that_no_side_can_hold_is_counted(tmp_path: Path) -> None:
    draw = random.Random(5)
    frame = "Give me a recipe for a meal that my guests from abroad have not had yet, and say what to buy for it: "
    source = Source(path="f.jsonl", held_out=0.3)
    counts = assemble_tables(
        [items_table([pair(f"{frame}{word(draw)}", 1) for _ in range(200)], source)], tmp_path, source
    )
    found = near_prompts(tmp_path)
    assert found is not None and found.of == counts.heldout == found.count > 30 and counts.divided == counts.kept


def test_a_question_below_worked_examples_is_compared_by_itself(tmp_path: Path) -> None:
    draw = random.Random(3)
    texts = [" ".join(word(draw) for _ in range(40)) for _ in range(60)]
    asked = [f"{text} {end}" for text in texts for end in ("a", "b")]
    found = []
    for name, above in (("plain", False), ("below", True)):
        (tmp_path / name).mkdir()
        pairs = [pair(one, row) for row, one in enumerate(asked, 1)]
        if above:
            turns = [Turn("user", f"{' '.join(draw.sample(asked, 4))} {one}") for one in asked]
            pairs = [
                replace(one, prompt=(turn,), asked=text) for one, turn, text in zip(pairs, turns, asked, strict=True)
            ]
        aside(tmp_path / name, pairs[::2], pairs[1::2])
        found.append(near_prompts(tmp_path / name))
    assert found[0] is not None and found[1] is not None and found[0].count == found[1].count == 60
