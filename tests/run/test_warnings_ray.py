"""What workers warn of reaches the terminal and the page, in a whole run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from whole_run import MODEL, command, environment

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PLAN = f"""\
name: keyless
{MODEL}
data: {{sums: {{generate: {{kind: arithmetic, rows: 100, steps: 2, largest: 20}}, held_out: 0.1}}}}
stages: {{warm: {{kind: sft, data: [sums], batch: 32, learning_rate: 2e-3, max_length: 96}}}}
track: {{wandb: {{project: x}}}}
cluster: {{workers: 2, token_budget: 512, storage: out}}
"""


def test_wandb_without_a_key_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    variables = {key: value for key, value in environment().items() if not key.startswith("WANDB_")}
    run = subprocess.run(
        command("run", "plan.yaml"),
        cwd=tmp_path,
        env={**variables, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    said = [line for line in run.stderr.splitlines() if "wandb" in line.replace(str(tmp_path), "")]
    assert len(said) == 1
    assert said[0].startswith("warning: wandb is off")
    assert "API key" in said[0]
    page = json.loads((tmp_path / "out/runs/keyless/report.json").read_text())
    assert [f"warning: {text}" for text in page["warnings"] if "wandb" in text] == said
