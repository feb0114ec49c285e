"""YAML that would take all memory, all day or run something: refused with its line, whatever kind of file it is."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightly import nightly
from ratchet.errors import PlanError
from ratchet.plan import reading
from ratchet.plan.load import load_file, load_plan, load_space, load_suite
from ratchet.plan.reading import LARGEST_FILE, MOST_VALUES, parse
from tests.plan.test_reading import bomb

DEEP = "[" * 20_000
FEW = MOST_VALUES // 50
"""The limit on values in most of these tests: PyYAML takes seconds for as many as the real one allows."""


def many(most: int) -> str:
    return "a: [" + "1, " * (most + most // 10) + "]\n"


BAD = {
    "aliases": bomb(30),
    "aliases of mappings": "a0: &a0 {k: v}\n"
    + "".join(f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}\n" for n in range(1, 12)),
    "an alias of itself": "a: &a [*a]\n",
    "merge keys": "a: &a {b: 1}\nc: {<<: *a}\n",
    "depth": f"a: {DEEP}\n",
    "depth of blocks": "".join(f"{' ' * n}a:\n" for n in range(300)),
    "ten megabytes": "a: x\n# " + "x" * (10 << 20),
    "ten megabytes of keys": "".join(f"key{n}: {n}\n" for n in range(800_000)),
    "many values": many(FEW),
    "a number of many digits": f"a: {'9' * 400_000}\n",
    "a number beyond floats": "a: 1e999999999\n",
    "a number in base 60": "a: 190:20:30:40:50:60:70:80\n",
    "python": "a: !!python/object/apply:os.system ['touch canary']\n",
    "python name": "a: !!python/name:os.system\n",
    "function": "a: !function canary.run\n",
    "include": "a: !include /etc/passwd\n",
    "binary": "a: !!binary aGVsbG8=\n",
    "NUL": "a: b\0c\n",
    "two documents": "a: 1\n---\nb: 2\n",
}
MARKS = {"plan": ("stages", load_plan), "suite": ("tasks", load_suite), "space": ("keys", load_space)}


# One reader reads all three: the default tier sees every text once, and every kind of file.
@pytest.mark.parametrize(
    ("name", "kind"),
    nightly(itertools.product(BAD, MARKS), lambda name, kind: [*MARKS][[*BAD].index(name) % len(MARKS)] == kind),
)
def test_it_is_refused_with_a_line_in_every_kind_of_file(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_VALUES", FEW)
    monkeypatch.chdir(tmp_path)
    assert_refused(BAD[name], kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MARKS)
@pytest.mark.parametrize("name", ["aliases", "aliases of mappings", "many values"])
def test_more_values_than_the_real_limit_are_refused_in_every_kind_of_file(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(many(MOST_VALUES) if name == "many values" else BAD[name], kind)


def assert_refused(text: str, kind: str) -> None:
    mark, load = MARKS[kind]
    Path("f.yaml").write_text(f"{mark}: {{}}\n{text}")
    for read in (load, load_file):
        with pytest.raises(PlanError) as caught:
            read(Path("f.yaml"))
        assert caught.value.what.startswith("f.yaml:"), caught.value.what
        assert caught.value.what.split(":")[1].isdigit()
        assert len(caught.value.what) < 20_000
    assert not Path("canary").exists()


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name", nightly(["aliases", "depth", "ten megabytes", "python"], lambda name: name == "aliases")
)
def test_the_command_ends_with_2_and_starts_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(f"stages: {{}}\n{BAD[name]}")
    code = (
        "import sys\nfrom ratchet.cli import main\nstatus = main(['run', 'f.yaml'])\n"
        "assert not {'ray', 'torch'} & sys.modules.keys()\nsys.exit(status)"
    )
    # The address space is bounded: what is written out first and refused then does not pass.
    limited = f"import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n{code}"
    ended = subprocess.run([sys.executable, "-c", limited], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert ended.stderr.startswith("error: f.yaml:")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.yaml"]


SIGNS = [
    "a",
    "b",
    ":",
    "-",
    "[",
    "]",
    "{",
    "}",
    "&x",
    "*x",
    "!!",
    "!",
    "|",
    ">",
    "'",
    "#",
    "%",
    "1e5",
    "~",
    "<<",
    "é",
    ",",
]
PIECES = st.sampled_from([*SIGNS, ": ", "- ", "  ", "\n", "\t", "\0", '"', "---\n"])


@given(st.lists(PIECES, max_size=60).map("".join))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        document = parse(text, "f")
    except PlanError as error:
        assert error.what.startswith("f:")
        return
    assert all(str(one).startswith("f:") for one in document.problems)


def test_the_limit_is_one_mebibyte() -> None:
    assert LARGEST_FILE == 1 << 20


TASK = "task: mine\ndataset_path: json\noutput_type: multiple_choice\n"


@pytest.mark.parametrize("name", ["aliases", "an alias of itself", "depth", "ten megabytes", "many values", "python"])
def test_own_definitions_of_lm_eval_are_held_to_the_same_limits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ratchet.evaluate.harness.definitions import check_definitions

    monkeypatch.setattr(reading, "MOST_VALUES", FEW)
    (tmp_path / "good.yaml").write_text(TASK + "doc_to_text: !function utils.text\n")
    check_definitions(tmp_path)
    (tmp_path / "deeper").mkdir()
    bad = tmp_path / "deeper" / "bad.yaml"
    bad.write_text(TASK + BAD[name])
    with pytest.raises(PlanError) as caught:
        check_definitions(tmp_path)
    assert caught.value.what.startswith(f"{bad}:")
