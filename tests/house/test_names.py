"""A public name of the library means one thing, so that a search for it finds one definition."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.house.rules import tree_of

PLATFORM = Path(__file__).resolve().parents[2] / "platform" / "ratchet"

SAME_THING = {
    "main": "what a program runs: cli.py, plan/reference_page.py",
}
"""Names that every module of a kind has, so that they are one thing."""


def shared_names(root: Path) -> dict[str, list[str]]:
    """Return the public functions and classes at the top of two modules or more, with their places."""
    found: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.py")):
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                found.setdefault(node.name, []).append(f"{path.relative_to(root)}:{node.lineno}")
    return {name: places for name, places in found.items() if len(places) > 1 and name not in SAME_THING}


def test_no_name_means_two_things() -> None:
    faults = [
        f"{name}: {', '.join(places)}; name it after its object" for name, places in shared_names(PLATFORM).items()
    ]
    assert not faults, "\n".join(faults)


def test_a_name_that_two_modules_share_is_found(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room/one.py").write_text("def place(): ...\ndef _own(): ...\ndef main(): ...\n")
    (tmp_path / "two.py").write_text("\nclass place: ...\ndef _own(): ...\ndef main(): ...\n")
    assert shared_names(tmp_path) == {"place": ["room/one.py:1", "two.py:2"]}
