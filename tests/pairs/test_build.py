"""Builders: one wrong result, everything else as it was; one pair for each wrong option."""

from __future__ import annotations

import json
import re
import statistics
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from ratchet.pairs.build import arithmetic_corruption, build_pairs, multiple_choice
from ratchet.pairs.checks import Unfit
from ratchet.pairs.layouts import ChoiceQuestion, Sides
from ratchet.pairs.pair import PreferencePair, Turn, answer_turn
from ratchet.pairs.source import read_source
from ratchet.pairs.worked import Worked, evaluate, read_worked, stated_results
from ratchet.plan.data import Source

ASK = (Turn("user", "q"),)
LONGEST = Source.model_fields["max_characters"].default
PAPER = (
    "So the total cost for each player is $\\$25 + \\$15.20 + \\$6.80 = \\$47$. Since there are sixteen players, "
    "the total cost for all of them is $16 * \\$47 = \\$752$. #### 752 The answer is: 752"
)


def corrupted(text: str, seed: int = 0) -> tuple[str, str]:
    ((prompt, chosen, rejected),) = arithmetic_corruption(Sides(ASK, answer_turn(text), None), seed)
    assert prompt == ASK
    assert rejected is not None
    return chosen.content, rejected.content


def change(chosen: str, rejected: str) -> tuple[str, str, str, str]:
    """Return what comes before the changed number, the number on either side, and what comes after."""
    numbers = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+")
    left, right = list(numbers.finditer(chosen)), list(numbers.finditer(rejected))
    at = [i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a[0] != b[0]]
    assert len(at) == 1, "exactly one number differs"
    a, b = left[at[0]], right[at[0]]
    assert chosen[: a.start()] == rejected[: b.start()]
    assert chosen[a.end() :] == rejected[b.end() :]
    return chosen[: a.start()], a[0], b[0], chosen[a.end() :]


def test_the_papers_own_example() -> None:
    """Smaug, appendix D: 47 becomes another number; 16 * $47 = $752 and the answer stay."""
    seen = set()
    for seed in range(40):
        chosen, rejected = corrupted(PAPER, seed)
        assert chosen == PAPER
        before, old, new, after = change(chosen, rejected)
        assert before.endswith("\\$6.80 = \\$")
        assert old == "47"
        assert after.startswith("$. Since")
        seen.add(new)
    assert len(seen) > 5
    assert "47" not in seen


def test_calculator_marks_go_from_both_sides() -> None:
    text = "She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=72>>72 clips.\n#### 72"
    chosen, rejected = corrupted(text)
    assert chosen == "She sold 48/2 = 24 clips in May.\nIn all 48+24 = 72 clips.\n#### 72"
    assert change(chosen, rejected)[:2] == ("She sold 48/2 = ", "24")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("10000/8=<<10000/8=1250>>1,250 hours. Then 2*1,250 = 2,500. #### 2500", ["1,250"]),
        ("12/60 = $<<12/60=0.2>>0.2 a minute; 50 x .2 = <<50*.2=10>>10. #### 10", ["0.2"]),
        ("A third is 10/3 = 3.33. 2 * 3.33 = 6.66. The answer is 6.66.", ["3.33"]),
        ("5/20 = 25% of it. 25 + 1 = 26. The answer is 26", ["25"]),
        ("3 × 4 = 12, 12 ÷ 4 = 3, (3 + 2) * 2 = 10. The answer is 10.", ["12", "3"]),
        ("1 + 1 = 2. 2 + 2 = 4.", ["2"]),
        ("1 + 1 = 2. 2 + 2 = 4. The answer is 9.", ["2", "4"]),
        ("1 + 1 = 2 + 3 = 5. 2 + 2 = 4. 4 + 4 = 8", ["5", "4"]),
        ("7 + 5 = 13. 13 + 1 = 14. 14 + 1 = 15", ["14"]),
        ("It is .5 * .5 = .25 and 4 * .25 = 1. #### 1", [".25"]),
        ("3 + 3 = 6. 6 - 1 = 5. The answer is 5, and 5 + 5 = 10.", ["6"]),
        ("x + 3 = 5", []),
        ("no numbers here", []),
        ("10 - 4 = 6.", []),
    ],
)
def test_which_calculations_are_intermediate(text: str, numbers: list[str]) -> None:
    worked = read_worked(text)
    assert [worked.text[item.start : item.stop] for item in worked.intermediate] == numbers
    if not numbers:
        with pytest.raises(Unfit) as caught:
            corrupted(text)
        assert caught.value.reason == "no intermediate calculation"
        return
    for seed in range(30):
        _, old, new, _ = change(*corrupted(text, seed))
        assert old in numbers
        assert ("," in new, len(new.partition(".")[2])) == ("," in old, len(old.partition(".")[2]))


STATED = [
    ("60 miles/hour * 3 hours = 180 miles. Then 180 miles + 20 miles = 200 miles. The answer is: 200", ["180"]),
    ("3 boxes x 4 balls = 12 balls. 12 balls - 2 balls = 10 balls. #### 10", ["12"]),
    ("20% of 50 apples = 10 apples. 50 apples - 10 apples = 40 apples. #### 40", ["10"]),
    ("$\\frac{1}{2} \\times 30 = 15$ of them, and $\\frac{15}{5} + 1 = 4$. The answer is: 4", ["15"]),
    ("5x + 14 = 49, as told. So 5x = 35 and x = 7. The value of x is 7. #### 7 The answer is: 7", ["35"]),
    ("12 * 102 = 17 * $X$\n1224 = 17 * $X$\nThen\n$X$ = 72\nThe value of X is 72.", ["1224"]),
    ("$2.75 - $1.50 = $0.25 * X\n$1.25 = $0.25 * X\nX = 5. The answer is 5", ["1.25"]),
    ("We know that c + 2c = 49, so the total is c = 7. #### 7", ["49"]),
    ("10 - 4 = 6. \\boxed{6}", ["6"]),
    ("Twice five is 10. With 3 more there are 13. #### 13", ["10", "3"]),
    ("The dog has 12 bones. The answer is 12", ["12"]),
    ("60 miles/hour * 3 hours = 190 miles, so 5. The answer is 5", ["60", "3"]),
    ("$\\sqrt{(-2)^2+(-1)^2}=\\sqrt{4+1}=\\sqrt{5}$, or $\\boxed{\\sqrt{5}}$. The answer is: \\sqrt{5}", ["4", "1"]),
    ("$(x+1)^3 = x^3 + 3x^2 + 3x + 1$, so it is $\\boxed{3}$. The answer is: 3", ["1", "1"]),
    ("As $\\cos \\pi = -1$, $x = 49$, it is $\\boxed{\\pi}$. The answer is: \\pi", ["1"]),
    ("$x_2 = y^{10} z^2$, so it is $\\boxed{\\pi}$. The answer is: \\pi", []),
    ("The value of the unknown variable x is 12, as\n24 = 2 * x\nThe value of the unknown variable x is 12.", ["24"]),
    ("In all:\n4 * 5 = 20 dollars\nThe value of the unknown variable x is 20. Ann found 20 dollars.", ["20"]),
    ("x - 33 + 20 > 32\nx - 13 > 32\nx > 45\nSo it is greater than 45.", ["32", "32"]),
    ("With b apples, b + x = 4b.\n3b = 90.\nx = 90.\nSo nobody can say what x is.", ["90", "90"]),
    ("There are 3 of them.\nIt is greater than 45.", []),
    ("Now 12 < 50, and 3 + 1 < 7.\n2x > 10\nSo x is more than five.", ["10"]),
    ("x = 5\ny = 7\nprint(x)", []),
    ("x^2 = 100 and x = 10", []),
    ("That is all. The answer is 12", []),
]


@pytest.mark.parametrize(("text", "numbers"), STATED)
def test_what_is_changed_where_no_sum_of_numbers_alone_is_found(text: str, numbers: list[str]) -> None:
    """Units, fractions, unknowns, one sum, words: the surest result on the way, and never the answer as it is said."""
    assert read_worked(text).intermediate == ()
    found = stated_results(text, "The question gives 49 of them.")
    assert [text[item.start : item.stop] for item in found] == numbers
    for seed in range(10 * bool(numbers)):
        chosen, rejected = corrupted(text, seed)
        _, old, new, after = change(chosen, rejected)
        assert old != new
        assert after.rpartition(" ")[2] == text.rpartition(" ")[2], "the answer stays"


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("1000 * 130 = 130,000. 130,000 + 1 = 130,001. #### 130001", 1000),
        ("4 * 2.50 = 10.00. 10 + 1 = 11 #### 11", 0.1),
    ],
)
def test_a_slip_is_seen_in_the_size_of_the_number(text: str, least: float) -> None:
    for seed in range(60):
        _, old, new, _ = change(*corrupted(text, seed))
        assert 0.99 * least <= abs(float(new.replace(",", "")) - float(old.replace(",", ""))) <= 91 * least


def test_a_rounded_result_is_not_replaced_by_another_rounding() -> None:
    wrong = {change(*corrupted("20/3 = 6.67. 6.67 + 1 = 7.67. The answer is 7.67", seed))[2] for seed in range(200)}
    assert "6.66" not in wrong
    assert len(wrong) > 10


@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(2, 1000), st.integers(0, 5))
def test_generated_sums_get_one_wrong_result(row: int, steps: int, largest: int, seed: int) -> None:
    spec = {"kind": "arithmetic", "steps": steps, "largest": largest, "seed": row, "rows": 1}
    source = Source.model_validate({"generate": spec, "build": "arithmetic_corruption", "seed": seed})
    (pair,) = read_source(source)
    assert isinstance(pair, PreferencePair)
    (plain,) = read_source(Source.model_validate({"generate": spec}))
    assert isinstance(plain, PreferencePair)
    assert pair.chosen == plain.chosen
    *wrong, _ = (pair.rejected.content if pair.rejected else "").split(". ")
    results = [(sum_of(line.partition(" = ")[0]), int(line.partition(" = ")[2])) for line in wrong]
    assert [left == right for left, right in results].count(False) == 1
    assert results[-1][0] == results[-1][1], "the final answer's own calculation stays right"
    assert all(right >= 0 for _, right in results)
    assert list(read_source(source)) == [pair], "seeded by the row alone"


def sum_of(text: str) -> int:
    left, sign, right = text.split()
    return int(left) + int(right) if sign == "+" else int(left) - int(right)


NUMBERS = st.integers(0, 99).map(str)
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
        lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
    ),
    max_leaves=8,
)


@given(st.lists(EXPRESSIONS, min_size=1, max_size=4), st.data())
def test_the_evaluator_agrees_with_python(parts: list[str], data: st.DataObject) -> None:
    signs = [data.draw(st.sampled_from("+-*/")) for _ in parts[1:]]
    text = parts[0] + "".join(f" {sign} {part}" for sign, part in zip(signs, parts[1:], strict=True))
    try:
        expected = eval(re.sub(r"(\d+)", r"Fraction(\1)", text), {"Fraction": Fraction})  # noqa: S307 - made above
    except ZeroDivisionError:
        expected = None
    assert evaluate(text) == expected


@given(st.text(alphabet="0123456789+-*/x=.,()$%<># \\answeri:", max_size=80))
def test_any_text_is_read_and_only_right_results_are_chosen(text: str) -> None:
    worked = read_worked(text)
    for item in worked.intermediate:
        number = Fraction(worked.text[item.start : item.stop].replace(",", ""))
        places = len(worked.text[item.start : item.stop].partition(".")[2])
        assert abs(number - item.exact * item.scale) < Fraction(1, 10**places)


HOSTILE = (
    "1+",
    "1",
    "1 ",
    "(",
    "<<",
    "<<1+",
    "= ",
    "1 + 1 = ",
    "$",
    "1,",
    "1.",
    "answer is ",
    "#### 1 + ",
    "=1",
    "\\boxed{",
)


@pytest.mark.timeout(1800)  # ends a reading that is not linear: one of the square of the length goes on for an hour
@pytest.mark.parametrize("length", [LONGEST // 10, pytest.param(2 * LONGEST, marks=pytest.mark.slow)])
def test_hostile_texts_are_read_to_their_end(length: int) -> None:
    """Up to twice the longest text that a source takes by default, of what a pattern could try again and again."""
    for piece in HOSTILE:
        text = piece * (length // len(piece))
        assert read_worked(text) == Worked(text, ())
        assert len(stated_results(text + "x #### 1,000,001", "")) <= length


@pytest.mark.slow
def test_gsm8k(shared: Path) -> None:
    source = Source(path=str(shared / "gsm8k/train.jsonl"), build="arithmetic_corruption", max_rows=None)
    items = list(read_source(source))
    pairs = [item for item in items if isinstance(item, PreferencePair)]
    assert (len(items), len(pairs)) == (7473, 7472)
    distances = []
    rows = [json.loads(line) for line in (shared / "gsm8k/train.jsonl").read_text().splitlines()]
    for pair in pairs:
        assert pair.rejected is not None
        chosen, rejected = pair.chosen.content, pair.rejected.content
        assert "<<" not in chosen
        assert chosen == re.sub(r"<<[^<>]*=[^<>]*>>", "", rows[pair.row - 1]["answer"])
        _, _, _, after = change(chosen, rejected)
        assert after.partition("####")[2] == chosen.partition("####")[2] != ""
        words = [re.findall(r"\w+|[^\w\s]", text) for text in (chosen, rejected)]
        distances.append(Levenshtein.normalized_distance(*words))
    assert 0.01 < statistics.median(distances) < 0.065


@pytest.mark.heavy
def test_every_backward_answer_of_metamath_gives_a_pair(shared: Path, tmp_path: Path) -> None:
    """Answers that a model gave to GSM8K's questions turned round, from MetaMath's own repository."""
    path = shared / "metamath/GSM8K_Backward.jsonl"
    if not path.is_file():
        pytest.skip(f"no backward answers in {path}: it is data/test/GSM8K_Backward.jsonl of meta-math/MetaMath")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for key, count, built in (("inv_question_pred_answer", 613, 613), ("output", 657, 656)):
        held = [{"query": row["question"], "response": row[key]} for row in rows if key in row]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
        items = list(read_source(Source(path=str(tmp_path / "rows.jsonl"), build="arithmetic_corruption")))
        pairs = [item for item in items if isinstance(item, PreferencePair)]
        assert (len(held), len(pairs)) == (count, built), key
        for pair in pairs:
            assert pair.rejected is not None
            before, old, new, after = change(pair.chosen.content, pair.rejected.content)
            assert old != new and before + old + after == pair.chosen.content == held[pair.row - 1]["response"]
            # The last statement of the answer stays, and where there is none the last line.
            assert after.splitlines()[-1:] == pair.chosen.content.splitlines()[-1:]


def test_multiple_choice_gives_one_pair_for_each_wrong_option() -> None:
    question = ChoiceQuestion(ASK, ("w", "a", "v", "u"), 1)
    right, *wrong = map(answer_turn, "awvu")
    assert multiple_choice(question, 0) == [(ASK, right, option) for option in wrong]
    assert build_pairs(question, None, 0) == [(ASK, right, None)]
