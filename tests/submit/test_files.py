"""What goes along with a job: exactly the files that a plan names, under limits, and never unsaid."""

from __future__ import annotations

import os
import subprocess
import typing
import zipfile
from pathlib import Path

import pytest

from raised import raises
from ratchet.errors import PlanError
from ratchet.pipeline.paths import NAMING
from ratchet.plan.base import Strict
from ratchet.plan.load import load_plan
from ratchet.submit import files
from ratchet.submit.files import StagedFile, git_ignored, listing, pack, refuse_ignored, stage

PLAN = """\
name: small
model: {path: models/start, chat_template: templates/chat.jinja}
data:
  one: {path: 'rows/*.jsonl'}
  two: {path: [more/a.jsonl, /mnt/data/b.jsonl]}
  three: {hub: {name: owner/rows}}
stages:
  align: {kind: dpo, data: [one, two], reference: {path: models/other, chat_template: null}}
evaluate: [suite.yaml, {suite: other.yaml, set: {data_root: mirror}}]
cluster: {storage: /mnt/store}
"""
SUITE = """\
tasks:
  talk: {kind: mt_bench, questions: {path: mt}, judge: {kind: replay, file: judged.jsonl, judge: gpt}}
  text: {kind: perplexity, rows: {path: story.txt}}
  pairs: {kind: preference, data: {path: held/pairs.jsonl}, reference: {path: ~/models/judge}}
"""
OTHER = "tasks: {mine: {kind: harness, task: mine, metric: acc, include: tasks}}\n"
SENT = [
    "held/pairs.jsonl", "judged.jsonl", "jobs/small.yaml", "mirror/deep/er.parquet", "models/other/config.json",
    "models/start/config.json", "models/start/sub/weights.safetensors", "more/a.jsonl", "mt/question.jsonl",
    "mt/reference_answer/gpt-4.jsonl", "other.yaml", "rows/1.jsonl", "rows/2.jsonl", "story.txt", "suite.yaml",
    "tasks/mine.yaml", "templates/chat.jinja",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with all that the plan names, and a file that it does not."""
    texts = {"jobs/small.yaml": PLAN, "suite.yaml": SUITE, "other.yaml": OTHER}
    for name in [*SENT, "rows/unnamed.csv", ".env"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(texts.get(name, f"content of {name}"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def staged(*overrides: str) -> files.Staged:
    path = Path("jobs/small.yaml")
    return stage(path, load_plan(path, overrides))


def test_everything_that_the_plan_and_its_suites_name_goes_and_nothing_else(folder: Path) -> None:
    found = staged()
    assert [file.name for file in found.files] == sorted(SENT)
    assert all(file.content == (folder / file.name).read_bytes() for file in found.files)
    assert found.elsewhere == ("/mnt/data/b.jsonl", "~/models/judge")
    assert found.plan == "jobs/small.yaml"


def strict_classes() -> list[type[Strict]]:
    import ratchet.plan.schema
    import ratchet.plan.suite  # noqa: F401  the classes register themselves

    waiting, found = [Strict], []
    while waiting:
        found.append(waiting.pop())
        waiting += found[-1].__subclasses__()
    return found


def test_every_key_of_a_schema_whose_text_speaks_of_a_file_is_staged_or_known() -> None:
    on_the_cluster = {("Cluster", "storage")}
    elsewhere = {("Evaluation", "suite")}  # `planned_suites` reads them
    speaks = set()
    for one in strict_classes():
        for key, field in one.model_fields.items():
            text = {str, str | None}
            of_text = field.annotation in text or str in typing.get_args(field.annotation)
            words = (field.description or "").split(".")[0]
            if of_text and any(word in words for word in ("File", "file", "Folder", "folder", "recording")):
                speaks.add((one.__name__, key))
    named = {(one.__name__, key) for one, keys in NAMING.items() for key in keys}
    of_a_name = {("Plan", "name"), ("MtBench", "references")}  # parts of names of files
    assert speaks - on_the_cluster - elsewhere - of_a_name <= named
    assert named <= speaks | {("ReplayJudge", "file")}


def test_overrides_decide_what_goes(folder: Path) -> None:
    found = staged("evaluate=[]", "data.one.path=more/a.jsonl", "model.chat_template=plain")
    names = [file.name for file in found.files]
    assert "templates/chat.jinja" not in names
    assert "rows/1.jsonl" not in names


def test_one_changed_byte_is_another_digest_and_time_is_not(folder: Path) -> None:
    before = staged().digest
    os.utime("rows/1.jsonl", (1, 1))
    assert staged().digest == before
    Path("rows/1.jsonl").write_text("other")
    assert staged().digest != before


def test_the_archive_is_the_list_and_depends_on_nothing_else(folder: Path) -> None:
    found = staged()
    pack(found.files, folder / "a.zip")
    os.utime("rows/1.jsonl", (1, 1))
    pack(staged().files, folder / "b.zip")
    assert (folder / "a.zip").read_bytes() == (folder / "b.zip").read_bytes()
    with zipfile.ZipFile(folder / "a.zip") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {name: archive.read(name) for name in archive.namelist()} == {
            name: (folder / name).read_bytes() for name in SENT
        }


def test_links_are_followed_and_a_plan_elsewhere_lies_at_the_top(folder: Path, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    Path("linked").write_text("linked")
    Path("rows/2.jsonl").unlink()
    Path("rows/2.jsonl").symlink_to(folder / "linked")
    (outside / "plan.yaml").write_text(PLAN)
    found = stage(outside / "plan.yaml", load_plan(outside / "plan.yaml"))
    assert found.plan == "plan.yaml"
    assert {file.name: file.content for file in found.files}["rows/2.jsonl"] == b"linked"
    Path("models/start/again").symlink_to("sub")
    with raises("plan.not-sent") as caught:
        staged()
    assert caught.value.where == "model.path" and "models/start/again" in caught.value.what
    Path("models/start/again").unlink()
    (outside / "suite.yaml").write_text(PLAN)
    with raises("plan.not-sent"):
        stage(outside / "suite.yaml", load_plan(outside / "suite.yaml"))


@pytest.mark.parametrize("link", ["rows/2.jsonl", "rows", "models/start/sub", "models/start"])
def test_links_that_leave_the_folder_are_refused_with_the_key(folder: Path, link: str, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "it"
    Path(link).rename(outside)
    Path(link).symlink_to(outside)
    with raises("plan.not-sent") as caught:
        staged()
    assert caught.value.where == ("data.one.path" if link.startswith("rows") else "model.path")
    assert str(outside) in caught.value.what


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("data.one.path", "../rows.jsonl"),
        ("data.one.path", "rows/../../x"),
        ("data.one.path", "rows/none.jsonl"),
        ("data.one.path", "rows/*.parquet"),
        ("model.path", "models/none"),
        ("stages.align.reference.path", "models/none"),
    ],
)
def test_files_that_are_not_there_or_outside_are_refused_by_key(folder: Path, key: str, entry: str) -> None:
    with raises("plan.not-sent") as caught:
        staged(f"{key}={entry}")
    assert caught.value.where == key and entry in caught.value.what


def test_files_over_the_limits_are_refused_before_they_are_read(folder: Path) -> None:
    with Path("rows/1.jsonl").open("wb") as file:
        file.truncate(files.MOST_OF_ONE + 1)
    with raises("plan.not-sent") as caught:
        staged()
    assert caught.value.where == "rows/1.jsonl" and "25.1 MiB" in caught.value.what
    assert "storage that every node sees" in caught.value.fix
    for n in range(1, 6):
        with Path(f"rows/{n}.jsonl").open("wb") as file:
            file.truncate(files.MOST_OF_ONE)
    with raises("plan.not-sent") as caught:
        staged()
    assert "125.1 MiB" in caught.value.what


def test_the_list_gives_sizes_and_one_digest() -> None:
    two = (StagedFile("a", b"x" * 5), StagedFile("b/c", b"x" * 5000))
    lines = listing(two, "sent").splitlines()
    assert lines[:2] == ["       5 B  a", "   4.9 KiB  b/c"]
    assert lines[2].startswith("   4.9 KiB  sent: 2 files, sha256 ")


def ignore(*patterns: str) -> None:
    Path(".gitignore").write_text("".join(f"{one}\n" for one in patterns))
    subprocess.run(["git", "init", "-q"], check=True)


def test_what_git_ignores_is_refused_with_its_key(folder: Path) -> None:
    assert git_ignored(staged().files) == [], "no repository here"
    ignore("*.jsonl", "!mt/**", "story.txt")
    subprocess.run(["git", "add", "-f", "story.txt"], check=True)
    with pytest.raises(PlanError) as caught:
        refuse_ignored(staged().files)
    assert caught.value.what.splitlines() == [
        "suite.yaml.tasks.pairs.data.path: held/pairs.jsonl is ignored by git",
        "suite.yaml.tasks.talk.judge.file: judged.jsonl is ignored by git",
        "data.two.path: more/a.jsonl is ignored by git",
        "data.one.path: rows/1.jsonl is ignored by git",
        "data.one.path: rows/2.jsonl is ignored by git",
    ]
    assert "--ignored" in caught.value.fix


@pytest.mark.parametrize("ignored", ["rows", "kept/"])
def test_what_git_ignores_is_seen_through_links(folder: Path, ignored: str) -> None:
    Path("rows").rename("kept")
    Path("rows").symlink_to("kept")
    ignore(ignored)
    assert [file.name for file in git_ignored(staged().files)] == ["rows/1.jsonl", "rows/2.jsonl"]


def test_a_git_that_does_not_answer_is_told(folder: Path) -> None:
    ignore("*.jsonl")
    Path(".git/config").write_text("[broken")
    with raises("plan.not-sent") as caught:
        refuse_ignored(staged().files)
    assert "bad config line" in caught.value.what


def test_the_library_goes_whole_and_without_what_python_left() -> None:
    names = {file.name for file in files.library()}
    package = Path(files.__file__).parents[1]
    assert {"ratchet/cli.py", "ratchet/py.typed", "ratchet/pairs/templates/plain.jinja"} <= names
    assert not any("__pycache__" in name for name in names)
    assert {f"ratchet/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")} <= names
