"""Looks at pairs before anything is trained, each against a count made another way."""

from __future__ import annotations

import collections
import random
import re

import pytest

from ratchet.documents.data_report import DataAnalysis
from ratchet.pairs.counting import wilson_interval
from ratchet.pairs.pair import PreferencePair, Skipped, Turn, answer_turn
from ratchet.pairs.quality import pair_look
from ratchet.pairs.text_looks import encoding_faults, language_of


def pair(asked: str, chosen: str, rejected: str | None, row: int = 1, system: str = "") -> PreferencePair:
    prompt = (*([Turn("system", system)] if system else []), Turn("user", asked))
    return PreferencePair(prompt, answer_turn(chosen), None if rejected is None else answer_turn(rejected), "f", row)


def looked(*items: PreferencePair | Skipped) -> dict[str, DataAnalysis]:
    with pair_look() as look:
        for item in items:
            look.add(item)
        found = look.analyses()
    assert len({one.code for one in found}) == len(found)
    return {one.code: one for one in found}


def distance(one: str | list[str], other: str | list[str]) -> int:
    """Return the least number of edits, by the textbook's table."""
    above = list(range(len(other) + 1))
    for at, left in enumerate(one, 1):
        row = [at]
        for place, right in enumerate(other, 1):
            row.append(min(above[place] + 1, row[-1] + 1, above[place - 1] + (left != right)))
        above = row
    return above[-1]


def test_edit_distances_of_words_and_characters() -> None:
    draw = random.Random(3)
    texts = [" ".join(draw.choices(["ab", "ba", "abba", "c", "dd"], k=draw.randint(8, 30))) for _ in range(60)]
    pairs = [pair(f"q{at}", *two, row=at) for at, two in enumerate(zip(texts[::2], texts[1::2], strict=True))]
    same = texts[0].split()
    pairs += [pair(f"near {at}", " ".join([*same, "x", str(at)]), " ".join([*same, "y", str(at)])) for at in range(3)]
    found = looked(*pairs)
    for code, part in (("near-twins", str.split), ("twins-in-characters", str)):
        sides = [(part(one.chosen.text), part(one.rejected.text)) for one in pairs if one.rejected]
        shares = [distance(left, right) / max(len(left), len(right)) for left, right in sides]
        histogram = found[code].distances
        assert histogram is not None and sum(histogram.counts) == len(pairs) == found[code].of
        fine = sorted(round(1000 * share) for share in shares)
        assert list(histogram.counts) == [sum(min(one // 50, 19) == at for one in fine) for at in range(20)]
        assert histogram.median == fine[(len(fine) - 1) // 2] / 1000
        assert found[code].count == sum(share < 0.15 for share in shares) >= 3


def test_near_twins_warn_of_plain_dpo() -> None:
    words = " ".join(map(str, range(20)))
    found = looked(*(pair(f"q{at}", f"{words} {at}", f"{words} no") for at in range(4)))["near-twins"]
    assert (found.gravity, found.count, found.of) == ("warns", 4, 4) and "dpop" in found.do
    apart = looked(pair("q", "one two three", "four five six"))["near-twins"]
    assert (apart.gravity, apart.count, apart.do) == ("notes", 0, "")
    assert looked(pair("q", "A  thing", "a thing"))["near-twins"].count == 0


def test_answers_that_differ_by_case_and_blanks() -> None:
    found = looked(pair("q", "for i in x:\n    go()", "for i in x:\n  go()", 3), pair("q", "5", "-5"))
    assert found["like-answers"].count == 1 and found["like-answers"].places[0].row == 3


def test_repetitions_and_contradictions() -> None:
    items = [
        pair("Why so?", "yes", "no", 1),
        pair("Why so?", "yes", "no", 2),
        pair("why so", "Yes", " no", 3),
        pair("Why so?", "yes", "no", 4, system="s"),
        pair("Why so?", "no", "yes", 5),
        pair("WHY so?", "no", "yes", 6),
        pair("What?", "no", "yes", 7),
        pair("What?", "yes", None, 8),
    ]
    for order in (items, items[::-1]):
        found = looked(*order)
        counts = {code: found[code].count for code in ("duplicates", "like-pairs", "prompts", "contradictions")}
        assert counts == {"duplicates": 1, "like-pairs": 3, "prompts": 3, "contradictions": 1}
        assert found["prompts"].figures == {"prompts": 5, "apart": 2}
    assert found["contradictions"].gravity == "warns"


def test_length_tells_the_label_with_an_interval() -> None:
    draw = random.Random(5)
    lengths = [(draw.randint(1, 9), draw.randint(1, 6)) for _ in range(300)]
    found = looked(*(pair(f"q{at}", "a" * left, "b" * right) for at, (left, right) in enumerate(lengths)))[
        "length-bias"
    ]
    longer, equal = (sum(test) for test in zip(*((a > b, a == b) for a, b in lengths), strict=True))
    share = (longer + equal / 2) / 300
    assert (found.count, found.of, found.figures["equal"]) == (longer, 300, equal) and found.gravity == "warns"
    assert found.figures["accuracy"] == pytest.approx(share) and share > 0.6
    for end in (found.figures["low"], found.figures["high"]):
        # The score test's own equation: an end lies 1.96 of its standard errors away.
        assert (share - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 300, rel=1e-5)
    shorter = looked(*(pair(f"q{at}", "a" * 3, "b" * 5) for at in range(40)))["length-bias"]
    assert shorter.figures["accuracy"] == 1.0 and "shorter answer" in shorter.says and shorter.gravity == "warns"
    assert wilson_interval(0.0, 0) == (0.0, 1.0)
    assert looked(pair("q", "aa", "b"))["length-bias"].gravity == "notes", "of one pair nothing is known"


def test_prompts_inside_answers() -> None:
    asked = "Name three rivers of the north."
    found = looked(
        pair(asked, f"{asked}\nOne, two.", f"{asked} None.", 1),
        pair(asked, f"You ask: {asked.upper()} Well.", "None.", 2),
        pair(asked, "Well.", f"{asked}", 3),
        pair("Short?", "Short? Yes.", "Short? No.", 4),
    )
    codes = ("prompt-heads-answers", "prompt-in-chosen", "prompt-in-rejected")
    assert [[place.row for place in found[code].places] for code in codes] == [[1], [2], [3]]
    assert [found[code].gravity for code in codes] == ["warns", "notes", "notes"]
    assert not {*codes} & {*looked(pair("Short?", "Short? Yes.", "No."))}


MARKS = {
    "[INST]": "<<SYS>>\n", "<|im_start|>": "user\nhi", "### Response:": "\nhi", "<start_of_turn>": "model",
    "</s>": "", "<|eot_id|>": "", "<｜User｜>": "hi", "[PAD]": " ", "<tool_call>": "{}", "Human:": " hi",
    "<image>": "\nhi", "USER:": " hi", "[TOOL_CALLS]": "[]", "<|START_OF_TURN_TOKEN|>": "",
    "<bos>": "", "<|reserved_special_token_0|>": "",
}  # fmt: skip


@pytest.mark.parametrize("mark", sorted(MARKS))
def test_marks_of_templates(mark: str) -> None:
    found = looked(pair("fine", f"well\n{mark}{MARKS[mark]}", "no", 4), pair("fine", "well", "no"))["template-marks"]
    assert (found.count, found.gravity, found.places[0].row) == (1, "warns", 4)
    assert found.figures[mark] == 1 and "1 in an answer" in found.says


def test_what_only_looks_like_a_mark() -> None:
    texts = (
        "a <- b | c",
        "x <| y |> z",
        "the ### Response: in a line",
        "<strong>",
        "a human: being",
        "list[int]",
        "<S>",
    )
    assert looked(*(pair(text, "yes", "no") for text in texts))["template-marks"].count == 0


FAULTS = {
    "mojibake": ["grÃ¼n", "itâ€™s", "Ã©tÃ©"],
    "replacement-characters": ["gr\ufffdn"],
    "hidden-only": ["\u200b\u200b", "\ufeff \u2060"],
    "hidden-characters": ["a\u200bb"],
    "control-characters": ["a\x07b", "a\x93b"],
    "entities": ["Tom &amp; Ann", "it&#39;s"],
    "escapes": ["one\\ntwo"],
    "decomposed": ["gru\u0308n"],
}


@pytest.mark.parametrize("code", sorted(FAULTS))
def test_faults_of_encoding(code: str) -> None:
    assert all(encoding_faults(text) == [code] for text in FAULTS[code])
    found = looked(pair("q", "well", FAULTS[code][0]))
    assert found[code].count == 1 and not ({*FAULTS} - {code}) & {*found}


@pytest.mark.parametrize(
    "text", ["grün", "naïve — “yes”", "R&D & more", "C:\\new\nline", "👩\u200d🚀", "می\u200cروم", "한국어"]
)
def test_sound_texts_have_no_fault(text: str) -> None:
    assert encoding_faults(text) == []


def test_scripts_and_languages() -> None:
    texts = {
        "Latin, English": "It is one of the rivers that flows to the sea.",
        "Latin, German": "Das ist nicht der Fluss, und die Stadt ist klein.",
        "Latin": "Lorem",
        "Cyrillic": "Это река.",
        "Han": "这是一条河。",
        "Japanese": "これは川です。",
        "Hangul": "강입니다",
        "Arabic": "هذا نهر",
        "none": "12 + 3",
    }
    assert {name: language_of(text) for name, text in texts.items()} == {name: name for name in texts}
    found = looked(pair(texts["Latin"], texts["Cyrillic"], "no"), pair(texts["Latin"], "12", "13"))["languages"]
    assert found.count == 1 and found.figures == {"Cyrillic": 1, "none": 1}


def test_demonstrations_have_no_second_side() -> None:
    found = looked(pair("q", "yes", None), Skipped("f", 2, "tie", ""), Skipped("f", 3, "where", ""))
    assert (found["ties"].count, found["ties"].of) == (1, 3)
    assert not {"near-twins", "like-answers", "length-bias", "contradictions"} & {*found}
    assert all(re.fullmatch("[a-z-]+", code) for code in found) and found["duplicates"].of == 1


def test_nothing_gives_nothing() -> None:
    assert collections.Counter(one.count for one in looked().values()).keys() == {0}
