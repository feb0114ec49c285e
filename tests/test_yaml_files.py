"""Every YAML file of the repository is what its folder says it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from conftest import ROOT
from ratchet.plan.load import load_plan, load_suite


def lm_eval_task(path: Path) -> object:
    """Read a task definition in lm-eval's format, whose own loader reads it in the tests of those tasks."""
    return yaml.safe_load(path.read_text(encoding="utf-8")).get("task")


SCHEMAS: dict[str, Callable[[Path], object]] = {
    "jobs": load_plan,
    "eval": load_suite,
    "eval/harness": lm_eval_task,
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


def test_there_are_files() -> None:
    assert any(path.parts[0] == "jobs" for path in FILES)


def test_platform_is_no_package() -> None:
    assert not (ROOT / "platform/__init__.py").exists()  # it would hide the standard library's `platform`
