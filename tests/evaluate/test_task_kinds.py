"""Kinds of tasks: every row answers what is asked of it, also one that another package adds."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raised import raises
from ratchet.evaluate import suites
from ratchet.evaluate.engines.kinds import ENGINES, engine_kind
from ratchet.evaluate.suites import check_suite, raise_failed, task_identity
from ratchet.evaluate.task_run import Inputs, task_run
from ratchet.pipeline.paths import named_files
from ratchet.plan import suite
from ratchet.plan.judge import Engine
from ratchet.plan.load import load_plan
from ratchet.plan.plugins import Kinds
from ratchet.plan.suite import BUILT_IN, Suite, added_task, task_kind
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout

INPUTS = Inputs(None, Path("store"), None)
SETTINGS = """
import dataclasses
from typing import Literal
from ratchet.plan.task_parts import Answering, Rows, TaskKind

class Lengths(Answering):
    kind: Literal["lengths"]
    rows: Rows
    guide: str | None = None

ROW = TaskKind(
    settings=Lengths, run="tiny_run:TASK", by_content=("rows", "guide"),
    paths={"guide": "file"}, libraries=(), needs_chat_template=True, units=("share",), averages=True,
)
NO_MODEL = dataclasses.replace(ROW, settings=int)
"""
RUN = """
from ratchet.evaluate.results import Item, Score, TaskResult
from ratchet.evaluate.task_files import read_rows
from ratchet.evaluate.task_run import NEXT, Content, TaskRun, by_candidate, nothing_to_check

def ask(name, task, candidate):
    return TaskResult(name, task.kind, (Score("length", "length", 0.5, None, 1),), (), {})

TASK = TaskRun(
    reads=lambda name, task, inputs: Content(read_rows(task.rows, ("q",), None)[1], None),
    check_chosen=nothing_to_check, turn=NEXT, together=None, run=by_candidate(ask),
)
"""


def install(folder: Path, version: str = "1.2", entry: str = "lengths = tiny_tasks:ROW") -> None:
    """Put a package beside others, as pip would, with an entry point of the group `ratchet.tasks`."""
    (folder / "tiny_tasks.py").write_text(SETTINGS)
    (folder / "tiny_run.py").write_text(RUN)
    about = folder / "tiny_tasks-1.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tiny-tasks\nVersion: {version}\n")
    (about / "entry_points.txt").write_text(f"[ratchet.tasks]\n{entry}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that can be imported; what is imported from it is forgotten."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    for name in ("tiny_tasks", "tiny_run"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"q": "one?", "question": "one?", "answer": "1"}\n')
    (tmp_path / "more.jsonl").write_text('{"q": "two?", "question": "two?", "answer": "2"}\n')
    return folder


@pytest.mark.parametrize("kind", BUILT_IN)
def test_a_row_and_its_settings_and_what_asks_it_are_of_one_kind(kind: str) -> None:
    row = task_kind(kind)
    assert row.settings.model_fields["kind"].annotation.__args__ == (kind,)  # type: ignore[union-attr]
    keys = set(row.settings.model_fields)
    assert {*row.by_content, *row.paths} <= keys
    assert task_run(kind).run is not None
    assert f"## Tasks of kind {kind}" in Path(__file__).parents[2].joinpath("docs/plan.md").read_text(encoding="utf-8")


def test_an_unknown_kind_is_an_error_and_no_default() -> None:
    with raises("plan.kind") as caught:
        task_kind("limerick")
    assert "limerick" in caught.value.what
    with raises("plan") as caught:
        engine_kind("abacus")
    assert "abacus" in caught.value.what
    assert set(ENGINES) == set(Engine.__args__)


class Bare:
    """A tokenizer without a chat template."""

    chat_template = None


@pytest.mark.usefixtures("site")
def test_a_chrf_task_is_right_everywhere(tmp_path: Path) -> None:
    task = {"kind": "chrf", "rows": {"path": "rows.jsonl"}}
    one = Suite.model_validate({"tasks": {"letters": task}})
    other = Suite.model_validate({"tasks": {"letters": {**task, "rows": {"path": "more.jsonl"}}}})
    known = [
        fingerprint(
            task_identity(s.tasks["letters"], task_run("chrf").reads("t", s.tasks["letters"], INPUTS), gpu=False)
        )
        for s in (one, other)
    ]
    assert known[0] != known[1]
    with pytest.raises(ValidationError, match="averages shares, and letters is none"):
        Suite.model_validate({"tasks": {"letters": task, "b": task}, "averages": {"A": ["letters", "b"]}})
    with raises("model.no-template"):
        raise_failed("s", check_suite("s", one, Bare(), Layout(tmp_path), None, gpu=False))


PLAN = """
name: p
model: {path: model}
data: {a: {generate: {kind: arithmetic}, build: arithmetic_corruption}}
stages: {align: {kind: dpo, data: [a]}}
evaluate: [suites/words.yaml]
"""


@pytest.mark.usefixtures("site")
def test_what_a_chrf_task_reads_goes_along_with_a_plan(tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "words.yaml").write_text("tasks: {letters: {kind: chrf, rows: {path: ../rows.jsonl}}}\n")
    (tmp_path / "plan.yaml").write_text(PLAN)
    found = [one for one in named_files(load_plan(Path("plan.yaml"))) if one.suite is not None]
    assert [(one.text, one.path) for one in found] == [("rows.jsonl", ("tasks", "letters", "rows", "path"))]


def tasks() -> Kinds:
    """The table of kinds as a process makes it that starts now."""
    return Kinds("ratchet.tasks", "task", tuple(BUILT_IN))


def added(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The row of the kind that is installed, known as it is after a start."""
    row = tasks().rows(added_task)["lengths"]
    monkeypatch.setattr(suite, "TASK_KINDS", {**BUILT_IN, "lengths": row})
    return row


def test_another_package_adds_a_kind_whose_results_know_its_version(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site)
    row = added(monkeypatch)
    task = row.settings.model_validate({"kind": "lengths", "rows": {"path": "rows.jsonl"}})
    content = task_run("lengths").reads("t", task, INPUTS)
    identity = task_identity(task, content, gpu=False)
    assert identity["libraries"] == {"tiny-tasks": "1.2"} and "rows" not in identity["task"]
    other = row.settings.model_validate({"kind": "lengths", "rows": {"path": "more.jsonl"}})
    assert task_run("lengths").reads("t", other, INPUTS).known_by != content.known_by
    install(site, version="1.3")
    importlib.invalidate_caches()
    assert task_identity(task, content, gpu=False)["libraries"] == {"tiny-tasks": "1.3"}


def test_a_headline_that_counts_something_else_is_an_error(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site)
    row = added(monkeypatch)
    task = row.settings.model_validate({"kind": "lengths", "rows": {"path": "rows.jsonl"}})

    class Asked:
        def of(self, task: Any) -> None:
            return None

        def start_seconds(self) -> float:
            return 0.0

        def take_tokens(self) -> dict[str, Any]:
            return {}

    ready = suites.Ready(task, task_run("lengths").reads("t", task, INPUTS))
    ((_, answered, _),) = suites._ask(Asked(), {"t": ready})  # type: ignore[arg-type]
    assert suites._of_known_unit("lengths", answered) is answered
    monkeypatch.setitem(suite.TASK_KINDS, "lengths", suite.dataclasses.replace(row, units=("nats",)))  # type: ignore[arg-type]
    with raises("plan.kind") as caught:
        raise suites._of_known_unit("lengths", answered)  # type: ignore[misc]
    assert "`units`" in caught.value.fix


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("perplexity = tiny_tasks:ROW", "Ratchet has a kind of that name itself"),
        ("other = tiny_tasks:ROW", "the `kind` of its settings is 'lengths'"),
        ("lengths = tiny_tasks:Lengths", "is of type ModelMetaclass, not TaskKind"),
        ("lengths = tiny_tasks:NONE", "cannot be loaded: AttributeError"),
        ("lengths = not_there:ROW", "cannot be loaded: ModuleNotFoundError"),
        ("lengths = tiny_tasks:NO_MODEL", "its row cannot be read: AttributeError"),
    ],
)
def test_a_kind_that_cannot_be_used_says_why(site: Path, entry: str, said: str) -> None:
    install(site, entry=entry)
    table = tasks()
    assert table.rows(added_task) == {}
    (fault,) = table.faults.values()
    assert fault.code == "plan.kind" and said in fault.what and entry in fault.what
    assert fault.where == "tiny-tasks 1.2" and "tiny-tasks" in fault.fix


@pytest.mark.usefixtures("site")
def test_what_asks_a_kind_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(tmp_path / "site")
    added(monkeypatch)
    (tmp_path / "site" / "tiny_run.py").write_text("TASK = None\n")
    with raises("plan.kind") as caught:
        task_run("lengths")
    assert "tiny_run:TASK" in caught.value.what


def check(site: Path) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from ratchet.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "check", "suite.yaml"]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.heavy
def test_check_reads_a_suite_of_a_kind_that_was_added(site: Path, tmp_path: Path) -> None:
    install(site)
    (tmp_path / "suite.yaml").write_text(
        "tasks:\n  a: {kind: lengths, rows: {path: rows.jsonl}, guide: nowhere.txt, colour: red}\n"
        "  b: {kind: length, rows: {path: rows.jsonl}}\n"
    )
    done = check(site)
    said = done.stdout + done.stderr
    assert done.returncode == 2 and "tasks.a.colour" in said and "lengths" in said and "no such file" in said, said
    install(site, entry="lengths = not_there:ROW")
    done = check(site)
    assert done.returncode == 2 and "tiny-tasks 1.2: the entry point lengths = not_there:ROW of" in done.stderr
