"""What the library never does: read a pickle, open an archive, evaluate text, hand text to a shell.

Each rule is told by the shape of code that breaks it, and tried on such code.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.house.rules import nodes_of

PLATFORM = Path(__file__).resolve().parents[2] / "platform"
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "tarfile", "patoolib"}
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {"unpack_archive", "extractall", "read_pickle", "system", "popen", "getoutput", "getstatusoutput"}
LOADERS = {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.unsafe_load_all"}
KEYWORDS = {"allow_pickle": True, "weights_only": False, "shell": True, "verify": False}


def faults(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, one.name) for one in names if one.name.partition(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in MODULES:
                yield node.lineno, module
            case ast.ImportFrom(module="zipfile"):
                yield node.lineno, "zipfile by names, which hide what is done"
            case ast.Call(func=function, keywords=keywords):
                name = ast.unparse(function)
                safe = any(one.arg == "Loader" and ast.unparse(one.value).endswith("SafeLoader") for one in keywords)
                if name in LOADERS and safe:
                    continue
                if name == "zipfile.ZipFile" and [ast.unparse(one) for one in node.args[1:2]] != ["'w'"]:
                    yield node.lineno, "an archive that is read"
                if name in CALLS | LOADERS or (isinstance(function, ast.Attribute) and function.attr in ATTRIBUTES):
                    yield node.lineno, name
                if name == "torch.load" and "weights_only" not in [one.arg for one in keywords]:
                    yield node.lineno, "torch.load without weights_only"
                if name.endswith("np.load") and "allow_pickle" not in [one.arg for one in keywords]:
                    yield node.lineno, "np.load without allow_pickle"
                for one in keywords:
                    if (
                        isinstance(one.value, ast.Constant)
                        and one.arg in KEYWORDS
                        and one.value.value is KEYWORDS[one.arg]
                    ):
                        yield node.lineno, f"{one.arg}={one.value.value}"


def test_the_library_does_none_of_it() -> None:
    found = [
        f"{path.relative_to(PLATFORM)}:{line}: {what}"
        for path in sorted(PLATFORM.rglob("*.py"))
        for line, what in faults(nodes_of(path))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from zipfile import ZipFile",
        "def f():\n    import tarfile",
        "import marshal, os",
        "zipfile.ZipFile(path)",
        "zipfile.ZipFile(path, 'a')",
        "yaml.load(text, Loader=yaml.UnsafeLoader)",
        "import shelve",
        "eval('1')",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "subprocess.run(command, shell=True)",
        "os.system('ls')",
        "shutil.unpack_archive(path)",
        "httpx.Client(verify=False)",
    ],
)
def test_each_rule_goes_red(source: str) -> None:
    assert list(faults(ast.walk(ast.parse(source))))


def test_no_template_of_the_report_lets_text_through_unescaped() -> None:
    """What a model or a judge wrote stands in the page; `|safe` is for what the library itself made."""
    source = (PLATFORM / "ratchet" / "report" / "render.py").read_text()
    assert "autoescape=True" in source
