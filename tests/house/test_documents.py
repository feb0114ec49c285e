"""A JSON file is a dataclass through the codec: no file is written from a dict whose keys nothing checks."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.house.rules import nodes_of

PLATFORM = Path(__file__).resolve().parents[2] / "platform" / "ratchet"
WRITERS = {"write_json", "write_json_once", "write_sealed", "write_sealed_once", "dump", "dumps"}

BY_HAND = {
    "evaluate/mt_bench/scores.py": "FastChat's own format: other programs read it, and say what its keys are",
    "model/carried.py": "the header of a safetensors file, whose format says what its keys are",
    "pipeline/training.py": "one word, the engine that scores a step's reference",
    "reference/processes.py": "two values that the function beside it reads",
    "train/checkpoint.py": "a dataclass and a name; its facts may be no finite numbers, which the codec leaves out",
    "tune/process.py": "one word, which stops a trial",
    "tune/sweep.py": "one word, which stops a sweep",
}
"""Files that write keys by hand, each with the reason. A new one is a dataclass instead."""


def written_by_hand(root: Path) -> list[str]:
    """Return the places where a dict that is spelt out is handed to what writes JSON."""
    found = []
    for path in sorted(root.rglob("*.py")):
        for node in nodes_of(path):
            if not isinstance(node, ast.Call) or not any(isinstance(one, ast.Dict) for one in node.args):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in WRITERS:
                found.append(f"{path.relative_to(root)}:{node.lineno}")
    return found


def test_documents_are_dataclasses() -> None:
    new = [place for place in written_by_hand(PLATFORM) if place.partition(":")[0] not in BY_HAND]
    assert not new, f"written from a dict: {', '.join(new)}; make a dataclass of it, and write store.codec.to_values"
    assert {place.partition(":")[0] for place in written_by_hand(PLATFORM)} == set(BY_HAND), "take it out of BY_HAND"


def test_a_document_written_by_hand_is_found(tmp_path: Path) -> None:
    lines = ('write_json(path, {"level": 1})', "write_json(path, to_values(document))", 'json.dumps({"a": 2})', "{}")
    (tmp_path / "one.py").write_text("\n".join(lines))
    assert written_by_hand(tmp_path) == ["one.py:1", "one.py:3"]
