"""`ratchet data` on a plan whose data have items of its suites."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet.cli import main

EVAL = Path(__file__).parents[2] / "eval"


def planned(folder: Path, asked: list[str], tasks: dict[str, Any], **more: Any) -> Path:
    """Write a plan of one source that asks some questions, and a suite; return the plan's file."""
    rows = [{"prompt": one, "chosen": f"yes {at}", "rejected": f"no {at}"} for at, one in enumerate(asked)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks, **more}), encoding="utf-8")
    plan = {
        "name": "p",
        "model": {"path": str(folder / "model")},
        "data": {"d": {"path": str(folder / "rows.jsonl"), "held_out": 0}},
        "stages": {"s": {"kind": "dpo", "data": ["d"]}},
        "evaluate": [str(folder / "suite.yaml")],
        "cluster": {"storage": str(folder / "store")},
    }
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}", encoding="utf-8")
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    return folder / "plan.yaml"


def report_of(plan: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    main(["data", str(plan), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def contamination(report: dict[str, Any]) -> dict[str, Any]:
    (found,) = [one for one in report["sources"][0]["analyses"] if one["code"] == "contamination"]
    return dict(found)


def test_items_of_each_kind_of_task_are_looked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = EVAL / "sets"
    talk = json.loads((sets / "short-chat/question.jsonl").read_text(encoding="utf-8").splitlines()[0])["turns"]
    feeling = next(iter(json.loads((sets / "short-feelings.json").read_text(encoding="utf-8")).values()))["prompt"]
    problem = json.loads((sets / "word_problems.jsonl").read_text(encoding="utf-8").splitlines()[0])["question"]
    story = (sets / "lighthouse.txt").read_text(encoding="utf-8")
    asked = [max(talk, key=len), feeling, problem, story[200:500], "What is new?"]
    judge = {"kind": "endpoint", "base_url": "http://judge.example/v1", "model": "m"}
    kinds = {
        "talk": {
            "kind": "mt_bench",
            "questions": {"path": str(sets / "short-chat")},
            "references": "authors",
            "judge": judge,
        },
        "feelings": {"kind": "eq_bench", "questions": {"path": str(sets / "short-feelings.json")}},
        "sums": {"kind": "text_overlap", "rows": {"path": str(sets / "word_problems.jsonl")}},
        "story": {"kind": "perplexity", "rows": {"path": str(sets / "lighthouse.txt")}},
        "away": {"kind": "harness", "task": "gsm8k", "metric": "exact_match"},
    }
    report = report_of(planned(tmp_path, asked, kinds), capsys)
    found = contamination(report)
    assert {name: found["figures"][f"suite/{name}"] for name in sorted(kinds) if name != "away"} == {
        "feelings": 1, "story": 1, "sums": 1, "talk": 1,
    }  # fmt: skip
    assert found["count"] == 4 and [place["row"] for place in found["places"]] == [1, 2, 3, 4]
    said = [one for one in report["verdicts"] if one["code"] == "contamination"]
    assert [one["gravity"] for one in said] == ["warns", "notes"]
    assert "suite/away" in said[1]["says"] and "data_root" in said[1]["says"]


@pytest.mark.heavy
def test_tasks_of_lm_eval_are_read_without_torch(tmp_path: Path) -> None:
    row = "A baker fills nine trays with seven rolls each and sells all but eleven; how many are sold?"
    (tmp_path / "own").mkdir()
    rows = [{"question": row, "answer": "52"}, {"question": "What is 2 + 2?", "answer": "4"}]
    (tmp_path / "own/rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    own = yaml.safe_load((EVAL / "harness/words.yaml").read_text(encoding="utf-8"))
    own |= {"task": "rolls", "dataset_kwargs": {"data_files": {"train": "rows.jsonl", "test": "rows.jsonl"}}}
    (tmp_path / "own/rolls.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    tasks = {
        "rolls": {"kind": "harness", "task": "rolls", "metric": "exact_match", "include": str(tmp_path / "own")},
        "absent": {"kind": "harness", "task": "absent", "metric": "acc", "include": str(tmp_path / "own")},
    }
    plan = planned(tmp_path, [f"Well: {row}", "What is new?"], tasks)
    code = (
        "import sys; from ratchet.cli import main; main(['data', sys.argv[1], '--json']); "
        "sys.exit(','.join({'torch', 'ray'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(plan)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    found = contamination(report)
    assert (found["count"], found["of"], found["figures"]["short"]) == (1, 1, 1)
    assert any("suite/absent" in one["says"] and "no task absent" in one["says"] for one in report["verdicts"])


def test_two_suites_of_one_file_name_are_both_looked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = [f"How many {name} can one {name} seller carry over the {name} bridge at noon today?" for name in "ab"]
    plan = planned(tmp_path, [*questions, "What is new?"], {})
    values = yaml.safe_load(plan.read_text(encoding="utf-8"))
    values["evaluate"] = [str(tmp_path / name / "suite.yaml") for name in "ab"]
    plan.write_text(yaml.safe_dump(values), encoding="utf-8")
    for name, question in zip("ab", questions, strict=True):
        (tmp_path / name).mkdir()
        rows = tmp_path / name / "asked.jsonl"
        rows.write_text(json.dumps({"question": question, "answer": "three"}) + "\n", encoding="utf-8")
        task = {"kind": "text_overlap", "rows": {"path": str(rows)}}
        (tmp_path / name / "suite.yaml").write_text(yaml.safe_dump({"tasks": {"sums": task}}), encoding="utf-8")
    found = contamination(report_of(plan, capsys))
    assert found["count"] == 2 and all(f"{tmp_path / name}/suite.yaml/sums" in found["says"] for name in "ab")
