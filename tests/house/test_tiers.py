"""The tiers of tests: all of them run, what came of them is one line, long ones are divided, light ones stay light."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parts import SECONDS, SHARED, group_of, lengths, parts_of, read_part
from tests import tiers
from tests.conftest import ROOT

LIGHT = ("plan", "kubernetes", "submit", "doctor")
"""Rooms whose tests need no torch."""


@pytest.mark.heavy
def test_a_tier_that_fails_ends_no_other_and_one_line_says_what_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pytest.ini").touch()
    red, green, broken = (tmp_path / f"test_{name}.py" for name in ("red", "green", "broken"))
    red.write_text("import pytest\ndef test_a(): assert False\n@pytest.mark.skip\ndef test_b(): ...\n")
    green.write_text("def test_a(): ...\n")
    broken.write_text("import no_such_module\n")
    alone = ("-q", "-c", str(tmp_path / "pytest.ini"), "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    made = {name: (*alone, str(path)) for name, path in (("red", red), ("green", green), ("broken", broken))}
    monkeypatch.setattr(tiers, "TIERS", made)
    assert tiers.main(["red", "broken", "green"]) == 1
    last = capfd.readouterr().out.splitlines()[-1]
    said = [one.rpartition(" in ")[0] for one in last.removeprefix("tests: ").split("; ")]
    assert said == ["red: 0 passed, 1 failed, 1 skipped", "broken: 0 passed, 1 failed", "green: 1 passed, 0 failed"]
    assert last.count("FAILED") == 2 and not last.endswith("FAILED, status 0)")
    assert tiers.main(["green"]) == 0


def test_a_tier_that_does_not_exist_runs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert tiers.main(["default", "fast"]) == tiers.main([]) == 2
    assert "fast is not one" in capfd.readouterr().err


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1000), max_size=30), st.integers(1, 9))
def test_every_file_is_in_one_part_whatever_the_order_and_none_is_far_longer(seconds: dict[str, float], n: int) -> None:
    found = parts_of(seconds, n)
    assert found.keys() == seconds.keys() and set(found.values()) <= set(range(1, n + 1))
    assert parts_of(dict(reversed(seconds.items())), n) == found
    sums = [sum(seconds[file] for file in found if found[file] == part) for part in range(1, n + 1)]
    assert max(sums) <= sum(seconds.values()) / n + max(seconds.values(), default=0) + 1e-6


def test_what_was_timed_counts_and_what_was_not_counts_by_its_tests() -> None:
    timed = json.loads(SECONDS.read_text())
    assert all((ROOT / file).is_file() for file in timed), "a file that was moved or deleted"
    file = next(iter(timed))
    assert lengths({file: 3, "new_ray.py": 2, "new.py": 2}) == {file: timed[file], "new_ray.py": 120.0, "new.py": 10.0}


@pytest.mark.parametrize("text", ["0/6", "7/6", "1", "a/b", "1/0", "-1/6", "1/6/2"])
def test_a_text_that_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no part"):
        read_part(text)


def test_files_whose_tests_share_a_ray_are_one_group_and_any_other_is_its_own() -> None:
    """Two processes would start it twice."""
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*_ray.py")]
    groups = {file: group_of(file) for file in [*files, "tests/plan/test_cli.py", "a file that is not there"]}
    assert groups["tests/run/test_here_ray.py"] == groups["tests/security/test_run_ray.py"] == "whole_run"
    assert groups["tests/train/test_faults_ray.py"] == group_of("tests/reference/test_ray.py") == "session"
    assert all(group == file for file, group in groups.items() if group not in SHARED)
    assert groups["tests/tune/test_sweep_ray.py"] == "tests/tune/test_sweep_ray.py"


@pytest.mark.heavy
def test_the_parts_of_a_tier_are_its_tests_each_once(tmp_path: Path) -> None:
    """By pytest itself, over a folder of its own that has our conftest."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: long\n")
    for name, count in (("a", 3), ("b", 1), ("c", 2)):
        tests = "".join(f"@pytest.mark.slow\ndef test_{n}(): ...\ndef test_quick_{n}(): ...\n" for n in range(count))
        (tmp_path / f"test_{name}.py").write_text(f"import pytest\n{tests}")
    seen: list[set[str]] = []
    for part in ("1/2", "2/2"):
        code = f"import sys; sys.path[:0] = {sys.path!r}; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
        options = ["-q", "--collect-only", "-p", "tests.conftest", "-m", "slow", "--part", part]
        words = [sys.executable, "-c", code, "-c", "pytest.ini", "-p", "no:cacheprovider", *options]
        told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        seen.append({line for line in told.splitlines() if "::" in line or line.startswith("test_")})
    assert not seen[0] & seen[1]
    assert collections.Counter(line.split(":")[0] for some in seen for line in some).keys() == {
        "test_a.py", "test_b.py", "test_c.py",
    }  # fmt: skip
    assert all(len({line.split(":")[0] for line in some}) >= 1 for some in seen)


def light(*options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest over the rooms that need no torch, in a process of their own that says what it loaded."""
    code = (
        "import sys, pytest\nstatus = pytest.main(sys.argv[1:])\n"
        'sys.exit(f\'loaded: {sorted({"torch", "transformers"} & sys.modules.keys())}, status {int(status)}\')'
    )
    folders = [f"tests/{room}" for room in LIGHT]
    words = [sys.executable, "-c", code, "-q", "-p", "no:cacheprovider", *options, *folders]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.heavy
def test_tests_of_plans_manifests_submitting_and_the_doctor_are_found_without_torch() -> None:
    assert light("--collect-only").stderr.splitlines()[-1] == "loaded: [], status 0"


@pytest.mark.slow
def test_tests_of_plans_manifests_submitting_and_the_doctor_run_without_torch() -> None:
    ended = light()
    assert ended.stderr.splitlines()[-1] == "loaded: [], status 0", ended.stdout
