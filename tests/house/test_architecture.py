"""The library keeps the rules of the house, and each rule goes red on a module that breaks it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.rules import (
    LAYERS,
    LONGEST_FILE,
    PLATFORM,
    ROOT,
    circle_faults,
    door_faults,
    encoding_faults,
    layer_faults,
    nodes_of,
    print_faults,
    reach_faults,
    warning_faults,
)

RULES = [layer_faults, door_faults, reach_faults, circle_faults, print_faults, warning_faults, encoding_faults]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_library_keeps_the_rule(rule) -> None:
    faults = list(rule(PLATFORM))
    assert not faults, "\n".join(faults)


def test_the_benchmarks_import_in_no_circle() -> None:
    assert not list(circle_faults(ROOT, "benchmarks"))


@pytest.mark.parametrize(
    ("rule", "module", "source", "says"),
    [
        (layer_faults, "plan/bad.py", "from ratchet.pairs.pair import Turn", "plan (layer 1) imports ratchet.pairs"),
        (layer_faults, "store/bad.py", "import ratchet.plan.schema", "store (layer 1) imports ratchet.plan"),
        (layer_faults, "store/bad.py", "from ..plan import schema", "store (layer 1) imports ratchet.plan"),
        (layer_faults, "errors.py", "from ratchet import cli", "errors (layer 0) imports ratchet.cli"),
        (layer_faults, "train/bad.py", "def f():\n    import ratchet.pipeline.graph", "bad.py:2: train (layer 6)"),
        (layer_faults, "new/bad.py", "import ratchet.plan", "'new' has no row in LAYERS"),
        (layer_faults, "__init__.py", "from ratchet import plan", "'ratchet/__init__.py' has no row in LAYERS"),
        (door_faults, "train/loop.py", "from deepspeed import comm", "deepspeed comes only through"),
        (
            door_faults,
            "model/lora.py",
            "from transformers import BitsAndBytesConfig",
            "only through ['model.load']",
        ),
        (door_faults, "losses/bad.py", "def f():\n    import ray.data", "bad.py:2: losses.bad imports ray.data"),
        (door_faults, "report/page.py", "importlib.import_module('matplotlib.pyplot')", "through ['report.plots']"),
        (door_faults, "cli.py", "def run():\n    from torch import nn", "cli imports torch.nn"),
        (reach_faults, "train/loop.py", "from ratchet.train import worker", "train.loop reaches ray.train by way of"),
        (reach_faults, "train/loop.py", "from ratchet.train.worker import f", "train.loop → train.worker"),
        (
            circle_faults,
            "plan/schema.py",
            "def f():\n    from ratchet.plan import three",
            "two.py:1: imports in a circle: plan.schema → plan.three → plan.two → plan.schema",
        ),
        (circle_faults, "plan/schema.py", "import ratchet.plan.two", "circle: plan.schema → plan.two → plan.schema"),
        (print_faults, "cli.py", "def main():\n    print('hello')", "cli.py:2: calls print"),
        (encoding_faults, "pairs/chat.py", "path.read_text()", "chat.py:1: names no encoding"),
        (encoding_faults, "pairs/chat.py", "path.write_text('x')", "chat.py:1: names no encoding"),
        (warning_faults, "pairs/flow.py", "rows.map_batches(work)", "flow.py:1: hands nobody `warned.destination()`"),
    ],
)
def test_the_rule_goes_red(tmp_path: Path, rule, module: str, source: str, says: str) -> None:
    sound = {
        "train/worker.py": "import ray.train",
        "plan/schema.py": "",
        "plan/two.py": "from ratchet.plan import schema",
        "plan/three.py": "from ratchet.plan.two import f",
    }
    for name, text in (sound | {module: source}).items():
        path = tmp_path / "platform" / "ratchet" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    faults = list(rule(tmp_path / "platform"))
    assert any(says in fault for fault in faults), faults


def test_the_table_of_layers_lists_what_exists() -> None:
    there = {path.stem for path in (PLATFORM / "ratchet").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert there - {"__init__", "__pycache__", "py"} == LAYERS.keys()


def test_files_stay_short() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in PLATFORM.rglob("*.py")}
    assert not {path: length for path, length in lengths.items() if length > LONGEST_FILE}


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": "."}
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_platform_does_not_hide_the_standard_library() -> None:
    assert not (PLATFORM / "__init__.py").exists(), "platform/ is a source root, not a package"
    answer = run_python("import platform; print(platform.system())")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()


HEAVY = "{'torch', 'ray', 'transformers', 'deepspeed', 'datasets', 'peft', 'wandb', 'matplotlib', 'pandas'}"


@pytest.mark.heavy
@pytest.mark.parametrize(
    "code",
    [
        "import ratchet, ratchet.cli, ratchet.plan.schema",
        "from ratchet.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code",
    ],
    ids=["import", "ratchet check"],
)
def test_checking_a_plan_brings_no_heavy_library(code: str) -> None:
    answer = run_python(
        f"import sys\n{code}\nsys.exit(str(sorted({HEAVY} & sys.modules.keys())))", "check", "jobs/quickstart.yaml"
    )
    assert answer.stderr.strip().splitlines()[-1:] == ["[]"], answer.stdout + answer.stderr


KNOWS_KINDS = {"plan/stages.py", "losses/preference.py", "prove/oracle.py"}
"""The tables of kinds of stages. All other modules ask a row, so that a new kind is right everywhere."""


def kinds_by_name(platform: Path) -> list[str]:
    """Return where a module compares a stage's class, or writes the name of a kind."""
    from ratchet.plan.stages import BUILT_IN

    classes = {row.settings.__name__ for row in BUILT_IN.values()} | {"PreferenceStage", "ReferringStage"}
    found = []
    for path in sorted((platform / "ratchet").rglob("*.py")):
        if str(path.relative_to(platform / "ratchet")) in KNOWS_KINDS:
            continue
        for node in nodes_of(path):
            named = (
                {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} if isinstance(node, ast.Call) else set()
            )
            asks = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance"
            says = isinstance(node, ast.Constant) and node.value in BUILT_IN
            if says or (asks and named & classes):
                found.append(f"{path.relative_to(platform)}:{node.lineno}")
    return found


def test_a_kind_of_stage_is_known_by_its_row_alone(tmp_path: Path) -> None:
    assert not kinds_by_name(PLATFORM)
    bad = tmp_path / "ratchet" / "bad.py"
    bad.parent.mkdir()
    bad.write_text('def f(stage):\n    if isinstance(stage, Sft | Merge):\n        return stage.kind == "dpo"\n')
    assert kinds_by_name(tmp_path) == ["ratchet/bad.py:2", "ratchet/bad.py:3"]
