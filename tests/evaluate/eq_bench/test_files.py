"""EQ-Bench's questions: of which version they are, where they come from, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from eq_bench_example import NAMES, Scripted, both, record, references, written
from raised import raises
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.eq_bench.files import read_questions
from ratchet.evaluate.eq_bench.rules import cut_revision
from ratchet.evaluate.eq_bench.run import run_eq_bench
from ratchet.evaluate.results import TaskResult
from ratchet.plan.task_parts import Files
from ratchet.plan.tasks import EqBench
from tests.conftest import ROOT

OWN = ROOT / "eval/sets/short-feelings.json"


def test_the_published_sets_are_known_by_their_content(shared: Path, tmp_path: Path) -> None:
    for version, count in (("v1", 60), ("v2", 171)):
        path = shared / f"eq_bench/eq_bench_{version}_questions_{count}.json"
        found = read_questions(Files(path=str(path)), version, revision=True)
        assert (found.official, found.label) == (version, f"EQ-Bench {version}, {count} questions")
        content = json.loads(path.read_text())
        again = read_questions(Files(path=str(written(tmp_path / "copy.json", content))), version, revision=False)
        assert again.digest == found.digest
        rows = [{**each, "prompt": cut_revision(each["prompt"]), "reference_answer": repr(each["reference_answer"])}
                for each in content.values()]  # fmt: skip
        cut = read_questions(Files(path=str(written(tmp_path / "rows.json", rows))), version, revision=False)
        assert cut.official == version
        content["7"]["reference_answer_fullscale"]["emotion1_score"] = 10
        changed = read_questions(Files(path=str(written(tmp_path / "x.json", content))), version, revision=False)
        assert (changed.official, changed.label) == (None, f"x.json, {count} questions")


def test_only_the_published_questions_by_their_own_rule_give_an_eq_bench_score(shared: Path) -> None:
    def score(path: Path, version: str) -> TaskResult:
        task = EqBench(kind="eq_bench", questions=Files(path=str(path)), version=version, attempts=1)
        return run_eq_bench("x", task, Candidate(Scripted(lambda prompt, seed: "?"), None, 4096, "scripted"))

    published = shared / "eq_bench/eq_bench_v2_questions_171.json"
    right, other = score(published, "v2"), score(published, "v1")
    first = score(shared / "eq_bench/eq_bench_v1_questions_60.json", "v1")
    assert (first.headline.name, len(first.warnings)) == ("EQ-Bench v1", 1)
    assert "version 1 as published always asks for revision" in first.warnings[0]
    assert (right.headline.name, right.warnings) == ("EQ-Bench v2", ())
    assert other.headline.name == "EQ-Bench v2, 171 questions, by EQ-Bench v1's rule"
    assert "no published figure is made so" in other.warnings[0]


def test_the_questions_that_are_shipped_run_in_every_mode_and_are_not_passed_off_as_eq_bench() -> None:
    content = json.loads(OWN.read_text(encoding="utf-8"))
    for version in ("v1", "v2"):
        for revision in (False, True):

            def say(prompt: str, seed: int, version: str = version, revision: bool = revision) -> str:
                (right,) = (references(each)[version] for each in content.values()
                            if each["prompt"].partition("[End dialogue]")[0] in prompt)  # fmt: skip
                text = "\n".join(f"{name}: {score:.0f}" for name, score in right.items())
                return both(text, text) if revision else text

            task = EqBench(kind="eq_bench", questions=Files(path=str(OWN)), version=version, revision=revision)
            result = run_eq_bench("feelings", task, Candidate(Scripted(say), None, 4096, "scripted"))
            assert result.headline.value == pytest.approx(100)
            assert result.headline.count == len(content) == 10
            assert result.headline.name == f"short-feelings.json, 10 questions, by EQ-Bench {version}'s rule"
            assert "these are not EQ-Bench's" in result.warnings[0]


def test_the_questions_that_are_shipped_share_no_line_with_the_published_ones(shared: Path) -> None:
    lines: list[set[str]] = []
    for path in (
        OWN,
        shared / "eq_bench/eq_bench_v2_questions_171.json",
        shared / "eq_bench/eq_bench_v1_questions_60.json",
    ):
        prompts = (each["prompt"] for each in json.loads(path.read_text(encoding="utf-8")).values())
        lines.append({line for prompt in prompts for line in prompt.splitlines() if len(line.split()) > 3})
    assert lines[0].isdisjoint(lines[1] | lines[2])


def test_rows_of_a_data_set_are_the_same_questions(tmp_path: Path) -> None:
    odd = record(2)["prompt"].replace("Dialogue 2.", "Dialogue\u2028 2.")
    records = [record(1), record(2, prompt=odd)]
    rows = [{key: value if key == "prompt" else repr(value) for key, value in each.items()} for each in records]
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8"
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "nested.parquet")
    written(tmp_path / "rows.json", records)
    written(tmp_path / "byid.json", dict(zip("12", records, strict=True)))
    found = {
        path.name: read_questions(Files(path=str(path)), "v2", revision=True) for path in sorted(tmp_path.iterdir())
    }
    assert len(found) == 5
    assert len({each.digest for each in found.values()}) == 1
    assert found["rows.jsonl"].questions == found["byid.json"].questions
    with raises("data.questions") as caught:
        read_questions(Files(path=str(tmp_path)), "v2", revision=False)
    assert "byid.json, nested.parquet, rows.json" in caught.value.what


REFERENCE = record(1)["reference_answer"]
NO_SCORE = {key: value for key, value in REFERENCE.items() if key != "emotion4_score"}
FULL = "reference_answer_fullscale"


@pytest.mark.parametrize(
    ("records", "at"),
    [
        ({}, "own.json"),
        ("text", "own.json"),
        ({"a": 3}, "question a"),
        ({"a": record(1, prompt=" ")}, "question a"),
        ([record(1), {**record(2), FULL: None}], "question 2"),
        ({"a": record(1, (*NAMES[:3], "Sad"))}, "question a: reference_answer"),
        ({"a": record(1, (*NAMES[:3], "Ill at ease"))}, "question a: reference_answer"),
        ({"a": record(1, **{FULL: {**REFERENCE, "emotion2": None}})}, f"question a: {FULL}"),
        ({"a": record(1, **{FULL: "four"})}, f"question a: {FULL}"),
        ({"a": record(1, **{FULL: NO_SCORE})}, f"question a: {FULL}: emotion4_score"),
        ({"a": record(1, **{FULL: {**REFERENCE, "emotion4_score": "nan"}})}, f"question a: {FULL}: emotion4_score"),
        ({"a": record(1, **{FULL: {**REFERENCE, "emotion4": "Glad"}})}, "question a"),
        ({"a": record(1, prompt="Feel.\n\nFirst pass scores:\nSad: <score>")}, "question a"),
    ],
)
def test_broken_questions_are_named(tmp_path: Path, records: Any, at: str) -> None:
    path = written(tmp_path / "own.json", records)
    with raises("data.questions") as caught:
        read_questions(Files(path=str(path)), "v2", revision=False)
    assert caught.value.where.endswith(at)


def test_what_a_mode_lacks_is_named(tmp_path: Path) -> None:
    short = {key: value for key, value in record(1, prompt="How do they feel?").items() if key != FULL}
    path = str(written(tmp_path / "own.json", {"a": short}))
    found = read_questions(Files(path=path), "v1", revision=False)
    assert cut_revision(found.questions[0].prompt) == "How do they feel?"  # asked as it stands
    with raises("data.questions") as caught:
        read_questions(Files(path=path), "v1", revision=True)
    assert caught.value.where.endswith("question a")
    with raises("data.questions") as caught:
        read_questions(Files(path=path), "v2", revision=False)
    assert caught.value.where.endswith("question a") and "version: v1" in caught.value.fix


def test_files_that_are_absent_damaged_or_of_another_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"1": {"pro')
    (tmp_path / "cut.parquet").write_text("PAR1")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("cut.json", "cut.parquet", "notes.txt", "empty", "absent.json"):
        with raises("data.no-file" if name == "absent.json" else "data.questions") as caught:
            read_questions(Files(path=str(tmp_path / name)), "v2", revision=False)
        assert caught.value.where.endswith(name)


def test_a_repository_of_the_hub_is_read_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "c" * 40
    folder = tmp_path / "datasets--them--feelings/snapshots" / commit
    folder.mkdir(parents=True)
    written(folder / "dataset_infos.json", {})
    (folder / "data").mkdir()
    written(folder / "data/test.json", [record(1)])
    found = read_questions(Files(hub="them/feelings", revision=commit), "v2", revision=True)
    assert found.label == f"hub:them/feelings@{commit}/data/test.json, 1 question"
    with raises("data.hub") as caught:
        read_questions(Files(hub="them/others"), "v2", revision=False)
    assert caught.value.where == "hub:them/others"
