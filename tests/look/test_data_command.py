"""`ratchet data` on files: what it counts, shows and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ratchet.cli import main


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(count: int) -> list[dict[str, Any]]:
    """Return rows of the layout `pair` whose answers have 10 + i and 20 + i characters, after prompts of 5 + i."""
    return [
        {"prompt": "p" * (5 + i), "chosen": "c" * (10 + i), "rejected": "r" * (20 + i), "id": i} for i in range(count)
    ]


def report_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the document of `ratchet data … --json`."""
    status = main(["data", *words, "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, found


def test_a_file_is_counted_as_a_run_counts_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*pairs(100), pairs(1)[0], {"prompt": "q", "chosen": "same", "rejected": "same"}, {"prompt": "q"}]
    status, report = report_of(capsys, str(write_rows(tmp_path / "rows.jsonl", rows)))
    (source,) = report["sources"]
    assert (status, source["layout"], source["name"]) == (0, "pair", "rows")
    assert set(source["read_columns"]) == {"prompt", "chosen", "rejected"} and source["unread_columns"] == ["id"]
    assert (source["read"], source["kept"], source["train"] + source["heldout"]) == (103, 100, 100)
    assert source["skipped"] == {"chosen = rejected": 1, "duplicate": 1, "missing field": 1}
    assert {place["row"] for place in source["first_skipped"]} == {101, 102, 103}


def test_lengths_are_those_of_the_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prompt and longer answer have 25 + 2 i characters, for i from 0 to 99."""
    _, report = report_of(capsys, str(write_rows(tmp_path / "rows.jsonl", pairs(100))), "--max-length", "50")
    lengths = report["sources"][0]["lengths"]
    totals = sorted(25 + 2 * i for i in range(100))
    parts = lengths["parts"]
    assert list(parts["total"].values()) == [totals[0], *(totals[n - 1] for n in (50, 90, 95, 99)), totals[-1]]
    assert (parts["prompt"]["p50"], parts["chosen"]["p50"], parts["rejected"]["p50"]) == (54, 59, 69)
    assert lengths["to_lose"] == {"0": totals[99], "1 %": totals[98], "5 %": totals[94]}
    assert sum(lengths["counts"]) == 100
    # Four characters are taken for a token, and 50 tokens are 200 of them.
    assert lengths["limits"][0]["lost"] == sum(total > 200 for total in totals) == 12


def test_the_text_fits_a_terminal_and_begins_with_the_worst(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [{"prompt": f"q{i}", "chosen": "", "rejected": "r"} for i in range(20)]
    good, wide = write_rows(tmp_path / "good.jsonl", pairs(40)), write_rows(tmp_path / "bad.jsonl", bad + pairs(20))
    assert main(["data", str(good), str(wide)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    first = next(line for line in lines if line.startswith(("STOPS", "WARNS", "notes")))
    assert first == "STOPS  bad: 20 of 40 rows are bad (50.0%, the limit is 5.0%): 20 empty text"


def test_what_cannot_be_read_is_said_beside_what_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    odd = write_rows(tmp_path / "odd.jsonl", [{"left": "a", "right": "b"}] * 30)
    files = [str(empty), str(odd), str(tmp_path / "absent.jsonl"), str(write_rows(tmp_path / "one.jsonl", pairs(1)))]
    status, report = report_of(capsys, *files, "--set", "held_out=0")
    problems = {source["name"]: source["problem"] for source in report["sources"]}
    assert status == 3 and problems["one"] == ""
    assert "no rows" in problems["empty"] and "left, right" in problems["odd"] and "no such file" in problems["absent"]
    assert [one["code"] for one in report["verdicts"]] == ["data.no-rows", "data.no-layout", "data.no-file"]
    assert report["sources"][3]["train"] == 1


def test_some_rows_keep_their_numbers_and_are_called_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"question {i}", "chosen": f"{'long ' * 2_000}{i}", "rejected": f"no {i}"} for i in range(300)]
    status, report = report_of(capsys, str(write_rows(tmp_path / "rows.jsonl", rows)), "--rows", "12")
    (source,) = report["sources"]
    assert status == 0 and not source["whole"] and 12 <= source["read"] <= 15
    assert [one["code"] for one in report["verdicts"] if one["gravity"] == "notes"] == ["sample"]
    for pair in source["shown"]:
        assert pair["parts"][0]["head"][0]["text"] == f"question {pair['place']['row'] - 1}"
    assert max(pair["place"]["row"] for pair in source["shown"]) > 100, "rows are from all over the file"


def test_a_column_that_would_be_lost_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}", "kto_tag": i % 2 == 0} for i in range(30)]
    status, report = report_of(capsys, str(write_rows(tmp_path / "rows.jsonl", rows)))
    assert status == 3 and "kto_tag" in report["verdicts"][0]["says"] + report["sources"][0]["problem"]


def test_keys_of_a_source_can_be_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write_rows(tmp_path / "rows.jsonl", pairs(30)))
    _, report = report_of(capsys, file, "--set", "where=[id >= 10]", "--set", "system=Be brief.")
    assert report["sources"][0]["skipped"] == {"where": 10}
    assert "id" in report["sources"][0]["read_columns"] and report["sources"][0]["unread_columns"] == []
    assert report["sources"][0]["shown"][0]["parts"][0]["head"][0]["text"] == "Be brief."


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("layuot=pair", "--set layuot: no such key; did you mean layout?"),
        ("max_bad_share=2", "--set max_bad_share: must be a number from 0 to 1, not 2"),
        ("ignore=label", '--set ignore: must be a list of texts, not "label"; did you mean [label]?'),
        ("columns.promt=q", "--set columns.promt: no such key; did you mean columns.prompt?"),
        ("build=foo", '--set build: must be arithmetic_corruption, multiple_choice or null, not "foo"'),
        ("layout", "--set layout: write it as dotted.key=value"),
        ("where=[", "--set where: "),
    ],
)
def test_a_key_that_cannot_be_set_is_told_with_what_is_allowed(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(write_rows(tmp_path / "rows.jsonl", pairs(3)))
    assert main(["data", file, "--set", words, "--set", "held_out=2"]) == 2
    # Both mistakes are reported together, as they are for a plan.
    first, second = capsys.readouterr().err.splitlines()
    assert said in first and "--set held_out: must be" in second


def test_files_of_one_name_are_sources_of_different_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("x-3.jsonl", "x.jsonl", "y/x.jsonl", "z/x.jsonl")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_rows(tmp_path / name, pairs(30))
    _, report = report_of(capsys, *(str(tmp_path / name) for name in names))
    assert [one["name"] for one in report["sources"]] == ["x-3", "x", "x-2", "x-4"]


def test_one_of_a_thing_is_not_said_in_the_plural(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "Which?", "chosen": f"it is {i}!", "rejected": f"it is {i}"} for i in range(10, 40)]
    _, report = report_of(capsys, str(write_rows(tmp_path / "rows.jsonl", rows)), "--set", "held_out=0")
    said = {one["code"]: one["says"] for one in report["sources"][0]["analyses"]}
    assert said["prompts"].startswith("30 pairs have 1 prompt, which opens in 1 way;")
    assert "1 character longer" in said["length-bias"]


@pytest.mark.parametrize("page", ["absent/page.html", "."])
def test_a_page_that_cannot_be_written_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], page: str
) -> None:
    file = str(write_rows(tmp_path / "rows.jsonl", pairs(30)))
    assert main(["data", file, "--page", str(tmp_path / page)]) == 2
    said = capsys.readouterr()
    assert "--page" in said.err and not said.out


def test_what_two_answers_of_one_question_say_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six questions have A over B and B over A. `tests/pairs/test_quality.py` holds each analysis to its definition."""
    rows = [
        {
            "prompt": f"Which of the two is number {i}?",
            "chosen": f"the {left} of {i}",
            "rejected": f"the {right} of {i}",
        }
        for i in range(6)
        for left, right in (("former", "latter"), ("latter", "former"))
    ]
    file = str(write_rows(tmp_path / "rows.jsonl", rows))
    _, report = report_of(capsys, file)
    found = {one["code"]: one["count"] for one in report["sources"][0]["analyses"]}
    assert found["contradictions"] == 6 and found["duplicates"] == 0
    assert [one["code"] for one in report["verdicts"] if one["gravity"] == "warns"] == ["contradictions"]
    main(["data", file])
    text = capsys.readouterr().out
    assert "WARNS  rows: 6 comparisons are decided both ways" in text and "not found: " in text


def test_a_fault_is_said_once_and_names_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent.jsonl"
    assert main(["data", str(absent)]) == 3
    said = "".join(capsys.readouterr().out.split())  # whatever the width
    assert said.count("nosuchfileorfolder") == 1 and f"{absent}:nosuch" in said and "1reason" in said
    assert "lengths" not in said, "nothing is said of lengths where nothing was read"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rows.jsonl", "--max-length", "0"], "--max-length"),
        (["rows.jsonl", "--model", "./absent"], "no such folder"),
        (["rows.jsonl", "--model", ""], "no such folder"),
        (["rows.jsonl", "--rows", "0"], "--rows"),
        (["plan.yaml", "rows.jsonl"], "alone"),
        (["plan.yaml", "--model", "some/model"], "--model goes with files"),
        (["plan.yaml", "--max-length", "9"], "--max-length goes with files"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(Path("rows.jsonl"), pairs(30))
    assert main(["data", *words]) == 2
    captured = capsys.readouterr()
    assert said in captured.err.splitlines()[0] and captured.out == ""


PLAN = """\
name: shared
model: {name: some/model}
data:
  some: {path: some.jsonl, held_out: 0}
  more: {path: more.jsonl, held_out: 0}
  test: {path: test.jsonl, held_out: 0.99}
stages:
  align: {kind: dpo, data: [some, more], batch: 4, learning_rate: 1e-3}
  after: {kind: dpo, data: [test], batch: 4, learning_rate: 1e-3}
cluster: {storage: out}
"""


def test_what_sources_share_is_a_verdict_where_it_does_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`some` and `more` have 5 rows in common, and `test` holds out rows of `some`."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Is {i} even?", "chosen": f"See {i}.", "rejected": f"No, {i}!"} for i in range(120)]
    write_rows(Path("some.jsonl"), rows[:20])
    write_rows(Path("more.jsonl"), rows[15:40])
    write_rows(Path("test.jsonl"), [*rows[:3], *rows[40:]])
    Path("plan.yaml").write_text(PLAN)
    _, report = report_of(capsys, "plan.yaml")
    shared = {
        (one["left"], one["right"], one["held_out"]): (one["pairs"], one["prompts"]) for one in report["overlaps"]
    }
    assert shared["some", "more", False] == (5, 5)
    held = shared.get(("some", "test", True), (0, 0))[0]
    assert held + shared.get(("some", "test", False), (0, 0))[0] == 3
    said = [one["says"] for one in report["verdicts"] if one["code"] == "overlap"]
    assert "some and more share 5 pairs and 5 prompts: gains on one may be memory of the other" in said
    assert held and any(one.startswith(f"some trains on {held} pairs") for one in said)
    assert len(said) == 2, "stages one after another may see the same pairs"
    main(["data", "plan.yaml"])
    assert "5 pairs and 5 prompts of some are in the train part of more" in capsys.readouterr().out


def test_where_nothing_is_left_that_is_all_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "", "rejected": "r"} for i in range(30)]
    file = str(write_rows(tmp_path / "rows.jsonl", rows))
    _, report = report_of(capsys, file)
    assert [one["code"] for one in report["verdicts"]] == ["data.bad-rows"], "a run ends at the first"
    main(["data", file])
    assert "0 pairs" not in capsys.readouterr().out
