"""`ratchet check`: what it writes, where, and with which exit status."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plan_example import PLAN, write
from ratchet import __version__, cli
from ratchet.commands import plans
from ratchet.errors import ClusterError, PlanError, RatchetError
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    Path("data").mkdir()
    Path("data/helpful.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    for name in "ab":
        Path(f"data/{name}.jsonl").write_text('{"question": "q", "answer": "no sum"}\n')


CHECKED = "jobs/x.yaml: a plan of 4 stages\n"


def test_good_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "jobs/x.yaml", "eval/quick.yaml"]) == 0
    told = capsys.readouterr()
    plan, *advice, suite = told.out.splitlines()
    assert (plan, suite) == (CHECKED.strip(), "eval/quick.yaml: a suite of 1 task")
    assert len(advice) == 3 and all(line.startswith("  ") for line in advice)
    assert told.err == ""


def test_goes_on_after_a_bad_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(PLAN.replace("name: careful", "nam: careful").replace("beta: 0.3", "beta: x"))
    assert cli.main(["check", "bad.yaml", "absent.yaml", "jobs/x.yaml"]) == 2
    told = capsys.readouterr()
    assert told.out.startswith(CHECKED)
    assert told.err.splitlines() == [
        "bad.yaml:2: nam: no such key; did you mean name?",
        'bad.yaml:19: stages.align.beta: must be a number above 0, not "x"',
        "absent.yaml: no such file; did you mean bad.yaml?",
    ]


def test_a_start_model_that_nothing_can_train_is_a_problem_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    Path("start").mkdir()
    words = ["check", "jobs/x.yaml", "--set", "model={path: start}"]
    Path("start/config.json").write_text(json.dumps({"quantization_config": {"quant_method": "fp8"}}))
    assert cli.main(words) == 0
    Path("start/config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    assert capsys.readouterr().err == "" and cli.main(words) == 4
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("jobs/x.yaml: model.path: start: its weights are stored quantised (gptq)")


def test_a_source_that_no_layout_fits_is_a_problem_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/helpful.jsonl").write_text('{"text": "a"}\n')
    Path("data/b.jsonl").write_bytes(b"\x1f\x8bcut off")
    assert cli.main(["check", "jobs/x.yaml", "eval/quick.yaml"]) == 3
    told = capsys.readouterr()
    assert told.out == "eval/quick.yaml: a suite of 1 task\n"
    assert "jobs/x.yaml: data.helpful: " in told.err and "these are whole texts" in told.err
    assert "jobs/x.yaml: data.math: " in told.err and "b.jsonl: the file is damaged or cut off" in told.err


def test_a_source_of_which_too_many_rows_are_bad_is_a_problem_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    bad = '{"prompt": 1, "chosen": "c", "rejected": "r"}\n'
    rows = "".join(json.dumps({"prompt": f"{n}", "chosen": "c", "rejected": "r"}) + "\n" for n in range(19))
    Path("data/helpful.jsonl").write_text(rows + bad)
    assert cli.main(["check", "jobs/x.yaml"]) == 0, "one of 20 is the limit"
    capsys.readouterr()
    Path("data/helpful.jsonl").write_text(rows + bad * 2)
    assert cli.main(["check", "jobs/x.yaml"]) == 3
    told = capsys.readouterr().err
    assert told.startswith("jobs/x.yaml: data.helpful: 2 of 21 rows are bad (9.5%, the limit is 5.0%)")
    assert "helpful.jsonl:20: wrong type" in told and "raise max_bad_share" in told


def test_what_is_longer_than_a_stage_takes_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"{n}", "chosen": "c" * (9000 if n % 4 == 0 else 9), "rejected": "r"} for n in range(40)]
    Path("data/helpful.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = "of the pairs of helpful are longer than max_length"
    assert cli.main(["check", "jobs/x.yaml", "--set", "data.helpful.held_out=0"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if wanted in line)
    assert "about 25% " in line and "a run stops above 20%" in line
    allowed = ["--set", "data.helpful.held_out=0", "--set", "data.helpful.max_overlong_share=0.3"]
    assert cli.main(["check", "jobs/x.yaml", *allowed]) == 0
    assert wanted not in capsys.readouterr().out


def test_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "jobs/x.yaml", "--set", "stages.align.beta=0.1", "--set", "cluster.workers=4"]) == 0
    assert cli.main(["check", "--set", "stages.align.beta=0", "jobs/x.yaml"]) == 2
    assert capsys.readouterr().err == "--set stages.align.beta: must be a number above 0, not 0\n"


def test_version_help_and_wrong_words(capsys: pytest.CaptureFixture[str]) -> None:
    for words, status, said in (
        (["--version"], 0, f"ratchet {__version__}"),
        (["--help"], 0, "check"),
        (["check", "--help"], 0, "--set KEY=VALUE"),
        ([], 2, "COMMAND"),
        (["chekc", "x"], 2, "invalid choice: 'chekc'"),
        (["check"], 2, "FILE"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        told = capsys.readouterr()
        assert caught.value.code == status
        assert said in told.out + told.err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ClusterError("no Ray", where="auto", fix="start one"), 69, "error: auto: no Ray\n  start one\n"),
        (PlanError("a\nb"), 2, "error: a\nb\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_an_exit_status(
    error: BaseException, status: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(plans, "check_command", stopped)
    assert cli.main(["check", "jobs/x.yaml"]) == status
    assert capsys.readouterr().err == said


def test_a_fault_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: argparse.Namespace) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(plans, "check_command", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["check", "jobs/x.yaml"])
    assert not issubclass(ZeroDivisionError, RatchetError)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("file", "also"),
    [
        ("eval/quick.yaml", {"numpy", "pyarrow", "tokenizers"}),
        ("jobs/x.yaml", set()),
    ],
)
def test_checking_needs_neither_torch_nor_ray(file: str, also: set[str]) -> None:
    """A plan's rows are counted, which takes Arrow."""
    Path("data/helpful.jsonl").write_text('{"prompt": "aaaabbbb", "chosen": "ccccdddd", "rejected": "e"}\n')
    heavy = {"torch", "ray", "transformers", "datasets", "deepspeed", "peft", "wandb", *also}
    script = (
        f"import sys; from ratchet import cli; status = cli.main(['check', {file!r}]); heavy = {heavy!r};"
        "sys.exit(f'status {status}, brought {heavy & set(sys.modules)}' if status or heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("warm: 4 tokens" in done.stdout) == (file == "jobs/x.yaml")


@pytest.mark.heavy
def test_the_command_is_installed_and_checks_the_repository() -> None:
    paths = [path for folder in ("jobs", "eval") for path in sorted((ROOT / folder).glob("*.yaml"))]
    files = [str(path.relative_to(ROOT)) for path in paths if path.stem != "stories"]  # whose data are not here
    command = [sys.executable, "-c", "import sys; from ratchet.cli import main; sys.exit(main())", "check", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    # Below a plan stands what its tokens come to.
    assert sum(not line.startswith("  ") for line in done.stdout.splitlines()) == len(files)


@pytest.mark.heavy
@pytest.mark.parametrize(("words", "status"), [(["check", "jobs/x.yaml"], 141), (["run", "absent.yaml"], 2)])
def test_output_that_nobody_reads_is_no_traceback(words: list[str], status: int) -> None:
    """As `| head` leaves it: of `check` standard output, of `run` with `2>&1` standard error too."""
    reader, writer = os.pipe()
    os.close(reader)
    told = writer if words[0] == "run" else subprocess.PIPE
    ended = subprocess.run([sys.executable, "-m", "ratchet.cli", *words], stdout=writer, stderr=told, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr or b"") == (status, b"")


def test_a_broken_connection_is_not_taken_for_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(arguments: argparse.Namespace) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(plans, "check_command", main)
    with (
        open(os.devnull, "w") as out,
        monkeypatch.context() as patched,
        pytest.raises(BrokenPipeError),
    ):
        patched.setattr(sys, "stdout", out)
        patched.setattr(sys, "stderr", out)
        cli.main(["check", "x"])
