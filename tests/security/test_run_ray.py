"""A whole run with secrets in its environment: not one file that it leaves, and not one line that it says, has them."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from whole_run import CANARIES, Whole

pytestmark = pytest.mark.ray


def found_in(folder: Path) -> dict[str, list[str]]:
    """Return the files below a folder that hold a canary, by its name: as it is, or in base64 as HTTP sends it."""
    spelt = {
        name: [value.encode(), base64.b64encode(value.encode()), base64.b64encode(b"api:" + value.encode())]
        for name, value in CANARIES.items()
    }
    found: dict[str, list[str]] = {}
    for path in sorted(one for one in folder.rglob("*") if one.is_file() and not one.is_symlink()):
        content = path.read_bytes()
        for name, spellings in spelt.items():
            if any(one in content for one in spellings):
                found.setdefault(name, []).append(str(path.relative_to(folder)))
    return found


def test_no_secret_is_in_anything_that_a_run_leaves(whole_run: Whole) -> None:
    left = whole_run.folder, whole_run.rays
    files = [path for folder in left for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    # The run did what leaves traces: a page, records, wandb's own file, and Ray's logs of its processes.
    assert {"report.html", "record.json", "metrics.jsonl", "resolved.json", "gcs_server.out", "raylet.out"} <= names
    assert any(path.suffix == ".wandb" for path in files)
    assert {name: found for folder in left for name, found in found_in(folder).items()} == {}
    assert not [name for name, value in CANARIES.items() if value in whole_run.stdout + whole_run.stderr]


def test_the_search_itself_finds_a_canary(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(b"\0" + CANARIES["HF_TOKEN"].encode() + b"\0")
    (tmp_path / "c.log").write_bytes(base64.b64encode(b"api:" + CANARIES["WANDB_API_KEY"].encode()))
    assert found_in(tmp_path) == {"HF_TOKEN": ["a/b.bin"], "WANDB_API_KEY": ["c.log"]}
