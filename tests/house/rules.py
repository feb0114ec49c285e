"""The rules of the house: who may import whom, and where outside libraries come in.

Each rule is a function from a source root to lines that say which import, in which file:line,
broke it. `test_architecture.py` asks for no such line in `platform/`, and for the right one in a bad module.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = ROOT / "platform"

# A module imports only lower layers, or its own package. The key is the first name after `ratchet.`.
LAYERS = {
    "redact": -1,
    "codes": -1,
    "errors": 0,
    "plan": 1,
    "store": 1,
    "warm": 1,
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
    "look": 8,
    "commands": 9,
    "cli": 10,
}

# An outside library comes in through these modules alone.
DOORS = {
    "deepspeed": {"train.deepspeed", "warm.server"},
    "peft": {"model.lora"},
    "wandb": {"track.wandb"},
    "bitsandbytes": {"model.load"},
    "transformers.BitsAndBytesConfig": {"model.load"},
    "datasets": {"pairs.hub", "evaluate.harness.definitions"},
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
    "fsspec": {"pairs.remote"},
    "httpx": {"serving.connection"},
    "ray": {
        "pairs.flow",
        "pairs.token_flow",
        "reference.processes",
        "reference.pool",
        "evaluate.engines.actors",
        "train.worker",
        "train.group",
        "train.launch",
        "warm.server",
        "train.driver_loop",
        "pipeline.session",
        "pipeline.ray_start",
        "tune.ray_trials",
        "submit.client",
        "doctor.cluster",
    },
    "optuna": {"tune.tpe", "tune.importance"},
    "jsonschema": {"kubernetes.schema"},
    "cel": {"kubernetes.schema"},
    "kubernetes_validate": {"kubernetes.schema"},
}

# These parts answer without torch: checking a plan takes about a second, and asking a server needs no more.
WITHOUT_TORCH = (
    "redact",
    "codes",
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


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a file's tree, the outer before the inner: going through a tree takes as long as parsing."""
    return tuple(ast.walk(tree_of(path)))


@functools.cache
def imports_of(root: Path, library: str = "ratchet") -> tuple[Import, ...]:
    """Return every import below `root/library`, those inside functions and relative ones too."""
    return tuple(_imports(root, library))


def _imports(root: Path, library: str) -> Iterator[Import]:
    for path in sorted((root / library).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        package = parts[:-1]
        module = ".".join(parts[1:]).removesuffix("__init__").rstrip(".")
        for node in nodes_of(path):
            if not isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
                continue
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
    found = imports_of(root)
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
    found = imports_of(root, library)
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
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield f"{path.relative_to(root.parent)}:{node.lineno}: calls print"


SENDS = {"remote", "map_batches", "TorchTrainer", "Tuner", "ActorPoolStrategy"}
WITHOUT_WARNINGS = {"reference/processes.py", "doctor/cluster.py"}
"""Modules whose code on Ray logs nothing."""


def warning_faults(root: Path) -> Iterator[str]:
    """Work that goes to processes of Ray, whose warnings would reach nobody."""
    for path in sorted((root / "ratchet").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        sends = [
            node
            for node in nodes_of(path)
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in SENDS
        ]
        told = "warned.destination()" in source or "work(task" in source  # a trial's process says where its own go
        if sends and not told and str(path.relative_to(root / "ratchet")) not in WITHOUT_WARNINGS:
            yield f"{path.relative_to(root.parent)}:{sends[0].lineno}: hands nobody `warned.destination()`"


def encoding_faults(root: Path) -> Iterator[str]:
    """Texts that are read or written as the machine's locale has it, which is UTF-8 on most machines and not on all."""
    for path in sorted((root / "ratchet").rglob("*.py")):
        for node in nodes_of(path):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            texts = {"read_text": 0, "write_text": 1}
            named = len(node.args) > texts.get(node.func.attr, -1) or any(
                key.arg == "encoding" for key in node.keywords
            )
            if node.func.attr in texts and not named:
                yield f"{path.relative_to(root.parent)}:{node.lineno}: names no encoding"
