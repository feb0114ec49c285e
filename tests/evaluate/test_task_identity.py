"""A kept result is of what was read: whatever changes a number changes its identity, and where things lie does not."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from raised import raises
from ratchet.evaluate.bench import Bench, Candidates
from ratchet.evaluate.judges.kinds import JUDGES
from ratchet.evaluate.suites import task_identity
from ratchet.evaluate.task_run import Heldout, Inputs, task_run
from ratchet.model.folder import digest_model
from ratchet.model.scratch import make_scratch
from ratchet.plan.cluster import Cluster
from ratchet.plan.judge import JUDGE_KINDS
from ratchet.plan.model import Scratch
from ratchet.plan.suite import Task
from ratchet.plan.tasks import BUILT_IN
from ratchet.reference.models import Model
from ratchet.serving.requests import CompletionRequest, Sampling
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.track.progress import Console

SETS = Path("eval/sets").resolve()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and all that tasks read, as the current one."""
    spec = Scratch(tokenizer_from=("a",), vocab_size=280, hidden_size=16, layers=1, heads=2, key_value_heads=1,
                   intermediate_size=32, max_positions=64)  # fmt: skip
    make_scratch(spec, ["What is 1 + 2?", "The answer is 3."], tmp_path / "model")
    shutil.copytree(SETS / "short-chat", tmp_path / "data" / "mt_bench")
    (tmp_path / "data/mt_bench/judge_prompts.jsonl").rename(tmp_path / "data/judge_prompts.jsonl")
    shutil.copy(SETS / "short-feelings.json", tmp_path / "feelings.json")
    shutil.copy(SETS / "word_problems.jsonl", tmp_path / "rows.jsonl")
    (tmp_path / "pairs-1.jsonl").write_text(json.dumps({"prompt": "a?", "chosen": "yes", "rejected": "no"}) + "\n")
    (tmp_path / "judged.jsonl").write_text(
        json.dumps({"judge": ["j", "p"], "user_prompt": "u", "judgment": "[[3]]"}) + "\n"
    )
    (tmp_path / "template.jinja").write_text("{{ messages[0]['content'] }}")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine.jsonl").write_text("".join(json.dumps({"q": f"{n}?", "a": 0}) + "\n" for n in range(3)))
    (tmp_path / "tasks/mine.yaml").write_text(
        "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: ../elsewhere/mine.jsonl}}\n"
        "test_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: ['a', 'b']\ndoc_to_target: '{{a}}'\n"
        "metric_list: [{metric: acc}]\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


TASKS: dict[str, dict[str, Any]] = {
    "talk": {"kind": "mt_bench", "questions": {"path": "data/mt_bench"}, "references": "authors",
             "judge": {"kind": "model", "model": {"path": "model"}}},
    "played": {"kind": "mt_bench", "questions": {"path": "data/mt_bench"}, "references": "authors",
               "judge": {"kind": "replay", "file": "judged.jsonl", "judge": "j"}},
    "served": {"kind": "mt_bench", "questions": {"path": "data/mt_bench"}, "references": "authors",
               "judge": {"kind": "endpoint", "base_url": "http://j.example/v1", "model": "j"}},
    "eq": {"kind": "eq_bench", "questions": {"path": "feelings.json"}},
    "words": {"kind": "text_overlap", "rows": {"path": "rows.jsonl"}},
    "letters": {"kind": "chrf", "rows": {"path": "rows.jsonl"}},
    "text": {"kind": "perplexity", "rows": {"path": "rows.jsonl"}, "column": "question"},
    "pairs": {"kind": "preference", "data": {"path": "pairs-*.jsonl"}, "reference": {"path": "model"}},
    "sums": {"kind": "exact_match", "source": "sums", "pattern": "(.)"},
    "mine": {"kind": "harness", "task": "mine", "metric": "acc", "include": "tasks"},
}  # fmt: skip


INPUTS = Inputs(None, Path("store"), Heldout(lambda source, rows: [], lambda source: "the tokens"))


def key(name: str, **changed: Any) -> str:
    task = TypeAdapter(Task).validate_python(TASKS[name] | changed)
    return fingerprint(task_identity(task, task_run(task.kind).reads("t", task, INPUTS), gpu=False))


def disturb() -> None:
    from safetensors.numpy import load_file, save_file

    file = next(Path("model").glob("*.safetensors"))
    tensors = {name: np.asarray(value) + np.float32(0.5) for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def append(path: str, line: dict[str, Any]) -> Callable[[], None]:
    return lambda: Path(path).write_text(Path(path).read_text() + json.dumps(line) + "\n")


def swap(path: str, old: str, new: str) -> Callable[[], None]:
    def change() -> None:
        text = Path(path).read_text()
        assert old in text
        Path(path).write_text(text.replace(old, new, 1))

    return change


def edit(path: str, *keys: str | int) -> Callable[[], None]:
    """Add a sign to a text of a file's first line."""

    def change() -> None:
        first, *others = Path(path).read_text().splitlines(keepends=True)
        row = holder = json.loads(first)
        for name in keys[:-1]:
            holder = holder[name]
        holder[keys[-1]] += "!"
        Path(path).write_text("".join([json.dumps(row) + "\n", *others]))

    return change


CHANGES: dict[str, tuple[str, Callable[[], None]]] = {
    "the judge's weights": ("talk", disturb),
    "a judge prompt one folder up": ("talk", edit("data/judge_prompts.jsonl", "system_prompt")),
    "a reference": ("talk", edit("data/mt_bench/reference_answer/authors.jsonl", "choices", 0, "turns", 0)),
    "a question": ("talk", edit("data/mt_bench/question.jsonl", "turns", 0)),
    "a recording": ("played", append("judged.jsonl", {"judge": ["j", "p"], "user_prompt": "v", "judgment": "[[4]]"})),
    "a feeling": ("eq", swap("feelings.json", ": 8", ": 7")),
    "a row": ("words", append("rows.jsonl", {"question": "one more", "answer": "yes"})),
    "a row compared by letters": ("letters", append("rows.jsonl", {"question": "one more", "answer": "yes"})),
    "a text": ("text", append("rows.jsonl", {"question": "one more", "answer": "yes"})),
    "a pair": ("pairs", append("pairs-1.jsonl", {"prompt": "b?", "chosen": "yes", "rejected": "no"})),
    "the reference's weights": ("pairs", disturb),
    "a file beside the tasks": ("mine", append("elsewhere/mine.jsonl", {"q": "more?", "a": 1})),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("what", CHANGES)
def test_what_is_read_decides_the_identity(what: str) -> None:
    name, change = CHANGES[what]
    before = key(name)
    assert key(name) == before
    change()
    assert key(name) != before


@pytest.mark.usefixtures("here")
def test_so_do_the_settings_and_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key("text") != key("text", window=32)
    assert key("eq") != key("eq", attempts=2)
    assert key("sums") != key("sums", rows=50)
    judge = TASKS["talk"]["judge"]
    own = {**judge, "model": {"path": "model", "chat_template": "template.jinja"}}
    assert key("talk") != key("talk", judge=own)
    assert key("served") != key("served", judge={**TASKS["served"]["judge"], "model": "another"})
    before = {name: key(name) for name in ("words", "mine", "eq")}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{name} 99")
    assert {name for name in before if key(name) != before[name]} == {"words", "mine"}


@pytest.mark.usefixtures("here")
def test_where_things_lie_and_how_a_judge_is_reached_do_not() -> None:
    shutil.copy("rows.jsonl", "moved.jsonl")
    assert key("words") == key("words", rows={"path": "moved.jsonl"})
    hasty = {**TASKS["served"]["judge"], "concurrency": 3, "budget": 9, "timeout_seconds": 5.0, "allow_private": True}
    assert key("served") == key("served", judge=hasty)


def test_a_model_that_changes_while_it_is_evaluated_is_found_out(here: Path) -> None:
    weights = digest_model(here / "model")
    model = Model("m", here / "model", weights, weights, "float32")
    bench = Bench(Layout(here / "out"), Cluster(), Console(), None, 1)
    with Candidates(bench, model) as candidates:
        engine = candidates._maker("trainer", None)()
        assert engine.answer([CompletionRequest("What", Sampling(max_tokens=2))])
        disturb()
        with raises("model.changed"):
            engine.answer([CompletionRequest("What", Sampling(max_tokens=2))])
    with raises("model.changed"):
        Candidates(bench, model)


KNOWN = {
    "talk": "e4df05dcfde7223a18a1",
    "played": "243338d65114d78688f0",
    "served": "97f0cc675979fc6caafc",
    "eq": "56920dba6482915923b9",
    "words": "3b5117b8db23008b9f14",
    "text": "e4158c62970178602754",
    "pairs": "a12758fbe4bb29c1393b",
    "sums": "87ab1941a3bfa8ac65b0",
    "mine": "9ffe86d4d398922bb895",
}
"""What each task's identity is with every library at version 1: results are found by it.

That of `pairs` changes with the versions of how rows are read, as what is asked may be another then.
"""


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", KNOWN)
def test_results_that_are_kept_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1")
    assert key(name) == KNOWN[name]


def test_every_kind_of_task_and_of_judge_is_known_here_by_its_content() -> None:
    """A kind without a case above could be taken for another question's."""
    kinds = {task["kind"] for task in TASKS.values()}
    assert kinds == set(BUILT_IN)
    changed = {TASKS[name]["kind"] for name, _ in CHANGES.values()}
    assert changed | {"exact_match"} == kinds, "exact_match reads what a plan holds out"
    judges = {task["judge"]["kind"] for task in TASKS.values() if "judge" in task}
    assert judges == set(JUDGES) == set(JUDGE_KINDS)


def test_a_task_about_a_plan_s_prompts_needs_a_plan() -> None:
    task = TypeAdapter(Task).validate_python(TASKS["sums"])
    with raises("plan") as caught:
        task_run(task.kind).reads("sums", task, Inputs(None, Path("store"), None))
    assert "evaluate" in caught.value.fix
