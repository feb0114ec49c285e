"""The rules of the house: who may import whom, and where outside libraries come in.

Each rule is a function from a source root to lines that say which import, in which file:line,
broke it. The tests ask for no such line in `platform/`, and for the right one in a bad module.
"""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = ROOT / "platform"

# A module imports only lower layers, or its own package. The key is the first name after `ratchet.`.
LAYERS = {
    "redact": -1,
    "errors": 0,
    "plan": 1,
    "store": 1,
    "documents": 2,
    "pairs": 3,
    "losses": 3,
    "model": 4,
    "track": 4,
    "serving": 4,
    "reference": 5,
    "train": 6,
    "evaluate": 6,
    "report": 6,
    "pipeline": 7,
    "tune": 8,
    "submit": 8,
    "kubernetes": 8,
    "doctor": 8,
    "fsck": 8,
    "prove": 8,
    "commands": 9,
    "cli": 10,
}

# An outside library comes in through these modules alone.
DOORS = {
    "deepspeed": {"train.deepspeed"},
    "peft": {"model.lora"},
    "wandb": {"track.wandb"},
    "bitsandbytes": {"model.quantise"},
    "transformers.BitsAndBytesConfig": {"model.quantise"},
    "datasets": {"pairs.read_hub", "evaluate.harness.definitions"},
    "vllm": {"serving.vllm"},
    "matplotlib": {"report.plots"},
    "lm_eval": {
        "evaluate.harness.run",
        "evaluate.harness.definitions",
        "evaluate.harness.asking",
        "evaluate.harness.figures",
    },
    "sacrebleu": {"evaluate.text_overlap"},
    "rouge_score": {"evaluate.text_overlap"},
    "scipy": {"evaluate.statistics", "reference.share"},
    "httpx": {"serving.connection"},
    "ray": {
        "pairs.flow",
        "pairs.token_flow",
        "reference.gone",
        "reference.score",
        "evaluate.engines.actors",
        "train.worker",
        "train.launch",
        "train.nodes",
        "pipeline.session",
        "pipeline.ray_start",
        "tune.ray_trials",
        "tune.schedule",
        "submit.client",
        "doctor.cluster",
    },
    "optuna": {"tune.tpe", "tune.importance"},
    "jsonschema": {"kubernetes.schema"},
    "cel": {"kubernetes.schema"},
    "kubernetes_validate": {"kubernetes.schema"},
}

# These parts answer without torch: checking a plan takes under a second, and asking a server needs no more.
WITHOUT_TORCH = (
    "redact",
    "errors",
    "documents",
    "plan",
    "store",
    "serving",
    "submit",
    "kubernetes",
    "doctor",
    "commands",
    "cli",
)
WITH_TORCH = {"serving.vllm"}  # but not this one

# These parts run on a machine that has torch and transformers but no Ray and no DeepSpeed,
# whatever they import on the way.
WITHOUT_RAY = ("losses", "model", "serving", "train.loop")

LONGEST_FILE = 320


@dataclass(frozen=True)
class Import:
    """One imported name, `from a import b` read as `a.b`, and where it stands."""

    module: str  # without the leading "ratchet."
    name: str
    where: str


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Return a file's tree: every rule reads all files, and parsing them takes a second each time."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(root: Path, library: str = "ratchet") -> Iterator[Import]:
    """Yield every import below `root/library`, those inside functions and relative ones too."""
    for path in sorted((root / library).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        package = parts[:-1]
        module = ".".join(parts[1:]).removesuffix("__init__").rstrip(".")
        for node in ast.walk(tree_of(path)):
            for name in _names(node, package):
                yield Import(module, name, f"{path.relative_to(root.parent)}:{node.lineno}")


def _names(node: ast.AST, package: tuple[str, ...]) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = (*package[: len(package) - level + 1], *([module] if module else [])) if level else (module or "",)
            return [".".join((*base, alias.name)) for alias in names]
        case ast.Call(
            func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []


def within(name: str, prefix: str) -> bool:
    """Tell whether `name` is the module `prefix` or something in it."""
    return name == prefix or name.startswith(f"{prefix}.")


def layer_faults(root: Path) -> Iterator[str]:
    """Imports of the same layer's other packages, or of a higher one."""
    for item in imports_of(root):
        if not within(item.name, "ratchet"):
            continue
        own, other = item.module.partition(".")[0], item.name.removeprefix("ratchet").lstrip(".").partition(".")[0]
        if other == own or (other not in LAYERS and not (root / "ratchet" / other).exists()):
            continue  # its own package, or a name of `ratchet/__init__.py`
        mine, theirs = LAYERS.get(own), LAYERS.get(other)
        if mine is None or theirs is None:
            missing = repr(own or "ratchet/__init__.py") if mine is None else repr(other)
            yield f"{item.where}: imports {item.name}, but {missing} has no row in LAYERS"
        elif theirs >= mine:
            yield f"{item.where}: {own} (layer {mine}) imports {item.name} (layer {theirs}); only lower layers"


def door_faults(root: Path) -> Iterator[str]:
    """Imports of outside libraries anywhere but in their door modules."""
    for item in imports_of(root):
        for library, doors in DOORS.items():
            if within(item.name, library) and item.module not in doors:
                yield f"{item.where}: {item.module} imports {item.name}; {library} comes only through {sorted(doors)}"
        light = item.module.partition(".")[0] in WITHOUT_TORCH and item.module not in WITH_TORCH
        if within(item.name, "torch") and light:
            yield f"{item.where}: {item.module} imports {item.name}; {', '.join(WITHOUT_TORCH)} go without torch"


def reach_faults(root: Path) -> Iterator[str]:
    """Modules that must run without Ray and DeepSpeed, and import their way to one of them."""
    found = list(imports_of(root))
    modules = {item.module for item in found}
    for start in sorted(module for module in modules if any(within(module, part) for part in WITHOUT_RAY)):
        came_from: dict[str, str] = {start: ""}
        waiting = [start]
        while waiting:
            module = waiting.pop()
            for item in (item for item in found if item.module == module):
                if any(within(item.name, library) for library in ("ray", "deepspeed")):
                    yield f"{item.where}: {start} reaches {item.name} by way of {_way(came_from, module)}"
                name = item.name.removeprefix("ratchet.")
                for target in {name, name.rpartition(".")[0]} & modules - came_from.keys():
                    came_from[target] = module
                    waiting.append(target)


def _way(came_from: dict[str, str], module: str) -> str:
    way = [module]
    while came_from[way[0]]:
        way.insert(0, came_from[way[0]])
    return " → ".join(way)


def circle_faults(root: Path, library: str = "ratchet") -> Iterator[str]:
    """Modules that import one another in a circle, in one room too, at the top or inside functions.

    A reader of one of them must read all of them, and none can be taken out or tested alone.
    """
    found = list(imports_of(root, library))
    modules = {item.module for item in found}
    imports: dict[str, dict[str, str]] = {module: {} for module in modules}
    for item in found:
        name = item.name.removeprefix(f"{library}.")
        for target in {name, name.rpartition(".")[0]} & modules - {item.module}:
            imports[item.module].setdefault(target, item.where)
    told: set[str] = set()
    for start in sorted(modules):
        came_from, waiting = {start: ""}, [] if start in told else [start]
        while waiting:
            module = waiting.pop(0)
            if start in imports[module]:
                way = _way(came_from, module)
                told |= set(way.split(" → "))
                yield f"{imports[module][start]}: imports in a circle: {way} → {start}"
                break
            for target in sorted(imports[module].keys() - came_from.keys()):
                came_from[target] = module
                waiting.append(target)


def print_faults(root: Path) -> Iterator[str]:
    """Calls of `print`: the library returns, raises or tracks."""
    for path in sorted((root / "ratchet").rglob("*.py")):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield f"{path.relative_to(root.parent)}:{node.lineno}: calls print"


SENDS = {"remote", "map_batches", "TorchTrainer", "Tuner", "ActorPoolStrategy"}
WITHOUT_WARNINGS = {"reference/gone.py", "doctor/cluster.py"}
"""Modules whose code on Ray logs nothing."""


def warning_faults(root: Path) -> Iterator[str]:
    """Work that goes to processes of Ray, whose warnings would reach nobody."""
    for path in sorted((root / "ratchet").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        sends = [
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in SENDS
        ]
        told = "warned.destination()" in source or "work(task" in source  # a trial's process says where its own go
        if sends and not told and str(path.relative_to(root / "ratchet")) not in WITHOUT_WARNINGS:
            yield f"{path.relative_to(root.parent)}:{sends[0].lineno}: hands nobody `warned.destination()`"


def encoding_faults(root: Path) -> Iterator[str]:
    """Texts that are read or written as the machine's locale has it, which is UTF-8 on most machines and not on all."""
    for path in sorted((root / "ratchet").rglob("*.py")):
        for node in ast.walk(tree_of(path)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            texts = {"read_text": 0, "write_text": 1}
            named = len(node.args) > texts.get(node.func.attr, -1) or any(
                key.arg == "encoding" for key in node.keywords
            )
            if node.func.attr in texts and not named:
                yield f"{path.relative_to(root.parent)}:{node.lineno}: names no encoding"


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
            "model/load.py",
            "from transformers import BitsAndBytesConfig",
            "only through ['model.quantise']",
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
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_platform_does_not_hide_the_standard_library() -> None:
    assert not (PLATFORM / "__init__.py").exists(), "platform/ is a source root, not a package"
    answer = run_python("import platform; print(platform.system())")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()


HEAVY = "{'torch', 'ray', 'transformers', 'deepspeed', 'datasets', 'peft', 'wandb', 'matplotlib', 'pandas'}"


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
        for node in ast.walk(tree_of(path)):
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
