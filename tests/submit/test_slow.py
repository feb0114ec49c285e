"""Whole runs as jobs of a real cluster with token authentication, from the command line, as a user submits them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_head import BIN, Head, get, ray_head
from whole_run import command, until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
LIBRARY = {"PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"}
PLAN = """\
name: {name}
model:
  scratch: {{tokenizer_from: [sums], vocab_size: 300, hidden_size: 16, layers: 1, heads: 1, key_value_heads: 1,
            intermediate_size: 32, max_positions: 128}}
data: {{sums: {data}}}
stages:
  warm: {{kind: sft, data: [sums], batch: 16, learning_rate: 2e-3, max_length: 96, checkpoint: {{every: 50}}}}
cluster: {{token_budget: 512}}
"""
ROWS = [{"instruction": f"What is {n} + 1?", "output": f"The answer is {n + 1}."} for n in range(80)]
CANARIES = {
    "HF_TOKEN": "canary-hf-6d81f0c2",
    "WANDB_API_KEY": "canary-wandb-93b7aa",
    "MY_PASSWORD": "canary-other-1f0e",
}


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose rows git ignores."""
    found = tmp_path_factory.mktemp("work")
    (found / "plan.yaml").write_text(PLAN.format(name="tiny", data="{path: rows/sums.jsonl}"))
    (found / "rows").mkdir()
    (found / "rows" / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (found / ".gitignore").write_text("rows/\n")
    subprocess.run(["git", "init", "-q"], cwd=found, check=True)
    return found


def words(head: Head, storage: Path, *more: str) -> list[str]:
    return command(
        "submit",
        "plan.yaml",
        "--address",
        head.dashboard,
        "--ship-code",
        "--ignored",
        "--set",
        f"cluster.storage={storage}",
        *more,
    )


def submit(head: Head, folder: Path, *more: str, storage: str = "store") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(head, folder / storage, *more), cwd=folder, env=head.environment(**CANARIES, **LIBRARY),
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(head: Head, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the command said when the plan had run to its end."""
    found = submit(head, folder)
    assert found.returncode == 0, found.stdout + found.stderr
    return found


def test_a_plan_runs_to_its_end_with_the_library_sent_along(
    done: subprocess.CompletedProcess[str], folder: Path
) -> None:
    report = folder / "store" / "runs" / "tiny" / "report.html"
    assert done.stdout.splitlines()[0].startswith("job: tiny-")
    assert done.stdout.splitlines()[-1] == f"report: {report}"
    assert report.is_file()
    assert "rows/sums.jsonl" in done.stderr


def test_no_secret_of_the_client_is_anywhere_on_the_cluster(
    head: Head, folder: Path, done: subprocess.CompletedProcess[str]
) -> None:
    job = done.stdout.splitlines()[0].removeprefix("job: ")
    found = {path: get(head, path) for path in ("/api/jobs/", f"/api/jobs/{job}", f"/api/jobs/{job}/logs")}
    for root in (head.folder, folder / "store"):
        found |= {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_socket()}
    found["what the command says"] = (done.stdout + done.stderr).encode()
    assert any(name.endswith("runtime_env_agent.log") for name in found)
    assert any(b"RAY_JOB_STOP_WAIT_TIME_S" in content for content in found.values()), "so variables would be seen"
    for name, secret in {**CANARIES, "RAY_AUTH_TOKEN": head.token}.items():
        assert [place for place, content in found.items() if secret.encode() in content] == [], name


def test_submitted_again_it_is_the_next_attempt_which_finds_all_done(
    head: Head, folder: Path, done: subprocess.CompletedProcess[str]
) -> None:
    again = submit(head, folder)
    assert again.returncode == 0, again.stdout + again.stderr
    first = done.stdout.splitlines()[0]
    assert again.stdout.splitlines()[0] == f"{first.removesuffix('-1')}-2"
    assert "nothing to do: steps, scores and the report are there" in again.stdout


def test_the_exit_status_of_the_run_is_the_command_s(head: Head, folder: Path) -> None:
    found = submit(head, folder, "--set", "model.scratch=null", "--set", "model.path=/no/such/model")
    assert found.returncode == 2, found.stdout + found.stderr
    assert "error: --set model.path: no such folder" in found.stdout


def test_a_stopped_run_goes_on_where_it_stopped(head: Head, folder: Path) -> None:
    long, step = ("--set", "stages.warm.epochs=200"), folder / "other" / "runs" / "tiny" / "steps" / "warm"
    with subprocess.Popen(
        words(head, folder / "other", *long), cwd=folder, env=head.environment(**LIBRARY), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as first:  # fmt: skip
        until(lambda: any((step / "checkpoints").glob("step-*/COMMITTED")), first)
        stopped = submit(head, folder, *long, "--stop", storage="other")
        out, told = first.communicate(timeout=120)
    assert (stopped.returncode, first.returncode) == (0, 75), stopped.stderr + out + told
    assert "stopped after" in stopped.stderr
    again = submit(head, folder, *long, storage="other")
    assert again.returncode == 0, again.stdout + again.stderr
    record = json.loads((step / "record.json").read_text())
    assert record["facts"]["training"]["resumed_from"] >= 50
    steps = [json.loads(line)["step"] for line in (step / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, record["counts"]["steps"] + 1))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ROOT / ".git").exists():
        pytest.skip(f"{ROOT} is no git repository to clone")
    folder = tmp_path_factory.mktemp("clone") / "ratchet"
    subprocess.run(["git", "clone", "-q", "--depth=1", ROOT.as_uri(), folder], check=True)
    (folder / "jobs" / "tiny.yaml").write_text(
        PLAN.format(name="tiny", data="{generate: {kind: arithmetic, rows: 80}}")
    )
    return folder


WAYS = {
    "PYTHONPATH": ({"env_vars": {"PYTHONPATH": "platform"}}, "python -m ratchet.cli"),
    "py_modules": ({"py_modules": ["platform/ratchet"]}, "python -m ratchet.cli"),
    "installed": ({}, "ratchet"),
}


@pytest.mark.parametrize("way", WAYS)
def test_ray_s_own_command_runs_a_plan_from_a_clean_clone(head: Head, clone: Path, tmp_path: Path, way: str) -> None:
    environment, ratchet = WAYS[way]
    code = "import platform, ratchet; print('from', ratchet.__file__, platform.python_version())"
    run = f"{ratchet} run jobs/tiny.yaml --set cluster.storage={tmp_path}"
    found = subprocess.run(
        [BIN / "ray", "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--runtime-env-json",
         json.dumps(environment), "--", "bash", "-c", f'python -c "{code}" && {run}'],
        cwd=clone, env=head.environment(), capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert (tmp_path / "runs" / "tiny" / "report.html").is_file()
    [line] = [line for line in found.stdout.splitlines() if line.startswith("from ")]
    assert (f"{head.folder}/session" in line) == (way != "installed")
