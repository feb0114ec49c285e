"""What a run's figures say of it, by name: on the page, in Markdown, in report.json and on the terminal."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from ratchet.documents.report import Diagnosis, read_report
from ratchet.reference.share import error_of, exact_interval, interval_of
from ratchet.report import figures
from ratchet.report.diagnoses import FEW_PAIRS, RULES, diagnose, lines, repeats
from ratchet.report.page import rewrite_report, write_report
from ratchet.report.tables.training import headline
from report_example import bare
from report_page import Page

HELD = {
    "source": "prefs",
    "against": "base",
    "reward_accuracy": 0.9,
    "standard_error": 0.02,
    "pairs": 200,
    "margin": 3.0,
    "margin_error": 0.2,
    "chosen_delta": 1.0,
    "chosen_delta_error": 0.1,
    "rejected_delta": -2.0,
    "rejected_delta_error": 0.1,
    "chosen_per_token": 0.05,
    "chosen_per_token_error": 0.005,
}
RUINED = {
    **{"reward_accuracy": 1.0, "standard_error": None, "pairs": 8, "margin": 58.0, "margin_error": 6.0},
    **{"chosen_delta": -121.6, "chosen_delta_error": 4.7, "rejected_delta": -179.6, "rejected_delta_error": 5.0},
    **{"chosen_per_token": -7.1, "chosen_per_token_error": 0.3},
}

TEXTS = {  # of the Universal Declaration of Human Rights, articles 1 and 2
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन "
    "प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिये। सभी को इस घोषणा में सन्निहित सभी अधिकारों और आज़ादियों को "
    "प्राप्त करने का हक़ है और इस मामले में जाति, वर्ण, लिंग, भाषा, धर्म, राजनीति या अन्य विचार-प्रणाली.",
    "English": "All human beings are born free and equal in dignity and rights. They are endowed with reason and "
    "conscience and should act towards one another in a spirit of brotherhood.",
}


def document(held: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return a report of one preference stage, sound unless `held` says otherwise."""
    step = {"name": "align", "stage": "align", "kind": "dpo", "start": "base", "record": "runs/mine/steps/align"}
    step["reference"] = "base"
    rows = [] if held is None else [HELD | held]
    scores = {"model": "align", "heldout": rows, "record": "runs/mine/scores/align.json"}
    return bare(steps=[step], evaluation=[scores], **more)


def sample(base: str, align: str, *, chosen_tokens: int = 12, tokens: int = 20, ended: bool = True) -> dict[str, Any]:
    answers = [
        {"model": "base", "text": base, "tokens": 14, "ended": True},
        {"model": "align", "text": align, "tokens": tokens, "ended": ended},
    ]
    pair = {"source": "prefs", "split": "heldout", "prompt": "My kettle is too loud.", "chosen": "Try the lowest."}
    return pair | {"chosen_tokens": chosen_tokens, "limit": 128, "answers": answers}


def source(skipped: dict[str, int], kept: int) -> dict[str, Any]:
    tokens = {"max_length": 128, "kept": kept, "longest_seen": 463, "skipped": skipped}
    return {
        "name": "prefs",
        "layout": "pair",
        "read": 200,
        "kept": 200,
        "train": 189,
        "heldout": 11,
        "tokens": [tokens],
    }


def names(data: dict[str, Any]) -> list[str]:
    return [one.name for one in diagnose(read_report(data))]


def test_a_sound_run_has_no_diagnosis() -> None:
    good = [sample("Sorry about that. Read the rules.", f"Sorry about your kettle, number {n}.") for n in range(5)]
    assert names(document({}, samples=good, sources=[source({"too long": 9}, 191)])) == []


def test_a_ruined_model_is_called_so_everywhere(tmp_path: Path) -> None:
    gibberish = [sample("Sorry. Try the lowest setting.", " about" * 128, tokens=128, ended=False) for _ in range(5)]
    html, report = write_report(tmp_path, read_report(document(RUINED, samples=gibberish)))
    wanted = ["chosen collapsed", "answers degenerate", "too few pairs to tell", "margin from the rejected side alone"]
    assert [one.name for one in report.diagnoses] == wanted
    assert [one.grave for one in report.diagnoses] == [True, True, False, False]
    assert [one["name"] for one in json.loads((tmp_path / "report.json").read_text())["diagnoses"]] == wanted
    page, text = Page(html.read_text()).text, (tmp_path / "report.md").read_text().replace("\\", "")
    said = "\n".join(lines(report.diagnoses))
    for shown in (page, text, said):
        for part in ("−121.6 ± 4.7", "7.10 nats a token", "63.1", "5 of 5", "repeats itself: 5", "use kind: dpop"):
            assert part in shown, part
    assert "CHOSEN COLLAPSED" in said
    first_screen = page.partition("Does the chosen answer hold?")[0]
    assert all(name in first_screen for name in wanted)
    assert "± 0.0" not in page and "100.0 (63.1 to 100.0)" in page


def test_a_page_written_again_finds_its_diagnoses_again(tmp_path: Path) -> None:
    write_report(tmp_path, read_report(document(RUINED)))
    stored = json.loads((tmp_path / "report.json").read_text())
    del stored["diagnoses"]  # as a report of before has none
    (tmp_path / "report.json").write_text(json.dumps(stored))
    html, _ = rewrite_report(tmp_path)
    assert "chosen collapsed" in html.read_text()


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        ({"chosen_per_token": -1.02, "chosen_per_token_error": 0.005}, ["chosen collapsed"]),
        ({"chosen_per_token": -1.02, "chosen_per_token_error": 0.02}, []),
        ({"chosen_per_token": -0.98, "chosen_per_token_error": 0.001}, []),
        ({"chosen_delta": -1.0, "rejected_delta": -4.0}, ["margin from the rejected side alone"]),
        ({"chosen_delta": -1.0, "rejected_delta": -4.0, "margin": 0.3}, ["no effect"]),
        ({"margin": 0.3, "margin_error": 0.16}, ["no effect"]),
        ({"margin": 0.3, "margin_error": 0.14}, []),
        ({"pairs": FEW_PAIRS}, []),
        ({"pairs": FEW_PAIRS - 1}, ["too few pairs to tell"]),
        (None, ["no held-out pairs"]),
    ],
)
def test_each_figure_has_its_threshold(held: dict[str, Any] | None, wanted: list[str]) -> None:
    assert names(document(held)) == wanted


def test_a_margin_that_is_not_against_another_model_does_not_say_how_far_a_model_moved() -> None:
    data = document({"chosen_delta": -1.0, "rejected_delta": -4.0, "margin": 0.3})
    data["steps"][0] |= {"kind": "cpo", "reference": None}
    assert names(data) == []


def test_the_last_step_of_a_stepwise_stage_is_what_is_diagnosed() -> None:
    data = document({})
    data["steps"] = [data["steps"][0] | {"name": f"align.{n}"} for n in (1, 2)]
    data["evaluation"] = [
        {"model": "align.1", "heldout": [HELD | RUINED]},
        {"model": "align.2", "heldout": [HELD]},
    ]
    assert names(data) == []
    data["evaluation"].reverse()
    data["evaluation"][0]["model"], data["evaluation"][1]["model"] = "align.1", "align.2"
    assert {one.of for one in diagnose(read_report(data))} == {"align.2"}


def test_a_merge_may_be_ruined_too() -> None:
    data = document({})
    merge = {"name": "mix", "stage": "mix", "kind": "merge", "start": "base", "record": "runs/mine/steps/mix"}
    data["steps"].append(merge)
    data["evaluation"].append({"model": "mix", "heldout": [HELD | RUINED]})
    (one,) = diagnose(read_report(data))
    assert (one.name, one.of, one.grave) == ("chosen collapsed", "mix", True) and "one of its parts" in one.do


def test_a_model_that_is_held_against_another_one_says_so() -> None:
    data = document({})
    data["steps"].append({"name": "mix", "stage": "mix", "kind": "merge", "start": "align", "record": "runs/mine"})
    data["evaluation"].append({"model": "mix", "heldout": [HELD | {"against": "align"}]})
    made = headline(read_report(data))
    assert made is not None
    assert [row.cells[2].aside for row in made.rows] == ["against base", "against align"]
    alone = headline(read_report(document({})))
    assert alone is not None and [row.cells[2].aside for row in alone.rows] == [""]


def test_rows_lost_when_read_are_said_but_those_that_a_plan_leaves_out_are_not() -> None:
    one = source({}, 200) | {"read": 400, "skipped": {"bad answer": 22, "duplicate": 100, "where": 78}}
    assert names(document({}, sources=[one])) == ["rows lost"]
    (said,) = diagnose(read_report(document({}, sources=[one])))
    assert "22 of 400 rows (5.5 %) were left out when read (22 bad answer)" in said.says
    assert names(document({}, sources=[one | {"skipped": {"bad answer": 20, "tie": 180}}])) == []


def test_rows_lost_at_tokenising_are_said_with_share_reason_length_and_remedy() -> None:
    (one,) = diagnose(read_report(document({}, sources=[source({"answer too long": 90, "template refuses": 10}, 100)])))
    assert (one.name, one.of) == ("rows lost", "prefs")
    assert "100 of 200 pairs (50.0 %)" in one.says
    assert "90 answer too long, 10 template refuses; the longest has 463 tokens" in one.says
    assert "raise max_length or set overlong: trim_prompt" in one.do
    assert names(document({}, sources=[source({"too long": 10}, 190)])) == []
    assert names(document({}, sources=[source({"too long": 11}, 189)])) == ["rows lost"]


def test_an_effect_that_publishing_rounds_away_is_said_where_it_is_more_than_chance() -> None:
    effect = {"of": "held-out pairs", "pairs": 12, "kept": 0.58, "lost": True}
    data = document({})
    data["steps"][0]["effect"] = effect
    (one,) = diagnose(read_report(data))
    assert (one.name, one.of) == ("effect lost in publishing", "align")
    assert "keeps 58.0 % of what was trained, over 12 held-out pairs" in one.says and "float32" in one.do
    for other in (effect | {"lost": False}, {"of": "held-out pairs", "pairs": 4, "kept": 0.58}, None):
        data["steps"][0]["effect"] = other
        assert names(data) == []


@pytest.mark.parametrize(
    ("align", "more", "wanted"),
    [
        ("Sorry about your kettle. Try it on the lowest setting.", {}, []),
        (" about" * 128, {}, ["answers degenerate"]),
        ("  ", {}, ["answers degenerate"]),
        ("One thing and then another, which is not the same.", {"ended": False, "tokens": 128}, ["answers degenerate"]),
        ("A long story.", {"ended": False, "tokens": 128, "chosen_tokens": 90}, []),
        ("A long answer.", {"tokens": 29}, ["answers grew longer"]),
        ("A longer answer.", {"tokens": 28}, []),
    ],
)
def test_answers_that_are_none_are_said(align: str, more: dict[str, Any], wanted: list[str]) -> None:
    assert names(document({}, samples=[sample("Sorry.", align, **more)] * 5)) == wanted


def test_lengths_are_held_against_the_first_model_that_answers() -> None:
    def three(tokens: int) -> dict[str, Any]:
        one = sample("x" * 300, "A short answer.", tokens=14)
        one["answers"][0] |= {"tokens": 128, "ended": False}
        return one | {"answers": [*one["answers"], {"model": "dpo", "text": "So.", "tokens": tokens, "ended": True}]}

    (one,) = diagnose(read_report(document({}, samples=[three(40)] * 5)))
    assert (one.name, one.of) == ("answers grew longer", "dpo") and "those of align 14" in one.says
    assert names(document({}, samples=[three(28)] * 5)) == []


def test_two_bad_answers_of_five_are_no_diagnosis_and_the_start_model_has_none() -> None:
    bad, good = sample("Sorry.", " about" * 60), sample("Sorry.", "Try the lowest setting.")
    assert names(document({}, samples=[bad, bad, good, good, good])) == []
    assert names(document({}, samples=[bad, bad, bad, good, good])) == ["answers degenerate"]
    before = sample(" about" * 60, "Try the lowest setting.")
    assert names(document({}, samples=[before] * 5)) == []


def test_a_repetition_is_what_whisper_takes_for_one() -> None:
    for text in ("a", "x = 3 + 4 = 7", " about" * 9, " about" * 3, "a" * 40, "The answer is 43. " * 2):
        size = len(text.encode())
        assert repeats(text) == (size / len(zlib.compress(text.encode(), 9)) > 2.4), text
    assert repeats(" about" * 128) and not repeats("3 * 12 = 36, and 36 + 7 = 43. The answer is 43.")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_script_is_no_repetition(text: str) -> None:
    assert not repeats(text) and repeats(text[:20] * 9)
    if not text.isascii():
        assert len(text.encode()) / len(zlib.compress(text.encode(), 9)) > 2.4, "as UTF-8 it would be one"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (" about about about about about", True),
        ("Ha ha ha ha ha ha ha ha", True),
        ("!" * 16, True),
        ("是是是是是是是是是是是是是是是是", True),
        ("no no no", False),
        ("10000000", False),
        ("A line\n----------------\nand all that is below the line.", False),
    ],
)
def test_a_short_loop_is_a_repetition(text: str, wanted: bool) -> None:
    assert repeats(text) == wanted


def test_an_answer_that_repeats_itself_as_the_chosen_one_does_is_sound() -> None:
    rows = ", ".join(f'{{"name": "{name}", "value": {n}}}' for n, name in enumerate("abcdefghij"))
    assert repeats(rows)
    told = sample("Sorry.", rows)
    assert names(document({}, samples=[told] * 5)) == ["answers degenerate"]
    assert names(document({}, samples=[told | {"chosen": rows}] * 5)) == []


def test_a_model_without_room_to_end_is_not_one_that_never_ends() -> None:
    short = sample("Sorry.", "Try it on the lowest.", tokens=13, ended=False)
    assert names(document({}, samples=[short] * 5)) == []
    assert names(document({}, samples=[short | {"chosen_tokens": 6}] * 5)) == ["answers degenerate"]


def test_every_rule_can_be_found_and_has_a_next_step() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    for rule in RULES:
        assert rule.do and f"| {rule.name} |" in guide, rule.name
    assert list(lines([Diagnosis("tie", "align", False, "a", "b")])) == [f"{'align':<20} tie: a", f"{'':<20} b"]
    assert dataclasses.is_dataclass(RULES[0])


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_has_the_interval_of_the_exact_test(drawn: tuple[int, int]) -> None:
    hits, count = drawn
    found = binomtest(hits, count).proportion_ci(method="exact")
    assert exact_interval(hits, count) == pytest.approx((found.low, found.high), abs=1e-9)
    low, high = exact_interval(hits, count)
    assert 0 <= low <= hits / count <= high <= 1 and low < high
    error = error_of(hits / count, count)
    assert (error is None) == (hits in {0, count} or count < 2)


def test_a_share_of_nothing_is_anything() -> None:
    assert exact_interval(0, 0) == (0.0, 1.0)
    assert interval_of(None, 8) is None and interval_of(1.0, 0) is None
    assert figures.share(1.0, 8) == "100.0 (63.1 to 100.0)"
    assert figures.share(0.0, 60) == "0.0 (0.0 to 6.0)"
    assert figures.share(None, 3) == figures.share(0.5, 0) == "–"
    with pytest.raises(ValueError, match="9 of 8"):
        exact_interval(9, 8)
