"""What the project says of itself: README against CI, docs against code, words, marks."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from ratchet import errors

ROOT = Path(__file__).resolve().parents[2]
TEXT = {"", ".cfg", ".html", ".j2", ".jinja", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}

# Written in pieces, so that this file does not hold them itself.
FORBIDDEN = re.compile(r"(?<![\w.$}])/(?:wo" + r"rk|ro" + r"ot)/|\b(?:TO" + r"DO|FIX" + r"ME)\b")

# Words that no engineer would say, in pieces like those above.
WORN = re.compile(
    r"\b(?:bef" + r"ell|an" + r"ew|in va" + r"in|who" + r"ever|hangs? o" + r"n|whose (?:they a" + r"re|it i" + r"s))\b",
    re.IGNORECASE,
)

OUR_MARKS = {"heavy", "ray", "slow", "gpu", "vllm", "nodes", "prove"}
PYTEST_MARKS = {"filterwarnings", "parametrize", "skipif", "timeout", "usefixtures"}  # no xfail: a test passes

DECISION_SECTIONS = ("Context", "Choice", "Cost", "In the code")
CODE_PATH = re.compile(r"`((?:benchmarks|docs|platform|tests)/[^`\s]*)`")


def text_files() -> list[Path]:
    """Return the text files that are tracked, or would be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: there is no list of the project's own files")
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file() and path.suffix in TEXT]


def word_faults(paths: list[Path], root: Path) -> Iterator[str]:
    """Lines with a path of one machine, or a note to do something later."""
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if FORBIDDEN.search(line):
                yield f"{path.relative_to(root)}:{number}: {line.strip()[:100]}"


def test_no_forbidden_words() -> None:
    faults = list(word_faults(text_files(), ROOT))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("line", ["# TO" + "DO: later", "path: /wo" + "rk/data", "'/ro" + "ot/x'"])
def test_forbidden_words_are_found(tmp_path: Path, line: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"fine: outputs/work/x, todo, $HOME/work/\n{line}\n")
    assert list(word_faults([page], tmp_path)) == [f"page.md:2: {line}"]


def worn_words(paths: list[Path], root: Path) -> Iterator[str]:
    """Lines of pages, of the library and of tests with a worn word; the log of changes quotes old ones."""
    for path in paths:
        name = str(path.relative_to(root))
        if name.startswith(("docs/", "platform/", "tests/", "README", "CONTRIBUTING")):
            lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            yield from (f"{name}:{number}: {line.strip()[:100]}" for number, line in lines if WORN.search(line))


def test_nothing_has_worn_words(tmp_path: Path) -> None:
    faults = list(worn_words(text_files(), ROOT))
    assert not faults, "\n".join(faults)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/page.md").write_text("It depends on it.\nA worker waits in va" + "in.\n")
    assert list(worn_words([tmp_path / "docs/page.md"], tmp_path)) == ["docs/page.md:2: A worker waits in va" + "in."]


def commands(page: str) -> list[str]:
    """Return the commands in a page's fenced shell blocks, without comments."""
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = (line.removeprefix("$ ") for block in blocks for line in block.splitlines())
    return [shlex.join(words) for words in (shlex.split(line, comments=True) for line in lines) if words]


def test_ci_runs_the_two_commands_of_readme() -> None:
    first, second = commands((ROOT / "README.md").read_text())[:2]
    assert (first, second) == ("make quickstart", "make test")
    steps = [line.removeprefix("check ") for line in (ROOT / ".ci/run").read_text().splitlines()]
    assert {first, second} <= set(steps)
    assert (ROOT / ".ci/run").stat().st_mode & 0o100, ".ci/run is not executable"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()) == targets
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    asked = {
        word: page.name
        for page in pages
        for command in commands(page.read_text())
        if command.startswith("make ")
        for word in command.split()[1:]
        if "=" not in word
    }
    assert not asked.keys() - targets, asked


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not broken, "\n".join(broken)


def lost_names(block: str, library: Path) -> Iterator[str]:
    """Names that a page's Python imports from the library, which are not there. Nothing is imported."""
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ratchet":
            path = library.joinpath(*node.module.split("."))
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            tree = ast.parse(file.read_text(encoding="utf-8") if file.exists() else "")
            # `x: int`, `x = 1`, `def x` and `from y import x` all bind x
            bound = {getattr(one, "name", getattr(one, "id", None)) for one in ast.walk(tree)}
            yield from (f"{node.module}: {alias.name}" for alias in node.names if alias.name not in bound)


def test_python_in_pages_names_what_the_library_has() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    blocks = [
        block
        for page in pages
        for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]
    assert blocks
    lost = [name for block in blocks for name in lost_names(block, ROOT / "platform")]
    assert not lost, "\n".join(lost)
    assert list(lost_names("from ratchet.errors import Gone, DataError", ROOT / "platform")) == ["ratchet.errors: Gone"]


def decision_faults(page: Path, root: Path) -> Iterator[str]:
    """What a page of docs/decisions lacks: a section with text, code that is named, a path that exists."""
    text = page.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE))
    missing = [name for name in DECISION_SECTIONS if not sections.get(name, "").strip()]
    yield from (f"{page.name}: no section {name}" for name in missing)
    if not (paths := CODE_PATH.findall(sections.get("In the code", ""))):
        yield f"{page.name}: names no code"
    yield from (f"{page.name}: no such path: {path}" for path in paths if not (root / path).exists())


def test_each_decision_has_its_sections_and_names_code_that_exists() -> None:
    folder = ROOT / "docs/decisions"
    pages = [page for page in sorted(folder.glob("*.md")) if page.name != "index.md"]
    faults = [fault for page in pages for fault in decision_faults(page, ROOT)]
    assert pages
    assert not faults, "\n".join(faults)
    listed = re.findall(r"^\| \[.+\]\((.+)\) \|", (folder / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == [page.name for page in pages]


def test_a_decision_without_costs_and_with_a_lost_path_is_found(tmp_path: Path) -> None:
    page = tmp_path / "x.md"
    page.write_text(
        "# X\n\n## Context\n\nA.\n\n## Choice\n\nB.\n\n## Cost\n\n## In the code\n\n- `tests/gone.py`: it\n"
    )
    assert list(decision_faults(page, tmp_path)) == ["x.md: no section Cost", "x.md: no such path: tests/gone.py"]


def test_the_page_of_errors_lists_every_class_and_its_exit_status() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    classes = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.RatchetError)
    }
    assert {name: int(code) for name, code in rows} == classes


def marks_of(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the X of every `pytest.mark.X`."""
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and ast.unparse(node.value) == "pytest.mark"
    }


def imports_ray(nodes: Iterable[ast.AST]) -> bool:
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return any(name.partition(".")[0] == "ray" for name in names)


def mark_faults(name: str, source: str) -> Iterator[str]:
    nodes = tuple(ast.walk(ast.parse(source)))
    marks = marks_of(nodes)
    if unknown := marks - OUR_MARKS - PYTEST_MARKS:
        yield f"{name}: marks {sorted(unknown)}"
    if imports_ray(nodes) and name.startswith("test_") and not marks & {"ray", "slow"}:
        yield f"{name}: imports ray, but no test of it is marked ray or slow"


def test_marks_are_ours_or_pytests() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert {line.partition(":")[0] for line in settings["markers"]} == OUR_MARKS
    faults = [
        fault for path in sorted((ROOT / "tests").rglob("*.py")) for fault in mark_faults(path.name, path.read_text())
    ]
    assert not faults, "\n".join(faults)


def test_a_wrong_mark_is_found() -> None:
    assert list(mark_faults("test_x.py", "@pytest.mark.xfail\ndef test(): import ray.data")) == [
        "test_x.py: marks ['xfail']",
        "test_x.py: imports ray, but no test of it is marked ray or slow",
    ]
