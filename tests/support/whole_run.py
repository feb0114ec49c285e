"""A whole plan in miniature, and ways to run it as a user does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import frames
from ratchet.reference.processes import family

MODEL = """\
model:
  scratch: {tokenizer_from: [sums], vocab_size: 320, hidden_size: 32, layers: 2, heads: 2, key_value_heads: 1,
            intermediate_size: 64, max_positions: 128}
"""

PLAN = (
    f"""\
name: tiny
{MODEL}"""
    + """\
data:
  sums: {generate: {kind: arithmetic, rows: 300, steps: 2, largest: 20}, held_out: 0.1}
  slips:
    generate: {kind: arithmetic, rows: 160, steps: 2, largest: 20, seed: 1}
    build: arithmetic_corruption
    held_out: 0.2
  quiz: {generate: {kind: arithmetic_quiz, rows: 50, steps: 1, seed: 2}, build: multiple_choice, held_out: 0.2}
stages:
  warm: {kind: sft, data: [sums], batch: 32, learning_rate: 2e-3, max_length: 96}
  align:
    kind: dpop
    after: warm
    data: [slips, quiz]
    steps: {by: source, order: easy_to_hard}
    batch: 16
    learning_rate: 1e-3
    max_length: 96
    checkpoint: {every: 2, keep: 2}
  control: {kind: dpo, after: warm, data: [slips, quiz], batch: 16, learning_rate: 1e-3, max_length: 96}
  blend: {kind: merge, of: [align, control], weights: [0.75, 0.25]}
evaluate: [suite.yaml]
cluster: {token_budget: 512, storage: out}
"""
)

SUITE = """\
tasks:
  sums: {kind: exact_match, source: sums, pattern: 'answer is (-?\\d+)', rows: 16, max_new_tokens: 32}
"""

TINY = """\
name: tiny
model:
  scratch: {tokenizer_from: [slips], vocab_size: 300, hidden_size: 16, layers: 1, heads: 2, key_value_heads: 1,
            intermediate_size: 32, max_positions: 96}
data:
  slips:
    generate: {kind: arithmetic, rows: 20, steps: 2, largest: 9, seed: 1}
    build: arithmetic_corruption
    held_out: 0.2
"""
"""The smallest model and source."""

SMALLEST = (
    TINY
    + """\
stages:
  warm: {kind: sft, data: [slips], max_length: 96}
  align: {kind: dpo, after: warm, data: [slips], batch: 4, learning_rate: 1e-3, max_length: 96}
  blend: {kind: merge, of: [warm, align]}
evaluate: [suite.yaml]
cluster: {token_budget: 512, storage: out}
"""
)
SMALLEST_SUITE = """\
tasks:
  sums: {kind: exact_match, source: slips, pattern: 'answer is (-?\\d+)', rows: 2, max_new_tokens: 2}
"""


CANARIES = {
    "WANDB_API_KEY": "c0ffee5e" * 5,
    "HF_TOKEN": "hf_CanaryCanaryCanaryCanary01",
    "OPENAI_API_KEY": "sk-canary-4f9a7c1e5b3d2086",
    "RAY_AUTH_TOKEN": "canaryray0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    "RAY_REDIS_PASSWORD": "canary/redis+pass=word",
    "COMPANY_DB_PASSWORD": "canary-of-a-data-base",
}
"""Secrets in the environment of the whole run."""


@dataclass(frozen=True)
class Whole:
    """A plan that has run to its end: its folder, that of its Ray, and what it said."""

    folder: Path
    rays: Path
    stdout: str
    stderr: str


@contextlib.contextmanager
def run_whole(folder: Path) -> Iterator[Whole]:
    """Run the plan in `folder`, with secrets in its environment, wandb offline, and a look at its way to a loss."""
    write_plan(folder)
    with (folder / "plan.yaml").open("a") as plan:
        plan.write("track: {wandb: {project: canary, mode: offline}}\n")
    rays = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))  # Ray's sockets lie there, and their paths must be short
    settings = {**environment(), **CANARIES, "RAY_AUTH_MODE": "token", "RAY_TMPDIR": str(rays)}
    line = [sys.executable, frames.__file__, "run", "plan.yaml"]
    try:
        found = subprocess.run(line, cwd=folder, env=settings, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        yield Whole(folder, rays, found.stdout, found.stderr)
    finally:
        shutil.rmtree(rays, ignore_errors=True)


def write_smallest(folder: Path) -> None:
    """Write a plan that trains in seconds and its suite into `folder`: each kind of work once."""
    (folder / "plan.yaml").write_text(SMALLEST)
    (folder / "suite.yaml").write_text(SMALLEST_SUITE)


def write_plan(folder: Path) -> None:
    """Write the plan and its suite into `folder`, which then is the current directory of a run."""
    (folder / "plan.yaml").write_text(PLAN)
    (folder / "suite.yaml").write_text(SUITE)


def command(*arguments: str) -> list[str]:
    """Return the command line of the installed `ratchet`."""
    return [str(Path(sys.executable).with_name("ratchet")), *arguments]


def environment() -> dict[str, str]:
    """The environment of a run: quiet, offline, and without another Ray's address."""
    return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {
        "CI": "true",
        "HF_HUB_OFFLINE": "1",
    }


def ratchet(folder: Path, *arguments: str, seconds: float = 3000) -> subprocess.CompletedProcess[str]:
    """Run `ratchet` in `folder` to its end."""
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=seconds, check=False
    )


_COMMAND = """
import json, sys
from ratchet.cli import main
status = main(sys.argv[2:])
open(sys.argv[1], "w", encoding="utf-8").write(json.dumps(sorted(sys.modules)))
sys.exit(status)
"""


def loaded_by(folder: Path, *words: str) -> set[str]:
    """Return the modules that a command of Ratchet's has loaded at its end in `folder`; it must succeed."""
    told = folder / "modules.json"
    found = subprocess.run(
        [sys.executable, "-c", _COMMAND, str(told), *words],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return set(json.loads(told.read_text()))


def steps(folder: Path, plan: str = "tiny") -> Path:
    """Return the folder of a plan's steps."""
    return folder / "out" / "runs" / plan / "steps"


def record(folder: Path, step: str) -> dict[str, Any]:
    """Return a step's record."""
    found: dict[str, Any] = json.loads((steps(folder) / step / "record.json").read_text())
    return found


def metrics(folder: Path, step: str) -> list[dict[str, Any]]:
    """Return a step's metrics lines."""
    return [json.loads(line) for line in (steps(folder) / step / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path, step: str) -> str:
    """Return a digest of a step's weights, bytes and all."""
    files = sorted((steps(folder) / step / "model").glob("*.safetensors"))
    assert files
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def titles_below(pid: int) -> list[str]:
    """Return the titles of the processes that descend from one."""
    return [title for _, title in processes_below(pid)]


def processes_below(pid: int) -> list[tuple[int, str]]:
    """Return (pid, title) of the processes that descend from one, its Ray's with them: a test looks at no other's."""
    found = []
    for one in family(pid)[1:]:
        try:
            found.append((one, Path(f"/proc/{one}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")))
        except OSError:  # it has ended meanwhile
            continue
    return found


def until(condition: Callable[[], bool], run: subprocess.Popen[str], seconds: float = 1800) -> None:
    """Wait for something that a run does. Fails where it ends before, or does not come that far."""
    end = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < end, "the run did not come this far"
        time.sleep(0.05)
