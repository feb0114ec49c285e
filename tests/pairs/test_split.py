"""The split: prompts that are one but for how they are written share a side, and contradictions are counted."""

from __future__ import annotations

import itertools
import json
import logging
import re
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.pairs.assemble import Counts, assemble
from ratchet.pairs.flow import prepare_pairs
from ratchet.pairs.ids import held_out
from ratchet.pairs.normal_form import opening_of, unblanked, unblanked_texts, wording, wordings
from ratchet.pairs.pair import PreferencePair, Turn, answer_turn
from ratchet.pairs.sample import sample_pairs
from ratchet.pairs.source import read_source
from ratchet.plan.data import Source
from ratchet.store.layout import layout_at
from tests.support.nightly import examples


def pair(*turns: str, chosen: str = "a", rejected: str | None = "b", system: str = "") -> PreferencePair:
    said = [Turn(role, text) for role, text in zip(itertools.cycle(("user", "assistant")), turns, strict=False)]
    worse = None if rejected is None else answer_turn(rejected)
    return PreferencePair(tuple([Turn("system", system)] * bool(system) + said), answer_turn(chosen), worse, "f", 1)


WRITTEN = (
    "Why does the Ödla river flood?",
    "why does the ödla river flood",
    "  Why does\tthe Ödla\nriver flood ?! ",
    unicodedata.normalize("NFD", "Why does the Ödla river flood?"),
    "Why does the “Ödla” river — flood?",
    "WHY DOES THE ÖDLA RIVER FLOOD?",
    "Why does the Ödla\u00a0ri\u200bver flood?",
    "\uff37hy does the Ödla river flood?",
)


@pytest.mark.parametrize("text", WRITTEN)
def test_one_question_however_it_is_written(text: str) -> None:
    assert wording(text) == "whydoestheödlariverflood"
    assert pair(text).prompt_key == pair(WRITTEN[0], system="You are kind.").prompt_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 7 + 12?", "What is 7 + 13?"),
        ("What is 1 + 23?", "What is 12 + 3?"),
        ("What is 5 + 3?", "What is 5 - 3?"),
        ("What is −5 + 3?", "What is 5 + 3?"),
        ("Is 3.5 odd?", "Is 35 odd?"),
        ("2, 3 or 5?", "2 3 or 5?"),
        ("a synonym for happy", "a synonym for large"),
        ("👍", "👎"),
        ("❤\ufe0f", "?"),
        ("की", "कि"),
    ],
)
def test_questions_that_differ_stay_apart(one: str, other: str) -> None:
    assert wording(one) != wording(other)
    assert pair(one).prompt_key != pair(other).prompt_key


PARTS = st.sampled_from(
    [*"aB1 2-._,\n", "−3", "é", "e\u0301", "ß", "İ", "\u0345", "ﬁ", "½", "٣", "“", "中", "\u3000", "❤\ufe0f"]
)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.lists(PARTS, max_size=12).map("".join), min_size=1, max_size=6))
def test_many_texts_are_worded_as_each_by_itself(texts: list[str]) -> None:
    assert wordings(texts) == [wording(text) for text in texts]
    assert unblanked_texts(texts) == [unblanked(text) for text in texts]


def _by_hand(one: str) -> str:
    folded = unicodedata.normalize("NFKC", one).casefold()
    letters = [sign for sign in folded if sign.isalnum() or unicodedata.category(sign)[0] == "M"]
    return "".join(letters or unicodedata.normalize("NFC", one).casefold().split())


def test_each_character_is_worded_by_the_rules_of_unicode() -> None:
    """Many together are replaced in another way than a few."""
    signs = [one for one in map(chr, range(1, 0x3100)) if not re.search(r"\d", unicodedata.normalize("NFKC", one))]
    right = list(map(_by_hand, signs))
    assert wordings(signs) == right
    assert list(map(wording, signs)) == right


@settings(max_examples=examples(30), deadline=None)
@given(st.text(st.characters(codec="ascii", exclude_categories=["Nd"])))
def test_short_ways_for_ascii_agree_with_the_long_ones(text: str) -> None:
    letters = re.sub(r"[\W_]+", "", text.casefold())
    assert wording(text) == (letters or "".join(text.casefold().split()))
    assert unblanked(text) == "".join(text.casefold().split())


@pytest.mark.parametrize("text", ["what is 1+23", "What is 1  + 23 ?", "what is １＋２３", "WHAT IS 1 +23!"])
def test_numbers_are_read_whatever_stands_around_them(text: str) -> None:
    assert pair(text).prompt_key == pair("What is 1 + 23?").prompt_key


def test_dialogues_that_open_alike_stay_together() -> None:
    short, longer = pair("How do I pick a lock?"), pair("how do I pick a lock", "Why do you ask?", "Go on.")
    assert short.prompt_key == longer.prompt_key != pair("Go on.").prompt_key
    assert opening_of([("assistant", "Hello."), ("tool", "3")]) == "hello3"


def rivers(path: Path, count: int = 120) -> Path:
    """Each question five times: as it is, with a blank, another case, a system turn, and the other verdict."""
    rows: list[dict[str, str]] = []
    for number in range(count):
        asked = f"Explain why brook {number} dries up in summer."
        rows += [
            {"prompt": text, "chosen": "It rains less.", "rejected": "So what."}
            for text in (asked, asked + " ", asked.lower())
        ]
        rows += [{"prompt": asked, "system": "Be brief.", "chosen": "It rains less.", "rejected": "So what."}]
        rows += [{"prompt": asked, "chosen": "So what.", "rejected": "It rains less."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sides(folder: Path) -> list[set[str]]:
    """Return the questions of both sides, letters and digits alone."""
    found = (pq.read_table(folder / f"{side}.parquet").to_pylist() for side in ("train", "heldout"))
    return [{re.sub(r"\W", "", row["prompt"][-1]["content"].lower()) for row in rows} for rows in found]


@pytest.mark.parametrize("max_rows", [None, 300])
def test_no_question_is_on_both_sides(max_rows: int | None, tmp_path: Path) -> None:
    source = Source(path=str(rivers(tmp_path / "x.jsonl")), held_out=0.2, max_rows=max_rows)
    (tmp_path / "out").mkdir()
    counts = assemble(read_source(source), tmp_path / "out", source)
    train, held = sides(tmp_path / "out")
    assert counts.read == 600 and not train & held and 10 <= len(held) <= 40
    assert max_rows or (len(train) + len(held), counts.train % 5, counts.contradictions) == (120, 0, 120)
    sampled = {one.prompt_key for one in sample_pairs(source, None, 1000).pairs}
    assert sampled and not any(held_out(source.seed, 0.2, key) for key in sampled)


def test_contradictions_are_counted_up_to_form(tmp_path: Path) -> None:
    pairs = [
        pair("Q?", chosen="Yes, it is.", rejected="No."),
        pair("q", chosen="no.", rejected="Yes,  it is.", system="Be kind."),
        pair("Q?", "A", "Q?", chosen="No.", rejected="Yes, it is."),
        pair("Sum?", chosen="5", rejected="-5"),
        pair("Sum?", chosen="-5", rejected="6"),
        pair("Sum?", chosen="5", rejected=None),
        pair("Sum?", chosen="-5", rejected=None),
    ]
    counts: Counts = assemble(pairs, tmp_path, Source(path="f.jsonl", held_out=0.0))
    assert (counts.kept, counts.contradictions) == (7, 1)


def test_a_run_says_that_verdicts_contradict_each_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Source(path=str(rivers(tmp_path / "x.jsonl")), held_out=0.2)
    for _ in range(2):  # also where the store has them
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            prepare_pairs("brooks", source, layout_at(str(tmp_path / "store")), None)
        assert [one for one in caplog.messages if "data.brooks: 120 comparisons are decided both ways" in one]
