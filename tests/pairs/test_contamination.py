"""Items of suites in pairs, against a search of one text in another."""

from __future__ import annotations

import random

import pytest

from ratchet.documents.data_report import DataAnalysis
from ratchet.pairs.contamination import ContaminationLook, SuiteIndex, SuiteItem
from ratchet.pairs.pair import PreferencePair, Turn, answer_turn

QUESTION = "A ferry leaves the harbour at nine and needs forty minutes to the island; when is it back again?"
SHORT = "Which of these four towns lies farthest north?"


def pair(asked: str, chosen: str = "yes", rejected: str | None = "no", row: int = 1) -> PreferencePair:
    left = None if rejected is None else answer_turn(rejected)
    return PreferencePair((Turn("user", asked),), answer_turn(chosen), left, "f", row)


def looked(items: list[SuiteItem], *pairs: PreferencePair) -> DataAnalysis | None:
    look = ContaminationLook(SuiteIndex(items))
    for one in pairs:
        look.add(one)
    return next(look.analyses(), None)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (QUESTION, True),
        (QUESTION.upper().replace(";", " –"), True),  # case and punctuation
        (f"Answer this. {' '.join(QUESTION.split()[3:16])} I wonder.", True),  # 13 words of it
        (f"Answer this. {' '.join(QUESTION.split()[3:15])} I wonder.", False),  # 12 words
        (QUESTION.replace("forty", "fifty"), False),  # in the middle of 19 words
        (f"So: {SHORT} Say why.", True),
        (SHORT.replace("four ", ""), False),
        ("What is two and two?", False),  # too short to be looked for
    ],
)
def test_thirteen_words_in_a_row_or_all_of_a_short_item(asked: str, found: bool) -> None:
    items = [SuiteItem("s/t", (text,)) for text in (QUESTION, SHORT, "What is two and two?")]
    analysis = looked(items, pair("hello"), pair(asked, row=2))
    assert analysis is not None and (analysis.count, analysis.of) == (int(found), 2)
    assert analysis.gravity == ("warns" if found else "notes") and analysis.figures["short"] == 1
    assert [place.row for place in analysis.places] == [2] * found


def test_answers_and_rejected_answers_count_and_an_item_counts_once() -> None:
    items = [SuiteItem("s/a", (QUESTION,)), SuiteItem("s/b", ("nothing", SHORT))]
    rows = pair("q", chosen=QUESTION), pair("q", rejected=QUESTION), pair("q", rejected=None, chosen=f"{SHORT} Oslo.")
    analysis = looked(items, *rows)
    assert analysis is not None
    assert (analysis.count, analysis.figures) == (2, {"pairs": 3, "short": 0, "s/a": 1, "s/b": 1})
    assert "1 of 1 of s/a, 1 of 1 of s/b" in analysis.says


def test_what_many_items_share_is_their_frame() -> None:
    frame = "Read the text below and then say in a single word what the writer feels"
    others = [SuiteItem("s/t", (f"{number} {QUESTION}"[: 60 + number],)) for number in range(30)]

    def count(framed: int, of: list[SuiteItem]) -> int:
        found = looked([SuiteItem("s/t", (f"{frame} {number}",)) for number in range(framed)] + of, pair(frame))
        return -1 if found is None else found.count

    assert [count(10, others), count(11, others)] == [10, 0]
    assert [count(1, []), count(3, []), count(3, others[:2]), count(3, others[:3])] == [1, 0, 0, 3]


def test_signs_are_words_where_no_blanks_stand() -> None:
    analysis = looked(
        [SuiteItem("s/t", ("请用两句话解释为什么这条河每年春天都会泛滥",))],
        pair("问:请用两句话解释为什么这条河每年春天。"),
    )
    assert analysis is not None and analysis.count == 1


def test_nothing_is_said_where_there_is_nothing_to_look_for() -> None:
    assert looked([], pair(QUESTION)) is None and looked([SuiteItem("s/t", ("too short",))], pair("too short")) is None


def test_it_finds_what_a_search_of_texts_finds() -> None:
    """Texts of five words' length of alphabet, so that runs meet by chance, some of 13 and some of fewer."""
    draw = random.Random(7)

    def text(length: int) -> str:
        return " ".join(draw.choice("ab") for _ in range(length))

    items, asked = [text(draw.randrange(5, 20)) for _ in range(60)], [text(draw.randrange(8, 60)) for _ in range(60)]
    index = SuiteIndex([SuiteItem("s/t", (item,)) for item in items])
    runs: dict[str, set[int]] = {}
    for number, item in enumerate(items):
        words = item.split()
        size = min(13, len(words))
        for at in range(len(words) - size + 1 if size >= 8 else 0):
            runs.setdefault(" ".join(words[at : at + size]), set()).add(number)
    expected = [{one for run, of in runs.items() if len(of) <= 10 and run in long for one in of} for long in asked]
    assert [index.found_in(long) for long in asked] == expected
    assert 0 < sum(map(bool, expected)) < len(expected)
