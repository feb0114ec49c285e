"""Codes of errors: each means one thing, is raised somewhere by a class it begins with, and stands on the page."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from ratchet import errors
from ratchet.codes import CODES, Code
from ratchet.errors import PlanError, RatchetError, RunError, error_from, error_values
from tests.house.rules import nodes_of

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, RatchetError)
}

BECOMES = {"Trouble": "EndpointError"}
"""What an attempt's trouble is raised as after the last attempt, with its code."""


def raised(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (class, code) of every error that is made with a code below `root`."""
    for path in sorted(root.rglob("*.py")):
        for node in nodes_of(path):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            name = BECOMES.get(node.func.id, node.func.id)
            for given in node.keywords if name in CLASSES else ():
                if given.arg == "code" and isinstance(given.value, ast.Constant):
                    yield name, given.value.value


def test_every_class_has_a_code_of_its_own() -> None:
    codes = [kind.class_code for kind in CLASSES.values()]
    assert len(set(codes)) == len(codes)
    assert not set(codes) & set(CODES)


def test_every_code_has_one_meaning_stands_on_the_page_and_is_raised_by_its_class() -> None:
    assert set(CODES) == set(get_args(Code))
    assert len(set(CODES.values())) == len(CODES)
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+\.[a-z-]+)` \| (.+) \|$", page, re.MULTILINE)
    assert dict(rows) == dict(CODES) and len(rows) == len(CODES)
    assert all(f"`{kind.class_code}`" in page for kind in CLASSES.values() if kind is not RatchetError)
    found = set(raised(ROOT / "platform/ratchet"))
    assert {code for _, code in found} == set(CODES)
    assert [(kind, code) for kind, code in found if code.split(".")[0] != CLASSES[kind].class_code] == []


def test_an_error_has_the_code_it_was_given_or_that_of_its_class() -> None:
    assert (PlanError("x").code, RunError("x", code="run.held").code) == ("plan", "run.held")
    for error in (PlanError("a", where="b", fix="c"), RunError("x", code="run.held")):
        for again in (pickle.loads(pickle.dumps(error)), error_from(error_values(error))):  # noqa: S301
            assert type(again) is type(error)
            assert (again.what, again.where, again.fix, again.code) == (error.what, error.where, error.fix, error.code)


@pytest.mark.parametrize("code", [{}, {"code": "run.of-a-later-version"}])
def test_an_error_without_a_known_code_is_read_with_that_of_its_class(code: dict[str, str]) -> None:
    assert error_from({"kind": "RunError", "what": "x", "where": "", "fix": "", **code}).code == "run"
