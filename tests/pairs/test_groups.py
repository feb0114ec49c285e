"""Near prompts share a side of the split, against sets of runs of letters, a plain union of sets, and SHA-256."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ratchet.pairs.assemble import Counts, assemble, assemble_tables
from ratchet.pairs.normal_form import wording
from ratchet.pairs.pair import PreferencePair, Turn, answer_turn
from ratchet.pairs.pair_table import items_table
from ratchet.pairs.sample import sample_pairs
from ratchet.pairs.sketches import are_near, has_sketch, sketches_of
from ratchet.plan.data import Source

WORDS = ["ash", "birch", "cedar", "elm", "fir", "hazel", "juniper", "larch", "maple", "oak", "pine", "rowan", "spruce"]


def pair(*turns: str, chosen: str = "a", row: int = 1) -> PreferencePair:
    said = [Turn(role, text) for role, text in zip(itertools.cycle(("user", "assistant")), turns, strict=False)]
    return PreferencePair(tuple(said), answer_turn(chosen), answer_turn("b"), "f", row)


def text(draw: random.Random, words: int) -> str:
    return " ".join("".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 8))) for _ in range(words))


def edited(asked: str, draw: random.Random) -> str:
    """Return a prompt with one small edit, as people make them, of a prompt of 40 words or more."""
    words = asked.split()
    at = draw.randrange(len(words))
    match draw.randrange(5):
        case 0:
            words[at] += "s"
        case 1:
            words[at] = draw.choice(WORDS)
        case 2:
            del words[at]
        case 3:
            words.insert(at, "the")
        case _:
            words = ["Please,", *words, "Thank", "you!"]
    return " ".join(words)


def sides(pairs: list[PreferencePair], folder: Path, **source: object) -> tuple[Counts, dict[str, bool]]:
    """Return the counts, and of each pair's prompt key whether it is held out."""
    folder.mkdir(parents=True)
    counts = assemble(pairs, folder, Source.model_validate({"path": "f.jsonl"} | source))
    found: dict[str, bool] = {}
    for side in ("train", "heldout"):
        for key in pq.read_table(folder / f"{side}.parquet").column("prompt_key").to_pylist():
            assert found.setdefault(key, side == "heldout") == (side == "heldout"), "one key on both sides"
    return counts, found


def plain_key(asked: str) -> str:
    return hashlib.blake2b(re.sub(r"\W", "", asked.lower()).encode(), digest_size=16).hexdigest()


def plain_sides(groups: list[list[str]], share: float, seed: int = 0) -> dict[str, bool]:
    """What documentation says: a group falls by the hash of the smallest of its keys."""
    found: dict[str, bool] = {}
    for group in groups:
        keys = [plain_key(one) for one in group]
        out = int(hashlib.sha256(f"split:{seed}:{min(keys)}".encode()).hexdigest()[:16], 16) < share * 2**64
        found |= dict.fromkeys(keys, out)
    return found


def test_prompts_with_small_edits_fall_with_what_they_were_edited_from(tmp_path: Path) -> None:
    draw = random.Random(5)
    groups = []
    for _ in range(400):
        asked = text(draw, draw.randint(40, 90))
        groups.append([asked, *(edited(asked, draw) for _ in range(draw.randrange(4)))])
    pairs = [pair(one) for group in groups for one in group]
    draw.shuffle(pairs)
    counts, found = sides(pairs, tmp_path / "a", held_out=0.3)
    expected = plain_sides(groups, 0.3)
    wrong = [key for key in expected if found[key] != expected[key]]
    # A band is missed once in thousands, and an edit of two words may leave less than 70 % of a short prompt.
    assert len(wrong) <= 2 and 60 < sum(plain_sides([[group[0]] for group in groups], 0.3).values()) < 180
    sizes = [len({*map(plain_key, group)}) for group in groups]
    assert abs(counts.together - sum(size for size in sizes if size > 1)) <= 4 and counts.divided == 0
    assert sum(found.values()) == counts.heldout and any(found.values())
    # Each by its own key, as before near prompts were looked for: many groups would be on both sides.
    alone = [plain_sides([[one] for one in group], 0.3) for group in groups]
    assert sum(len({*one.values()}) > 1 for one in alone) > 50


def test_neither_order_nor_tables_nor_a_sample_change_a_side(tmp_path: Path) -> None:
    draw = random.Random(6)
    asked = [text(draw, 45) for _ in range(60)]
    pairs = [pair(one, chosen=f"a{at}") for at, one in enumerate([*asked, *(edited(one, draw) for one in asked)])]
    _, first = sides(pairs, tmp_path / "a", held_out=0.4)
    _, other = sides(draw.sample(pairs, len(pairs)), tmp_path / "b", held_out=0.4)
    _, some = sides(pairs, tmp_path / "c", held_out=0.4, max_rows=50)
    _, more = sides(pairs, tmp_path / "d", held_out=0.6)
    assert first == other and len(some) == 50 and some == {key: first[key] for key in some}
    assert {key for key, out in first.items() if out} < {key for key, out in more.items() if out}


def test_other_numbers_and_short_prompts_are_other_questions(tmp_path: Path) -> None:
    sums = [
        f"Ann has {n} red pens and gives {n + 3} of her blue ones to Tom. How many pens are left?" for n in range(99)
    ]
    short = [f"A synonym for the word {one}?" for one in WORDS]
    counts, found = sides([pair(one) for one in [*sums, *short]], tmp_path / "a", held_out=0.3)
    assert (counts.together, counts.divided) == (0, 0)
    assert found == {
        one.prompt_key: out
        for one in map(pair, [*sums, *short])
        for out in [int(hashlib.sha256(f"split:0:{one.prompt_key}".encode()).hexdigest()[:16], 16) < 0.3 * 2**64]
    }


def test_one_template_filled_many_times_is_held_out_in_part(tmp_path: Path) -> None:
    draw = random.Random(7)
    frame = (
        "I like to have guests at my home, and I am looking for recipes of dishes and drinks to keep it interesting. "
    )
    filled = [f"{frame}Can you give me one for {one}?" for one in {text(draw, 1) for _ in range(400)}]
    few = filled[:7]
    counts, found = sides([pair(one) for one in filled], tmp_path / "a", held_out=0.2)
    assert counts.divided > 0.8 * len(filled) and 0.1 < sum(found.values()) / len(found) < 0.3
    counts, found = sides([pair(one) for one in few], tmp_path / "b", held_out=0.5)
    assert (counts.together, len({*found.values()})) == (7, 1)


def test_a_dialogue_falls_with_its_first_and_with_its_last_question(tmp_path: Path) -> None:
    asked = [f"What is the {one} tree good for?" for one in WORDS]
    then = [f"And where does {one} grow?" for one in WORDS]
    talks = [pair(one, "Wood.", last) for one, last in zip(asked, then, strict=True)]
    alone = [pair(last.upper()) for last in then]
    counts, found = sides([*talks, *alone], tmp_path / "a", held_out=0.5)
    assert counts.together == 26 and len({*found.values()}) == 2
    assert all(found[talk.prompt_key] == found[one.prompt_key] for talk, one in zip(talks, alone, strict=True))
    longer = [pair(one, "Wood.", "Go on.") for one in asked]
    counts, found = sides([*longer, pair("Go on.")], tmp_path / "b", held_out=0.5)
    assert (counts.together, counts.divided) == (0, 0) and len({*found.values()}) == 2


def test_what_is_shown_as_an_example_is_trained_on(tmp_path: Path) -> None:
    draw = random.Random(8)
    asked = [text(draw, 45) for _ in range(40)]
    pairs = [pair(one) for one in [*asked, *(edited(one, draw) for one in asked)]]
    _, found = sides(pairs, tmp_path / "a", held_out=0.5)
    shown = sorted(key for key, out in found.items() if out)[:3]
    (tmp_path / "b").mkdir()
    source = Source(path="f.jsonl", held_out=0.5)
    assemble_tables([items_table(pairs, source)], tmp_path / "b", source, frozenset(shown))
    held = {*pq.read_table(tmp_path / "b/heldout.parquet").column("prompt_key").to_pylist()}
    assert len(held) < sum(found.values()) - 2 and held.isdisjoint(shown)
    assert held < {key for key, out in found.items() if out}


def test_a_small_file_is_sampled_as_it_is_divided(tmp_path: Path) -> None:
    draw = random.Random(9)
    asked = [text(draw, 45) for _ in range(80)]
    rows = [{"prompt": one, "chosen": "a", "rejected": "b"} for one in [*asked, *(edited(one, draw) for one in asked)]]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(path=str(tmp_path / "x.jsonl"), held_out=0.4)
    sample = sample_pairs(source, None, 1000)
    _, found = sides([pair(row["prompt"]) for row in rows], tmp_path / "a", held_out=0.4)
    assert sample.whole and {one.prompt_key for one in sample.pairs} == {key for key, out in found.items() if not out}


@pytest.mark.parametrize("alphabet", ["abcdefghijklmnop", "日月火水木金土山川田人口目耳手足"])
def test_a_sketch_finds_the_share_of_runs_that_two_texts_have_in_common(alphabet: str) -> None:
    draw = random.Random(10)
    found: dict[int, list[bool]] = {}
    for _ in range(300):
        one = draw.choices(alphabet, k=300)
        other = list(one)
        for at in draw.sample(range(300), draw.randrange(120)):
            other[at] = draw.choice(alphabet)
        texts = ["".join(one), "".join(other)]
        runs = [{raw[at : at + 8] for at in range(len(raw) - 7)} for raw in (text.encode() for text in texts)]
        alike = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        sketches = sketches_of(texts)
        found.setdefault(round(10 * alike), []).append(bool(are_near(sketches[0], sketches[1])))
    assert all(found[10] + found[9]) and not any(near for tenth in range(5) for near in found.get(tenth, []))
    assert len(found[9]) > 5 and sum(len(found.get(tenth, [])) for tenth in range(5)) > 20


def test_sketches_do_not_depend_on_what_is_beside_them() -> None:
    draw = random.Random(11)
    texts = [wording(text(draw, draw.randint(12, 400))) for _ in range(50)]
    assert all(map(has_sketch, texts)) and not has_sketch("a" * 47) and has_sketch("日" * 16)
    together = sketches_of(texts)
    assert [one.tobytes() for one in together] == [sketches_of([text])[0].tobytes() for text in texts]


@pytest.mark.heavy
def test_real_questions_stay_apart_but_for_one_that_is_there_twice(shared: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (shared / "gsm8k/train.jsonl").read_text(encoding="utf-8").splitlines()]
    counts, _ = sides([pair(row["question"]) for row in rows], tmp_path / "a", held_out=0.1)
    assert len(rows) == 7473 and (counts.together, counts.divided) == (2, 0)  # Josie and Amanda received $50 as a gift
