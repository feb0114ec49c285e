"""Every YAML file of the repository is what its folder says it is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ratchet import cli
from ratchet.kubernetes.manifests import read_manifests
from ratchet.plan.load import load_plan, load_space, load_suite
from tests.conftest import ROOT


def lm_eval_task(path: Path) -> object:
    """Read a task definition in lm-eval's format, whose own loader reads it in the tests of those tasks."""
    return yaml.safe_load(path.read_text(encoding="utf-8")).get("task")


def manifests(path: Path) -> object:
    """Read manifests or a kustomization; what they say together is tried in the tests of each overlay."""
    return [document.data["kind"] for document in read_manifests(path) if not document.problems]


SCHEMAS: dict[str, Callable[[Path], object]] = {
    "jobs": load_plan,
    "eval": load_suite,
    "tune_spaces": load_space,
    "eval/harness": lm_eval_task,
    "k8s": manifests,
}
FOLDERS = ("jobs", "eval", "tune_spaces", "k8s")
FILES = sorted(
    path.relative_to(ROOT)
    for folder in FOLDERS
    for ending in ("yaml", "yml")
    for path in (ROOT / folder).rglob(f"*.{ending}")
)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_file_fits_the_schema_of_its_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    known = [folder.as_posix() for folder in path.parents if folder.as_posix() in SCHEMAS]
    assert known, f"{path}: no schema is known for {path.parts[0]}/: add it here"
    assert SCHEMAS[known[0]](path)


def told_commands() -> list[tuple[str, str]]:
    """Return (file, command) of every `ratchet evaluate …` that comments of suites and pages tell people to run."""
    found = []
    pages = [*(ROOT / "eval").glob("*.yaml"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    for path in sorted(pages):
        lines = [re.sub(r"^#? *", "", line).removeprefix(".venv/bin/") for line in path.read_text().splitlines()]
        variables: dict[str, str] = {}
        for n, line in enumerate(lines):
            if given := re.fullmatch(r"([A-Z]+)='(.*)'", line):
                variables[f"${given[1]}"] = given[2].replace('"', '\\"')
            if not line.startswith("ratchet evaluate "):
                continue
            command, after = line, n + 1
            while command.endswith("\\") or command.count("'") % 2:
                command, after = f"{command.removesuffix(chr(92))} {lines[after]}", after + 1
            for name, value in variables.items():
                command = command.replace(name, value)
            found.append((path.name, re.sub(r" {3,}#.*", "", command)))
    return found


@pytest.mark.parametrize(("page", "command"), told_commands())
def test_every_command_that_people_are_told_is_one(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)[1:]
    if words[1:] == ["--help"]:
        return
    arguments = cli._parser(words).parse_args(words)
    assert arguments.suite.name == "SUITE" or load_suite(arguments.suite, arguments.overrides)


def test_there_are_files() -> None:
    assert any(path.parts[0] == "jobs" for path in FILES)


def test_platform_is_no_package() -> None:
    assert not (ROOT / "platform/__init__.py").exists()  # it would hide the standard library's `platform`
