"""Ratchet stays as quick as it is: no count of `benchmarks/landed.json` grows, and the counting counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import quick, spy

LANDED = json.loads(quick.LANDED.read_text(encoding="utf-8"))
RENEW = f"if that is meant, renew the figures: {quick.COMMAND}"
same_versions = pytest.mark.skipif(
    LANDED["versions"] != quick.versions(), reason="numbers of modules were landed under other versions of libraries"
)


def grown(counts: quick.Counts) -> list[str]:
    return quick.grown(counts, LANDED["counts"])


@pytest.mark.parametrize("part", ["tokens", "opens", pytest.param("flops", marks=pytest.mark.heavy)])
def test_no_step_computes_more_and_no_worker_opens_more(part: str) -> None:
    assert grown(quick.PARTS[part]()) == [], RENEW


@pytest.mark.heavy
@same_versions
def test_no_command_imports_more() -> None:
    assert grown(quick.commands()) == [], RENEW


@pytest.mark.ray
@same_versions
def test_a_small_run_starts_no_more_processes_and_these_import_no_more() -> None:
    assert grown(quick.small_run()) == [], RENEW


def test_landed_figures_name_every_count_and_how_they_are_made() -> None:
    assert LANDED["command"] == quick.COMMAND and len(LANDED["commit"]) == 40
    assert LANDED["may vary by"] == quick.VARIES
    names = " ".join(LANDED["counts"])
    for what in ("tokens a pair", "GFLOP a step", "files opened", "ratchet check", "ratchet show"):
        assert what in names


def test_a_count_that_grew_or_is_new_is_named() -> None:
    assert quick.grown({"a": 3, "b": 2}, {"a": 3, "b": 4}) == []
    assert quick.grown({"a": 4, "c": 1}, {"a": 3}) == ["c: 1, and landed.json has no such count", "a: 4 after 3"]


def test_a_count_that_may_vary_grows_once_it_is_past_that() -> None:
    name = "processes of a small run"
    assert quick.grown({name: 22}, {name: 20}) == []
    assert quick.grown({name: 23}, {name: 20}) == [f"{name}: 23 after 20"]


def test_files_are_counted_each_time_they_are_opened(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    for name in ("a", "b"):
        (below / name).write_text("x")

    def read() -> None:
        for name in ("a", "a", "a", "b"):
            (below / name).read_text()
        list(below.iterdir())  # a folder is no file

    assert spy.opened_files([tmp_path], read) == 4


def test_processes_and_their_modules_are_written_down_forks_and_kills_too(tmp_path: Path) -> None:
    child = "    import wave\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    program = f"import os, json, signal\nif os.fork() == 0:\n{child}os.wait()"
    subprocess.run([sys.executable, "-c", program], env=spy.watched(tmp_path / "seen"), check=True)
    first, second = spy.seen(tmp_path / "seen")
    assert "json" in first.modules and "wave" not in first.modules
    assert "wave" in second.modules and "json" not in second.modules
    assert first.words[-1].startswith("import os") and not first.outside & {"json", "os"}


def test_a_fork_works_for_ratchet_once_it_unpickles_something_of_it(tmp_path: Path) -> None:
    work = "    pickle.loads(work)\n    os._exit(0)\n"
    program = "import os, pickle\nfrom ratchet.errors import RatchetError\n"
    program += f"work = pickle.dumps(RatchetError)\nif os.fork() == 0:\n{work}os.wait()\n"
    program += "if os.fork() == 0:\n    pickle.loads(pickle.dumps(os.getcwd))\n    os._exit(0)\nos.wait()"
    subprocess.run([sys.executable, "-c", program], env=spy.watched(tmp_path / "seen"), check=True)
    assert ["ratchet" in process.modules for process in spy.seen(tmp_path / "seen")] == [True, True, False]
