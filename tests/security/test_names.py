"""Names that become paths, Kubernetes names or parts of them: none leads anywhere else.

Where text of a user becomes a path: a plan's `name`, its sources and stages, a suite's tasks, a space's `name`
(each of the one pattern below); the name of a suite's file, of which only the last part counts; and NAME in
`ratchet evaluate NAME=MODEL`, which is shown and no path. A point to promote is looked up, not opened. All other
paths of a plan (`model.path`, `cluster.storage`, files of sources) are paths on purpose.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from raised import raises
from ratchet.commands.evaluate import read_model
from ratchet.errors import PlanError
from ratchet.model.folder import model_folder
from ratchet.plan.base import Name
from ratchet.plan.load import load_plan, load_space, load_suite
from ratchet.store.layout import Layout

HOSTILE = [
    "..",
    ".",
    "",
    "/etc/passwd",
    "../../etc",
    "a/b",
    "a\\b",
    "-rf",
    "--help",
    "a\n",
    "a\0b",
    "a b",
    "A",
    "é",
    "ａ",  # full width
    "a\u202eb",
    "$(id)",
    "a;b",
    "~",
    "a" * 48,
    "a" * 5000,
    ".hidden",
    "con:",
    "%2e%2e",
]
ROOT = Path("/storage")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_wherever_a_name_becomes_a_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name, strict=True)
    quoted = '"' + "".join(f"\\U{ord(sign):08x}" for sign in name) + '"'
    files = {
        "plan": (load_plan, f"name: {quoted}\n" + PLAN),
        "source": (load_plan, f"name: a\n{PLAN}".replace("  sums:", f"  {quoted}:")),
        "stage": (load_plan, f"name: a\n{PLAN}".replace("  warm:", f"  {quoted}:")),
        "task": (load_suite, f"tasks:\n  {quoted}: {{kind: perplexity, text: x.txt}}\n"),
        "space": (load_space, f"name: {quoted}\n{SPACE}"),
    }
    for kind, (load, text) in files.items():
        path = tmp_path / f"{kind}.yaml"
        path.write_text(text)
        with pytest.raises(PlanError) as caught:
            load(path)
        assert re.match(rf"{re.escape(str(path))}:\d+: ", caught.value.what), caught.value.what
        assert caught.value.exit_code == 2


PLAN = """\
model: {path: m}
data:
  sums: {generate: {kind: arithmetic, rows: 10, steps: 1}}
stages:
  warm: {kind: sft, data: [sums]}
"""
SPACE = "keys: {stages.warm.learning_rate: {from: 1e-5, to: 1e-3}}\nobjectives: {warm/loss: smallest}\n"


@given(st.text(max_size=60) | st.from_regex(r"[a-z0-9./~-]{1,50}", fullmatch=True))
def test_a_name_that_is_taken_is_one_plain_part_of_a_path(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name, strict=True)
    except ValidationError:
        return
    layout = Layout(ROOT)
    for path in (layout.run(name), layout.step(name, name), layout.scores(name, name), layout.sweep(name)):
        assert path.is_relative_to(ROOT)
        assert ".." not in path.parts and path == Path(str(path))
    assert len(layout.run(name).relative_to(ROOT).parts) == 2
    # RFC 1123 label, and KubeRay's 47 characters for a RayJob
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*)", name) and len(name) <= 47


@pytest.mark.parametrize("name", [one for one in HOSTILE if one not in {"", "A", "é", "ａ", "a" * 48}])
def test_a_name_given_to_a_model_is_a_plain_word(name: str, tmp_path: Path) -> None:
    try:
        found, spec = read_model(f"{name}={tmp_path}", "float32", None, trust=False)
    except PlanError:
        return
    # What begins like a path is one, `=` included: a folder that is not there, named by its last part.
    assert name.startswith((".", "/", "~")) and found == tmp_path.name
    with raises("model.no-folder"):
        model_folder(spec)


@pytest.mark.parametrize("name", ["../x/..suite.yaml", "a/../b.yaml", "..yaml", "x/....yaml"])
def test_of_a_suites_file_the_last_part_alone_names_a_folder(name: str) -> None:
    folder = Layout(ROOT).evaluation(f"{Path(name).stem}-01234567")
    assert folder.parent == ROOT / "evaluations" and folder.name not in {"", ".", ".."}
