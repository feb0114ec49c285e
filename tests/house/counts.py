"""The size of the house in a few numbers: `make counts` prints them, and CONTRIBUTING holds those of one day."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.house.rules import PLATFORM, ROOT, tree_of
from tests.house.test_names import shared_names

SHORT_FILE = 60
LONG_SENTENCE = 25


def comment_lines(source: str) -> int:
    """Return the lines of Python text that have a comment, those for tools apart."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    tools = ("# noqa", "# type:", "# fmt:", "# pragma")
    return sum(token.type == tokenize.COMMENT and not token.string.startswith(tools) for token in tokens)


def function_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield lines and name of each function of a file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{path.name}:{node.name}"


def sentences(page: str) -> Iterator[str]:
    """Yield the sentences of a page's text and table cells; code is one word, and blocks of code are left out."""
    page = re.sub(r"^```.*?^```|^(?:<|    ).*$", "", page, flags=re.MULTILINE | re.DOTALL)
    # A row of a table, an item of a list, a heading and an empty line each begin something new.
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*#|]|\d+\.)\s?)|(?<=\S) \| (?=\S)", page)
    for block in blocks:
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "Code", block))
        yield from re.split(r"(?<=[.!?])\s+(?=[A-Z(])", words.strip(" |-#*\n"))


def counts() -> Iterator[tuple[str, str]]:
    """Yield what is counted, and how much there is of it."""
    files = sorted((PLATFORM / "ratchet").rglob("*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    lines = {path: text.count("\n") for path, text in texts.items()}
    tests = [path for path in (ROOT / "tests").rglob("*.py") if "__pycache__" not in path.parts]
    longest, name = max(one for path in files for one in function_lines(path))
    comments = sum(map(comment_lines, texts.values()))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    said = [one for page in pages for one in sentences(page.read_text(encoding="utf-8"))]
    long = sum(len(one.split()) > LONG_SENTENCE for one in said)
    yield "lines and files of the library", f"{sum(lines.values()):,} in {len(files)}"
    yield f"files of fewer than {SHORT_FILE} lines", f"{sum(1 < count < SHORT_FILE for count in lines.values())}"
    yield "longest file", f"{max(lines.values())} lines"
    yield "longest function", f"{longest} lines ({name})"
    yield "names that mean two things", f"{len(shared_names(PLATFORM / 'ratchet'))}"
    yield "lines with a comment", f"{comments} ({comments / sum(lines.values()):.1%})"
    yield (
        "lines and files of tests",
        f"{sum(path.read_text('utf-8').count(chr(10)) for path in tests):,} in {len(tests)}",
    )
    yield f"sentences of more than {LONG_SENTENCE} words in pages", f"{long} of {len(said):,}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{what:<45} {much}\n" for what, much in counts())
