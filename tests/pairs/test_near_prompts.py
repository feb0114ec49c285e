"""Held-out prompts near prompts to train on, against shares that are counted by sets of runs of words."""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from pathlib import Path

from ratchet.pairs.assemble import assemble
from ratchet.pairs.ids import held_out
from ratchet.pairs.near_prompts import near_prompts
from ratchet.pairs.pair import PreferencePair, Turn, answer_turn
from ratchet.plan.data import Source


def pair(asked: str, row: int) -> PreferencePair:
    return PreferencePair((Turn("user", asked),), answer_turn("yes"), answer_turn("no"), "f", row)


def split(folder: Path, asked: list[str], share: float) -> tuple[list[str], list[str]]:
    """Write the pairs of some prompts; return the prompts to train on, and those that are held out."""
    source = Source(path="f.jsonl", held_out=share)
    pairs = [pair(one, row) for row, one in enumerate(asked, 1)]
    assemble(pairs, folder, source)
    sides: tuple[list[str], list[str]] = ([], [])
    for one in pairs:
        sides[held_out(source.seed, share, one.prompt_key)].append(one.prompt[0].content)
    return sides


@functools.cache
def runs(text: str) -> frozenset[tuple[str, ...]]:
    words = text.split()
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def alike(left: str, right: str) -> float:
    return len(runs(left) & runs(right)) / len(runs(left) | runs(right))


def test_prompts_that_share_most_of_their_words_are_counted(tmp_path: Path) -> None:
    draw = random.Random(3)
    asked = []
    for _ in range(120):
        words = [f"w{draw.randrange(5_000)}" for _ in range(60)]
        asked.append(" ".join(words))
        if draw.random() < 0.5:
            words[-1] = "other"  # 57 of 59 runs are left: 0.97
        else:
            words[10] = words[30] = words[50] = "other"  # 49 of 67: 0.73
        asked.append(" ".join(words))
    train, held = split(tmp_path, asked, 0.4)
    expected = sum(max(alike(one, other) for other in train) > 0.9 for one in held)
    between = sum(0.5 < max(alike(one, other) for other in train) <= 0.9 for one in held)
    found = near_prompts(tmp_path)
    assert found is not None and found.of == len(held) and found.gravity == "warns"
    # MinHash of 64 values errs by 0.055 at 0.73, so a few of those may be counted.
    assert 10 < expected <= found.count <= expected + between / 3


def test_the_same_prompts_give_the_same_count_and_nothing_where_nothing_is_held_out(tmp_path: Path) -> None:
    for name in ("one", "two", "none"):
        (tmp_path / name).mkdir()
    asked = [f"Name {number} towns that lie on the river, and the year of each." for number in range(100)]
    split(tmp_path / "one", asked, 0.2)
    split(tmp_path / "two", asked[::-1], 0.2)
    split(tmp_path / "none", asked, 0)
    one, two = (near_prompts(tmp_path / name) for name in ("one", "two"))
    assert one is not None and two is not None and (one.count, one.of) == (two.count, two.of)
    assert near_prompts(tmp_path / "none") is None


def test_a_question_below_worked_examples_is_compared_by_itself(tmp_path: Path) -> None:
    draw = random.Random(3)
    texts = [" ".join(f"w{draw.randrange(999)}" for _ in range(40)) for _ in range(60)]
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
        assemble(pairs, tmp_path / name, Source(path="f.jsonl", held_out=0.4))
        found.append(near_prompts(tmp_path / name))
    assert found[0] is not None and found[1] is not None and found[0].count == found[1].count > 10
