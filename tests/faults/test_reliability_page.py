"""The page on faults names tests that exist, in the tier that they have."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

NIGHTLY = {"slow", "gpu", "vllm"}
"""Marks of tests that continuous integration leaves out."""
NOT_YET = "not run yet"


def rows() -> list[tuple[str, list[tuple[str, str]], set[str], str]]:
    """Number, tests as (file, name), tiers and figure of each row of the matrix."""
    found = []
    for line in (ROOT / "docs/reliability.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[0].isdigit():
            number, _, _, tests, tiers, figure = cells
            found.append((number, re.findall(r"`([\w/]+\.py)::(\w+)`", tests), {*tiers.split(", ")}, figure))
    return found


@functools.cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / "tests" / file).read_text())


def marks(node: ast.AST) -> set[str]:
    """Names of the marks of pytest that stand anywhere in some code."""
    found = {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "pytest.mark"
    }
    called = {part.func.id for part in ast.walk(node) if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)}
    return found | ({"slow"} if "nightly" in called else set())


def tiers(file: str, name: str) -> set[str]:
    """Where a test runs: in CI, nightly, or some of its cases in one and some in the other. Fails if there is none."""
    top = tree(file).body
    (test,) = [node for node in top if isinstance(node, ast.FunctionDef) and node.name == name]
    assigned = {
        target.id: node.value
        for node in top
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    of_all = marks(assigned["pytestmark"]) if "pytestmark" in assigned else set()
    of_some: set[str] = set()
    for decorator in test.decorator_list:
        parts = [part for part in ast.walk(decorator) if isinstance(part, ast.Name)]
        cases = [*getattr(decorator, "args", []), *(assigned[part.id] for part in parts if part.id in assigned)]
        of_some |= set().union(*map(marks, cases))
        if not isinstance(decorator, ast.Call):
            of_all |= marks(decorator)
    if of_all & NIGHTLY:
        return {"nightly"}
    return {"CI", "nightly"} if of_some & NIGHTLY else {"CI"}


def test_every_row_of_the_matrix_is_there_once() -> None:
    assert [number for number, *_ in rows()] == [str(number) for number in range(1, 31)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_names_tests_that_exist_and_the_tiers_that_they_run_in(
    row: tuple[str, list[tuple[str, str]], set[str], str],
) -> None:
    number, tests, told, figure = row
    if not tests:
        assert figure == NOT_YET, f"row {number} tells of a run, and names no test"
        return
    assert told == set().union(*(tiers(*test) for test in tests)), f"row {number}"
    assert NOT_YET in figure or re.match(r"20\d\d-\d\d-\d\d: ", figure), f"row {number} says not when it was run"


def test_marks_are_read_as_pytest_reads_them() -> None:
    """Of the module, of a test, and of some of its cases; also where the cases have a name."""
    assert tiers("faults/test_kills_ray.py", _first(Path("faults/test_kills_ray.py"))) == {"nightly"}
    assert tiers("train/test_ray.py", "test_a_killed_worker_changes_no_bit") == {"CI"}
    assert tiers("train/test_ray.py", "test_a_killed_driver_changes_no_bit") == {"nightly"}
    assert tiers("track/test_trial.py", "test_a_service_that_fails_neither_stops_nor_slows_a_trial") == {
        "CI",
        "nightly",
    }


def _first(file: Path) -> str:
    return next(
        node.name
        for node in tree(str(file)).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )
