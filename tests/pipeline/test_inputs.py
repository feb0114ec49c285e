"""A kept result is of what was read: whatever changes a number changes its identity, and where things lie does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import TypeAdapter

from ratchet.errors import ModelError, PlanError
from ratchet.evaluate import task_identity as inputs
from ratchet.evaluate.bench import Bench, Candidates
from ratchet.evaluate.exact_match import Heldout
from ratchet.evaluate.harness import run as harness
from ratchet.evaluate.task_identity import identity_of
from ratchet.model.digest import digest_model
from ratchet.model.scratch import make_scratch
from ratchet.plan.cluster import Cluster
from ratchet.plan.model import Scratch
from ratchet.plan.suite import Answering, Harness, Rows, Task
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
    "text": {"kind": "perplexity", "rows": {"path": "rows.jsonl"}, "column": "question"},
    "pairs": {"kind": "preference", "data": {"path": "pairs-*.jsonl"}, "reference": {"path": "model"}},
    "sums": {"kind": "exact_match", "source": "sums", "pattern": "(.)"},
    "mine": {"kind": "harness", "task": "mine", "metric": "acc", "include": "tasks"},
}  # fmt: skip


HELDOUT = Heldout(lambda task: [], lambda task: "the tokens")


def key(name: str, **changed: Any) -> str:
    task = TypeAdapter(Task).validate_python(TASKS[name] | changed)
    loaded = harness.load_task("t", task, None, Path("store")) if isinstance(task, Harness) else None
    return fingerprint(identity_of(task, loaded, HELDOUT, gpu=False))


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
    monkeypatch.setattr(inputs.importlib.metadata, "version", lambda name: f"{name} 99")
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
        with pytest.raises(ModelError, match="files changed while it was evaluated"):
            engine.answer([CompletionRequest("What", Sampling(max_tokens=2))])
    with pytest.raises(ModelError, match="not those of m any more"):
        Candidates(bench, model)


class Chrf(Answering):
    """A task that somebody adds, and says nowhere what it reads."""

    kind: Literal["chrf"]
    rows: Rows


def test_a_task_that_does_not_say_what_it_reads_is_an_error(here: Path) -> None:
    task: Any = Chrf.model_validate({"kind": "chrf", "rows": {"path": "rows.jsonl"}})
    with pytest.raises(AssertionError, match="chrf"):
        identity_of(task, None, None, gpu=False)


def test_a_task_about_a_plan_s_prompts_needs_a_plan() -> None:
    task = TypeAdapter(Task).validate_python(TASKS["sums"])
    with pytest.raises(PlanError, match="there is no plan"):
        identity_of(task, None, None, gpu=False)
