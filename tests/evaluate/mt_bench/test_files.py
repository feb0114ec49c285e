"""FastChat's files: broken ones, its folders, the project's own set, recorded judgments and their replay."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from endpoint_server import chat
from raised import raises
from ratchet.errors import DataError
from ratchet.evaluate.judges.kinds import ReplayEngine
from ratchet.evaluate.mt_bench.files import read_set
from ratchet.plan.task_parts import Files
from ratchet.serving.requests import Answer
from recorded_judgments import read_judgments, talk_scores
from tests.conftest import ROOT

SHORT = ROOT / "eval/sets/short-chat"


def change(name: str, edit: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], object]:
    """Change the rows of a file of a question set."""

    def apply(folder: Path) -> None:
        path = folder / name
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        edit(rows)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return apply


QUESTIONS, AUTHORS, PROMPTS = "question.jsonl", "reference_answer/authors.jsonl", "judge_prompts.jsonl"


@pytest.mark.parametrize(
    ("spoil", "at"),
    [
        (lambda folder: (folder / QUESTIONS).write_text("\n"), QUESTIONS),
        (lambda folder: (folder / QUESTIONS).write_text("{}\n{"), "question.jsonl:1"),
        (lambda folder: (folder / QUESTIONS).write_text('[1]\n'), "question.jsonl:1"),
        (lambda folder: (folder / QUESTIONS).write_bytes(b"\xff\xfe"), QUESTIONS),
        (lambda folder: (folder / QUESTIONS).unlink(), "mine"),
        (change(QUESTIONS, lambda rows: rows.append(rows[0])), "question.jsonl:17"),
        (change(QUESTIONS, lambda rows: rows[3].pop("category")), "question.jsonl:4"),
        (change(QUESTIONS, lambda rows: rows[3].update(turns=["one"])), "question.jsonl:4"),
        (change(QUESTIONS, lambda rows: rows[3].update(turns="ab")), "question.jsonl:4"),
        (change(QUESTIONS, lambda rows: rows[3].update(question_id=True)), "question.jsonl:4"),
        (lambda folder: (folder / AUTHORS).unlink(), "reference_answer"),
        (change(AUTHORS, lambda rows: rows.pop()), AUTHORS),
        (change(AUTHORS, lambda rows: rows[0].pop("choices")), "authors.jsonl:1"),
        (change(AUTHORS, lambda rows: rows.append(rows[0])), "authors.jsonl:7"),
        (lambda folder: (folder / PROMPTS).unlink(), "mine"),
        (change(PROMPTS, lambda rows: rows.pop()), PROMPTS),
        (change(PROMPTS, lambda rows: rows.append(rows[0])), "judge_prompts.jsonl:5"),
        (change(PROMPTS, lambda rows: rows[0].pop("system_prompt")), "judge_prompts.jsonl:1"),
        (change(PROMPTS, lambda rows: rows[0].update(prompt_template="{question} {")), "judge_prompts.jsonl:1"),
        (
            change(PROMPTS, lambda rows: rows[0].update(prompt_template="{question} {answer.x} [[rating]]")),
            "judge_prompts.jsonl:1",
        ),
        (
            change(PROMPTS, lambda rows: rows[0].update(prompt_template="{question} {answer!r} [[rating]]")),
            "judge_prompts.jsonl:1",
        ),
        (change(PROMPTS, lambda rows: rows[0].update(prompt_template="{question} {answer}")), "judge_prompts.jsonl:1"),
    ],
)  # fmt: skip
def test_broken_files_are_told_with_their_line(tmp_path: Path, spoil: Callable[[Path], object], at: str) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(SHORT, folder)
    assert read_set(Files(path=str(folder)), "authors").name == "mine (16 questions; not MT-Bench)"
    spoil(folder)
    with pytest.raises(DataError) as caught:
        read_set(Files(path=str(folder)), "authors")
    assert caught.value.where.endswith(at) and caught.value.code in {"data", "data.questions"}


def test_fastchats_folders_are_known_and_a_reference_set_has_its_digest(tmp_path: Path) -> None:
    same = read_set(Files(path=str(SHORT)), "authors").settings
    home = tmp_path / "data/mt_bench"
    shutil.copytree(SHORT, home)
    (home / PROMPTS).rename(tmp_path / "data" / PROMPTS)
    (home / AUTHORS).rename(home / "reference_answer/others")
    for path in (tmp_path, tmp_path / "data", home, home / QUESTIONS):
        found = read_set(Files(path=str(path)), "others")
        assert {key for key in same if found.settings[key] != same[key]} <= {"question_set", "reference_set"}
    path = home / "reference_answer/others"
    path.write_text(path.read_text().replace("2.4 hours", "2.5 hours"))
    assert read_set(Files(path=str(home)), "others").settings["references_digest"] != same["references_digest"]
    with raises("data.no-file"):
        read_set(Files(path=str(tmp_path / "absent")), "x")


def test_a_set_on_the_hub_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with raises("data.hub") as caught:
        read_set(Files(hub="someone/chat", repository="space"), "x")
    assert caught.value.where == "hub:someone/chat" and "questions: {path" in caught.value.fix


def test_the_references_of_the_short_set_are_right() -> None:
    reference = {q.question_id: q.reference for q in read_set(Files(path=str(SHORT)), "authors").questions}

    def orders(green: int) -> list[str]:
        rows = [row for row in itertools.permutations(["red", "blue", "green", "yellow"]) if row[green] == "green"]
        right = [r for r in rows if r.index("red") < r.index("blue") and r.index("yellow") == r.index("blue") + 1]
        return [", ".join(row) for row in right]

    (left,), (right,) = orders(0), orders(3)
    assert left in reference[5][0].lower() and f"exactly one: {right}." in reference[5][1]
    assert Fraction(240, 240 // 6 + 240 // 4) == Fraction("2.4") and "2.4 hours" in reference[7][0]
    assert Fraction(240, 240 // 6 + 240 // 4 - 240 // 8) == Fraction(24, 7) and "24/7" in reference[7][1]
    throws = [(a, b) for a in range(1, 7) for b in range(1, 7) if a + b == 8]
    assert (len(throws), sum(a == b for a, b in throws)) == (5, 1)
    assert reference[8][0].startswith("5/36") and reference[8][1].startswith("1/5")
    space: dict[str, Any] = {}
    for text in (*reference[9], reference[10][1]):
        exec(text.partition("\n\n")[0], space)  # noqa: S102 - the project's own reference answers
    for values in ([], [3, 3, 5, 3], [1], list("aabbba")):
        assert space["unroll"](space["runs"](values)) == values
        assert space["runs"](values) == [(key, len(list(part))) for key, part in itertools.groupby(values)]
    for numbers in ([], [5, 5], [5, 5, 3], [1, 2, 3], [3, 2, 1, 3], [-1, -2, -2]):
        distinct = sorted(set(numbers))
        assert space["second"](numbers) == (distinct[-2] if len(distinct) > 1 else None)


def judgment(**changes: object) -> dict[str, object]:
    row = {"question_id": 1, "model": "m", "judge": ["gpt-4", "single-v1"], "user_prompt": "p", "turn": 1}
    return {**row, "judgment": "[[7]]", "score": 7, "tstamp": 1.5, **changes}


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_equal_judgments_are_one_and_others_of_the_same_are_refused(tmp_path: Path) -> None:
    one, late, two = judgment(), judgment(tstamp=9.0), judgment(turn=2, judgment="eh", score=-1)
    path = write(tmp_path / "a.jsonl", one, two, late, judgment(model="n", judgment="[[1.5]]", score=1.5))
    scores = talk_scores(read_judgments([path, path]), {1: "math"})
    assert [(s.name, s.value, s.count) for s in scores["m"][1:3]] == [("turn 1", 7.0, 1), ("turn 2", None, 0)]
    assert scores["m"][0].value is None and scores["n"][0].value == 1.5
    other = write(tmp_path / "b.jsonl", two, judgment(judgment="[[8]]", score=8))
    with pytest.raises(ValueError, match=r"b.jsonl:2: another judgment"):
        read_judgments([path, other])


def test_a_rating_out_of_range_in_a_recording_is_missing(tmp_path: Path) -> None:
    rows = [judgment(question_id=n, judgment="[[85]]" if not n else "[[8]]", score=8 if n else 85) for n in range(40)]
    (scores,) = talk_scores(read_judgments([write(tmp_path / "a.jsonl", *rows)]), {}).values()
    assert (scores[0].value, scores[0].count, scores[0].note) == (8.0, 39, "1 of 40 judgments are missing")


def test_a_replay_says_what_was_said_and_makes_nothing_up(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        judgment(),
        judgment(tstamp=3.0, model="n"),
        judgment(user_prompt="q", judgment="[[1]]"),
        judgment(user_prompt="q", judgment="[[2]]"),
        judgment(user_prompt="r", judge=["claude", "single-v1"]),
    )
    replay = ReplayEngine(path, "gpt-4")
    found = replay.attempt([chat("p"), chat("q"), chat("r"), chat("p", temperature=0.1, seed=1)])
    assert found[0] == Answer("[[7]]", "stop")
    says_ = [f"{type(one).__name__}: {one.what}" for one in found[1:]]
    assert says_[0].startswith("DataError: several judgments in the recording for")
    assert all(one.startswith("DataError: not in the recording for") for one in says_[1:])
    with raises("data.questions") as caught:
        ReplayEngine(path, "gpt")
    assert "claude, gpt-4" in caught.value.fix
    with raises("data.questions") as caught:
        ReplayEngine(write(tmp_path / "b.jsonl", {"judge": [], "user_prompt": "p", "judgment": "x"}), "gpt-4")
    assert caught.value.where.endswith("b.jsonl:1")
