"""Kinds that other packages add: `ratchet check` sees them, training uses them, and a broken one is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plugin_example import KIND, install
from raised import raises
from ratchet.plan.plugins import Kinds
from ratchet.plan.stages import AddedLoss

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str, packages: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(packages), str(ROOT / "platform"), str(ROOT / "tests" / "support")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What `plugin_example` saw in a process where version 1.0 of the package is installed."""
    folder = tmp_path_factory.mktemp("plugins")
    install(folder / "packages", version="1.0")
    done = run(str(ROOT / "tests/support/plugin_example.py"), packages=folder / "packages", cwd=folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.heavy
def test_check_knows_the_options_without_torch(used: dict[str, object]) -> None:
    assert used["check"] == 0 and used["torch after check"] is False
    assert "stages.align.wdth: no such key; did you mean width?" in str(used["slip"])


@pytest.mark.heavy
def test_a_real_update_is_that_of_the_added_loss(used: dict[str, object]) -> None:
    assert used["loss"] == pytest.approx(used["loss by hand"], rel=1e-6)
    assert used["moved"] is True and used["reference"] is None
    assert "rewards/margins" in used["metrics"] and "logps/chosen_delta" not in used["metrics"]  # type: ignore[operator]


@pytest.mark.heavy
def test_its_version_is_in_the_identities_of_what_it_decides(used: dict[str, object]) -> None:
    assert used["step package"] == "ratchet-hinge 1.0"
    assert used["pairs packages"] == {"layout": "ratchet-hinge 1.0", "build": "ratchet-hinge 1.0"}
    assert used["pairs of a row"] == ["q", "good", "bad"]


@pytest.mark.heavy
def test_a_host_with_another_version_says_so(used: dict[str, object]) -> None:
    assert "kind hinge is of ratchet-hinge 0.9, and here of ratchet-hinge 1.0" in str(used["other version"])


@pytest.mark.heavy
def test_the_reference_page_lists_built_in_kinds_alone(used: dict[str, object]) -> None:
    assert used["page"] == (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")


def test_a_broken_one_and_a_doubled_one_name_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "one", version="1.0", losses={"broken": "no_such_module:ROW", "wrong": "json:dumps"})
    install(tmp_path / "two", version="2.0", name="ratchet-other", losses={"taken": "a:B"})
    install(tmp_path / "three", version="3.0", name="ratchet-third", losses={"taken": "c:D"})
    for folder in ("one", "two", "three"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    table = Kinds("ratchet.losses", "stage", ("wrong",))
    assert set(table.added) == {"broken", "taken"}
    assert "Ratchet has a kind of that name" in table.faults["wrong"].what
    assert table.faults["taken"].where == "ratchet-third 3.0" and "ratchet-other 2.0" in table.faults["taken"].what
    with raises("plan.kind") as caught:
        table.added["broken"].load(AddedLoss)
    assert caught.value.where == "ratchet-hinge 1.0" and "broken = no_such_module:ROW" in caught.value.what
    assert "pip uninstall ratchet-hinge" in caught.value.fix and caught.value.exit_code == 2
    with raises("plan.kind"):
        Kinds("ratchet.losses", "stage", ()).added["wrong"].load(AddedLoss)


def test_a_kind_that_no_package_adds_is_an_error_and_no_default() -> None:
    table = Kinds("ratchet.losses", "stage", ("dpo",))
    assert table.release_of("dpo") is None
    with raises("plan.kind") as caught:
        table.release_of("hinge")
    assert "install the package that adds it" in caught.value.fix


KINDS = """
import dataclasses
from hinge_kind import ROW

SUPERVISED = dataclasses.replace(ROW, stage=None)
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("losses", "wrong"),
    [
        ({"broken": "no_such_module:ROW"}, "broken = no_such_module:ROW of ratchet.losses cannot be used"),
        ({"hinge": "hinge_broken:SUPERVISED"}, "hinge = hinge_broken:SUPERVISED of ratchet.losses cannot be used"),
    ],
)
def test_a_broken_one_stops_what_reads_a_plan_and_nothing_else(
    tmp_path: Path, losses: dict[str, str], wrong: str
) -> None:
    packages = tmp_path / "packages"
    install(packages, version="1.0", losses=losses)
    (packages / "hinge_kind.py").write_text(KIND, encoding="utf-8")
    (packages / "hinge_broken.py").write_text(KINDS, encoding="utf-8")
    (tmp_path / "plan.yaml").write_text("name: p\n", encoding="utf-8")
    (tmp_path / "store").mkdir()

    def ratchet(*words: str) -> subprocess.CompletedProcess[str]:
        return run("-m", "ratchet.cli", *words, packages=packages, cwd=tmp_path)

    done = ratchet("check", "plan.yaml")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "warning" not in done.stderr
    assert f"ratchet-hinge 1.0: the entry point {wrong}" in done.stderr and "pip uninstall" in done.stderr
    for words in (("fsck", "."), ("check", "--help")):
        done = ratchet(*words)
        assert done.returncode == 0 and done.stdout, done.stderr
        assert f"warning: ratchet-hinge 1.0: the entry point {wrong}" in done.stderr
