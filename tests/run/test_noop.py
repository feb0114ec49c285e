"""A run with nothing to do: answered from records, and never said wrongly."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.pipeline.answered import Question, answer_of_run, evaluation_question, find_answer, plan_question
from ratchet.pipeline.paths import path_problems
from ratchet.plan.cluster import Cluster
from ratchet.plan.load import load_plan, load_suite
from ratchet.plan.model import ModelSpec
from ratchet.store.layout import Layout
from ratchet.store.made import HELD, hold
from whole_run import environment, loaded_by, write_smallest

HEAVY = {"torch", "ray", "transformers", "tokenizers", "matplotlib", "sklearn", "scipy", "pandas", "datasets"}
SLIPS = """\
{"prompt": "2 + 3?", "chosen": "It is 5.", "rejected": "It is 6."}
{"prompt": "2 + 4?", "chosen": "It is 6.", "rejected": "It is 7."}
{"prompt": "2 + 5?", "chosen": "It is 7.", "rejected": "It is 8."}
{"prompt": "3 + 5?", "chosen": "It is 8.", "rejected": "It is 9."}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which a plan was run to its end, without a Ray; the current one."""
    folder = tmp_path_factory.mktemp("done")
    write_smallest(folder)
    (folder / "more.jsonl").write_text(SLIPS)
    text = (folder / "plan.yaml").read_text()
    text = text.replace("data:\n", "data:\n  more: {path: more.jsonl, held_out: 0.25}\n")
    (folder / "plan.yaml").write_text(
        text.replace("warm: {kind: sft, data: [slips],", "warm: {kind: sft, data: [slips, more],")
    )
    command = [sys.executable, "-m", "ratchet.cli", "run", "plan.yaml", "--here"]
    found = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    with contextlib.chdir(folder):
        yield folder


def asked(*overrides: str, here: bool = True) -> Question | None:
    plan = load_plan(Path("plan.yaml"), overrides, path_problems)
    return plan_question("run", plan, Path("plan.yaml").read_text(), here=here)


def answered(*overrides: str) -> bool:
    """Whether a run would say that there is nothing to do."""
    plan = load_plan(Path("plan.yaml"), overrides, path_problems)
    return answer_of_run(plan, asked(*overrides)) is not None


@contextlib.contextmanager
def flipped(path: Path) -> Iterator[None]:
    data = path.read_bytes()
    path.write_bytes(bytes([*data[:-1], data[-1] ^ 1]) if data else b"x")
    try:
        yield
    finally:
        path.write_bytes(data)


@contextlib.contextmanager
def away(path: Path) -> Iterator[None]:
    aside = path.with_name(f"aside-{path.name}")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


@pytest.mark.heavy
def test_a_run_with_nothing_to_do_loads_nothing_and_leaves_the_page(done: Path) -> None:
    run = done / "out/runs/tiny"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and HELD not in path.parts}
    loaded = loaded_by(done, "run", "plan.yaml", "--here")
    assert "ratchet.pipeline.answered" in loaded and not HEAVY & loaded
    assert not any(
        name.startswith(("ratchet.train", "ratchet.report"))
        for name in loaded - {"ratchet.train"}
        if "spec" not in name and "checkpoint" not in name and "faults" not in name and "communicate" not in name
    )
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and HELD not in path.parts}
    assert after == before


@pytest.mark.heavy
def test_any_key_of_the_plan_or_byte_that_it_names_makes_it_a_run(done: Path) -> None:
    assert answered()
    for override in (
        "stages.align.beta=0.2",
        "stages.warm.learning_rate=1e-4",
        "stages.blend.weights=[0.4, 0.6]",
        "data.slips.generate.seed=2",
        "model.scratch.layers=2",
        "cluster.token_budget=1024",
        "cluster.score_actors=2",
    ):
        assert not answered(override), override
    for name in ("more.jsonl", "suite.yaml", "plan.yaml"):
        text = Path(name).read_text()
        Path(name).write_text(
            text.replace("2 + 3", "2 + 9").replace("rows: 2", "rows: 3") + ("# x\n" if name == "plan.yaml" else "")
        )
        assert not answered(), name
        Path(name).write_text(text)
    assert answered(), "what counts is content, not times"
    assert answer_of_run(load_plan(Path("plan.yaml")), asked(here=False)) is None, "auto is another engine on a Ray"


@pytest.mark.heavy
def test_whatever_is_damaged_or_gone_makes_it_a_run(done: Path) -> None:
    (kept,) = Path("out/store/answered").glob("*.json")
    answer = json.loads(kept.read_text())
    kinds = {name.split("/")[1] for name in answer["records"] if name.startswith("store/")}
    assert kinds == {"pairs", "tokens", "models", "logps", "scores"}
    assert {Path(name).name for name in answer["records"] if "/steps/" in name} == {"warm", "align", "blend"}
    assert {"report.html", "report.json", "report.md", "scores.json", "plan.yaml", "resolved.json"} <= {
        Path(name).name for name in answer["files"]
    }
    for name in (*answer["files"], *answer["records"]):
        with away(Path("out") / name):
            assert not answered(), name
    files = [Path("out") / name for name in answer["files"]]
    files += [path for name in answer["records"] for path in (Path("out") / name).rglob("*") if path.is_file()]
    unnamed = {"README.md", "identity.json"}  # a card, which people may edit, and what its record repeats
    for path in [kept, *files]:
        parts = set(path.parts)
        if path.name in unnamed or {"checkpoints", "attempts"} & parts or path.name.endswith((".txt", ".tmp")):
            continue
        with flipped(path):
            record = path.parent / "record.json"
            named = (
                not record.exists()
                or path.name == "record.json"
                or path.name in json.loads(record.read_text())["files"]
            )
            assert not answered() or not named, path
    assert answered()
    journal = next(Path("out") / name for name in answer["files"] if name.startswith("store/answers/"))
    with journal.open("a") as file:
        file.write("a line of another run\n")
    assert answered(), "journals grow"


def test_what_cannot_be_asked_is_no_question_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_smallest(tmp_path)
    suite, path = load_suite(Path("suite.yaml")), Path("suite.yaml")
    plan = load_plan(Path("plan.yaml"), (), path_problems)

    def asks() -> list[bool]:
        evaluated = evaluation_question({}, path, suite, Cluster(storage="out"), None, here=True)
        return [plan_question("run", plan, "", here=True) is not None, evaluated is not None]

    assert asks() == [True, True]
    path.write_text("tasks: {sums: {kind: nothing}}\n")
    assert asks() == [False, True]
    path.write_bytes(b"\xff\xfe")
    assert asks() == [False, True]
    path.unlink()
    assert asks() == [False, False]


def test_files_behind_links_to_folders_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror of data sets may be one of links, also in a circle."""
    monkeypatch.chdir(tmp_path)
    for name in ("elsewhere/rows/test.parquet", "other/rows/test.parquet", "mirror/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first")
    link = tmp_path / "mirror/owner"
    link.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/rows/up").symlink_to(tmp_path / "mirror")
    tasks = "tasks:\n  arc: {kind: harness, task: arc_easy, metric: acc}\n"
    Path("suite.yaml").write_text(f"data_root: mirror\n{tasks}")
    suite, seen = load_suite(Path("suite.yaml")), set()

    def state() -> str:
        found = evaluation_question({}, Path("suite.yaml"), suite, Cluster(storage="out"), None, here=True)
        assert found is not None
        return found.state

    seen.add(state())
    assert state() in seen
    (tmp_path / "elsewhere/rows/test.parquet").write_text("other rows")
    assert state() not in seen
    seen.add(state())
    link.unlink()
    link.symlink_to(tmp_path / "other")
    assert state() not in seen


@pytest.mark.heavy
def test_another_process_at_the_run_is_left_to_the_run_to_tell(done: Path) -> None:
    with hold(Layout(done / "out").run("tiny")):
        assert not answered()
    assert answered()


@pytest.mark.heavy
def test_where_only_the_page_is_missing_it_is_written_without_a_ray(done: Path, tmp_path: Path) -> None:
    """As a run on a Ray, which starts none as nothing is to be made; after it there is nothing to do."""
    shutil.copytree(done, tmp_path / "copy", symlinks=True)
    page = tmp_path / "copy/out/runs/tiny/report.html"
    before = json.loads(page.with_suffix(".json").read_text())
    page.unlink()
    loaded = loaded_by(tmp_path / "copy", "run", "plan.yaml")
    assert "ray" not in loaded and "ratchet.report.page" in loaded and page.exists()
    after = json.loads(page.with_suffix(".json").read_text())
    assert [one["record"] for one in after["steps"]] == [one["record"] for one in before["steps"]]
    assert after["samples"] == before["samples"] and after["evaluation"] == before["evaluation"]
    assert not HEAVY & loaded_by(tmp_path / "copy", "run", "plan.yaml")


@pytest.mark.heavy
def test_models_that_were_evaluated_are_answered_without_torch(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "out/runs/tiny/steps/warm/model", tmp_path / "model")
    (tmp_path / "text.txt").write_text("Two and three make five. " * 20)
    (tmp_path / "suite.yaml").write_text("tasks:\n  text: {kind: perplexity, rows: {path: text.txt}}\n")
    command = [sys.executable, "-m", "ratchet.cli", "evaluate", "model", "suite.yaml", "--here", "--storage", "out"]
    first = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    words = ("evaluate", "model", "suite.yaml", "--here", "--storage", "out")
    assert not HEAVY & loaded_by(tmp_path, *words)
    again = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert again.stdout == first.stdout and "nothing to do" in again.stderr
    with contextlib.chdir(tmp_path):
        suite, cluster = load_suite(Path("suite.yaml")), Cluster(score_actors=1, gpus_per_worker=0.0, storage="out")

        def found() -> bool:
            model = ModelSpec.model_validate({"path": "model", "dtype": "float32", "chat_template": None})
            told = evaluation_question({"model": model}, Path("suite.yaml"), suite, cluster, None, here=True)
            return find_answer(Layout(tmp_path / "out"), told) is not None

        assert found()
        for path in (*Path("model").iterdir(), Path("text.txt"), *Path("out/store/scores").glob("*/*")):
            with flipped(path):
                assert not found() or path.name == "README.md", path
        assert found()


@pytest.mark.heavy
def test_scores_that_are_there_are_counted_without_torch(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "copy", symlinks=True)
    command = [sys.executable, "-m", "ratchet.cli", "score", "plan.yaml", "--here"]
    first = subprocess.run(
        command, cwd=tmp_path / "copy", env=environment(), capture_output=True, text=True, check=True
    )
    told = loaded_by(tmp_path / "copy", "score", "plan.yaml", "--here")
    again = subprocess.run(
        command, cwd=tmp_path / "copy", env=environment(), capture_output=True, text=True, check=True
    )
    assert first.stdout == again.stdout and not HEAVY & told and "nothing to do" in again.stderr
    assert os.environ.get("RAY_ADDRESS") is None
