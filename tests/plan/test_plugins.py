"""Kinds that other packages add: `ratchet check` sees them, training uses them, and a broken one is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plugin_example import install
from ratchet.errors import PlanError
from ratchet.plan.plugins import plugins
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


def test_check_knows_the_options_without_torch(used: dict[str, object]) -> None:
    assert used["check"] == 0 and used["torch after check"] is False
    assert "stages.align.wdth: no such key; did you mean width?" in str(used["slip"])


def test_a_real_update_is_that_of_the_added_loss(used: dict[str, object]) -> None:
    assert used["loss"] == pytest.approx(used["loss by hand"], rel=1e-6)
    assert used["moved"] is True and used["reference"] is None
    assert "rewards/margins" in used["metrics"] and "logps/chosen_delta" not in used["metrics"]  # type: ignore[operator]


def test_its_version_is_in_the_identities_of_what_it_decides(used: dict[str, object]) -> None:
    assert used["step package"] == "ratchet-hinge 1.0"
    assert used["pairs packages"] == {"layout": "ratchet-hinge 1.0", "build": "ratchet-hinge 1.0"}
    assert used["pairs of a row"] == ["q", "good", "bad"]


def test_a_host_with_another_version_says_so(used: dict[str, object]) -> None:
    assert "kind hinge is of ratchet-hinge 0.9, and here of ratchet-hinge 1.0" in str(used["other version"])


def test_the_reference_page_lists_built_in_kinds_alone(used: dict[str, object]) -> None:
    assert used["page"] == (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")


def test_a_broken_one_and_a_doubled_one_name_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "one", version="1.0", losses={"broken": "no_such_module:ROW", "wrong": "json:dumps"})
    install(tmp_path / "two", version="2.0", name="ratchet-other", losses={"taken": "a:B"})
    install(tmp_path / "three", version="3.0", name="ratchet-third", losses={"taken": "c:D"})
    monkeypatch.syspath_prepend(str(tmp_path / "one"))
    found = plugins("ratchet.losses", ())
    with pytest.raises(PlanError, match=r"ratchet-hinge 1.0: 'broken' .*No module named.*\n.*uninstall") as caught:
        found["broken"].load(AddedLoss)
    assert caught.value.exit_code == 2
    with pytest.raises(PlanError, match=r"'wrong' .* is of type function, not AddedLoss"):
        found["wrong"].load(AddedLoss)
    with pytest.raises(PlanError, match="Ratchet has a kind of that name"):
        plugins("ratchet.losses", ("broken",))
    monkeypatch.syspath_prepend(str(tmp_path / "two"))
    monkeypatch.syspath_prepend(str(tmp_path / "three"))
    with pytest.raises(
        PlanError, match=r"ratchet-(other|third) .*'taken' .*ratchet-(other|third) .* has a kind of that name"
    ):
        plugins("ratchet.losses", ())


def test_a_broken_one_stops_check_with_its_name(tmp_path: Path) -> None:
    install(tmp_path / "packages", version="1.0", losses={"broken": "no_such_module:ROW"})
    (tmp_path / "plan.yaml").write_text("name: p\n", encoding="utf-8")
    done = run("-m", "ratchet.cli", "check", "plan.yaml", packages=tmp_path / "packages", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: ratchet-hinge 1.0: 'broken' of ratchet.losses cannot be used" in done.stderr
