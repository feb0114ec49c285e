"""Warnings of every process of a run: on the terminal once, and on the page."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ratchet.cli import main
from ratchet.store import warned
from ratchet.track.heard import Heard

WORKER = """
import logging, sys
from ratchet.store import warned
warned.send(sys.argv[1] or None)
for text in sys.argv[2:]:
    logging.getLogger("ratchet.track.wandb").warning("%s", text)
"""


def worker(folder: Path | str, *texts: str) -> str:
    """Log warnings from a process of its own; return what it wrote to standard error."""
    command = [sys.executable, "-c", WORKER, str(folder), *texts]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


@pytest.mark.heavy
def test_equal_warnings_of_several_processes_are_one_line(tmp_path: Path) -> None:
    said: list[str] = []
    heard = Heard(tmp_path, said.append)
    assert [worker(tmp_path, "wandb is off", "wandb is off", text) for text in ("left", "right")] == ["", ""]
    assert len(warned.files(tmp_path)) == 2
    heard.look()
    assert sorted(said) == ["warning: left", "warning: right", "warning: wandb is off"]
    worker(tmp_path, "wandb is off")
    heard.look()
    assert len(said) == 3
    assert sorted(heard.on_page(["of the plan"])) == ["left", "of the plan", "right", "wandb is off"]
    assert said[3:] == ["warning: of the plan"]


def test_a_warning_is_said_while_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet.track.heard._LOOK_SECONDS", 0.05)
    said: list[str] = []
    heard = Heard(tmp_path, said.append)
    with heard.all(), heard.meanwhile():
        assert warned.destination() == str(tmp_path)
        logging.getLogger("ratchet.pipeline").warning("of the driver")
        while not said:
            time.sleep(0.01)
    assert said == ["warning: of the driver"]
    assert warned.destination() is None


def test_what_an_earlier_call_said_stays_on_the_page_with_its_day(tmp_path: Path) -> None:
    worker(tmp_path, "old")
    (path,) = warned.files(tmp_path)
    line = json.loads(path.read_text())
    path.write_text(json.dumps({**line, "at": "2026-01-02T03:04:05Z"}) + "\n" + '{"at": "torn')
    said: list[str] = []
    heard = Heard(tmp_path, said.append)
    worker(tmp_path, "new")
    assert heard.on_page([]) == ["old (2026-01-02)", "new"]
    heard.look()
    assert said == ["warning: new"]


@pytest.mark.heavy
def test_a_sweep_hears_its_trials(tmp_path: Path) -> None:
    said: list[str] = []
    heard = Heard(tmp_path, said.append, (".", "trials/*"))
    worker(tmp_path / "trials" / "a", "lost")
    worker(tmp_path / "trials" / "b", "lost")
    worker(tmp_path, "own")
    heard.look()
    assert sorted(said) == ["warning: lost", "warning: own"]
    assert sorted(warned.on_page([], tmp_path, runs=(".", "trials/*"))) == ["lost", "own"]


def test_an_error_is_told_by_its_kind_and_no_secret_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "wjxq-2931-secret")
    with warned.sent(tmp_path):
        try:
            raise ValueError("asked with wjxq-2931-secret\nand more")
        except ValueError:
            logging.getLogger("ratchet.tune").exception("the page\nfailed")
        logging.getLogger("ratchet.tune").info("no warning")
    assert [one.what for one in warned.warnings_in(tmp_path)] == ["the page failed: ValueError: asked with ***"]


def test_where_no_file_can_be_written_it_goes_to_standard_error(tmp_path: Path) -> None:
    (tmp_path / "warnings").write_text("a file has the folder's name")
    assert worker(tmp_path, "lost", "more") == "warning: lost\nwarning: more\n"
    assert worker("", "of no run", "of no run") == "warning: of no run\n"


def test_the_command_says_warnings_before_there_is_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "jobs/quickstart.yaml"]) == 0
    logging.getLogger("ratchet.plan").warning("an odd plan")
    assert capsys.readouterr().err == "warning: an odd plan\n"
