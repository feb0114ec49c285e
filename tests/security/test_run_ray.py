"""A whole run with secrets in its environment: not one file that it leaves, and not one line that it says, has them."""

from __future__ import annotations

import base64
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from whole_run import MODEL, SUITE, command, environment

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

CANARIES = {
    "WANDB_API_KEY": "c0ffee5e" * 5,
    "HF_TOKEN": "hf_CanaryCanaryCanaryCanary01",
    "OPENAI_API_KEY": "sk-canary-4f9a7c1e5b3d2086",
    "RAY_AUTH_TOKEN": "canaryray0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    "RAY_REDIS_PASSWORD": "canary/redis+pass=word",
    "COMPANY_DB_PASSWORD": "canary-of-a-data-base",
}
PLAN = f"""\
name: tiny
{MODEL}data:
  sums: {{generate: {{kind: arithmetic, rows: 120, steps: 2, largest: 20}}, held_out: 0.1}}
  slips: {{generate: {{kind: arithmetic, rows: 60, steps: 2, seed: 1}}, build: arithmetic_corruption, held_out: 0.2}}
stages:
  align: {{kind: dpo, data: [slips], batch: 16, max_length: 96, checkpoint: {{every: 2, keep: 2}}}}
evaluate: [suite.yaml]
cluster: {{token_budget: 512, storage: out}}
track: {{wandb: {{project: canary, mode: offline}}}}
"""


@pytest.fixture
def short() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


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


def test_no_secret_is_in_anything_that_a_run_leaves(tmp_path: Path, short: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "suite.yaml").write_text(SUITE)
    settings = {**environment(), **CANARIES, "RAY_AUTH_MODE": "token", "RAY_TMPDIR": str(short)}
    run = subprocess.run(
        command("run", "plan.yaml"),
        cwd=tmp_path,
        env=settings,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    files = [path for folder in (tmp_path, short) for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    # The run did what leaves traces: a page, records, wandb's own file, and Ray's logs of its processes.
    assert {"report.html", "record.json", "metrics.jsonl", "resolved.json", "gcs_server.out", "raylet.out"} <= names
    assert any(path.suffix == ".wandb" for path in files)
    assert {name: found for folder in (tmp_path, short) for name, found in found_in(folder).items()} == {}
    assert not [name for name, value in CANARIES.items() if value in run.stdout + run.stderr]


def test_the_search_itself_finds_a_canary(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(b"\0" + CANARIES["HF_TOKEN"].encode() + b"\0")
    (tmp_path / "c.log").write_bytes(base64.b64encode(b"api:" + CANARIES["WANDB_API_KEY"].encode()))
    assert found_in(tmp_path) == {"HF_TOKEN": ["a/b.bin"], "WANDB_API_KEY": ["c.log"]}
