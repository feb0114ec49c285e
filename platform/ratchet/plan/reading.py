"""Read YAML into plain values, and remember where every key stands.

The values are those of YAML 1.2: `1e-6` is a number; `yes`, `on`, `1:30`, `007` and `2024-01-01`
are text; keys are text. Tags, doubled keys, tabs and merge keys are refused.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import Resolver
from yaml.scanner import Scanner

from ratchet.errors import PlanError
from ratchet.plan.document import SET, Document, KeyPath, Place, Problem, dotted, fail, shorten
from ratchet.plan.outline import close, hint

# A plan has a few kilobytes. The limits are for files that somebody else wrote: aliases of aliases can stand for
# terabytes in a few lines.
LARGEST_FILE = 1 << 20
MOST_VALUES = 100_000
DEEPEST = 32
_TAG = "tag:yaml.org,2002:"
_CONSTANTS = {"null": None, "true": True, "false": False}
# PyYAML's sentences speak of its parser. These are matched in order, the most telling first.
_SYNTAX = (
    (r"character '\\t'", "a tab: indent with spaces"),
    (r"mapping values are not allowed", "a colon where no key can stand: put text that has ': ' in it in quotes"),
    (r"could not find expected ':'", "a key without a colon and a value"),
    (r"found undefined alias '?(\w*)'?", "no anchor &{0} stands above this *{0}"),
    (r"expected ',' or '([\]}])'", "a list or mapping in brackets is not closed with {0}"),
    (r"expected <block end>", "this line is not indented like those above it"),
    (r"found unexpected end of stream", "a quote is not closed"),
    (r"expected a single document", "a second document: one file holds one"),
    (r"character '([%@`|>])'", "text cannot start with {0} unless it is in quotes"),
)


def read(path: Path) -> Document:
    """Read a YAML file. Raises PlanError where no mapping can be read from it."""
    document = parse(read_text(path), str(path))
    if not isinstance(document.data, dict):
        kind = "a list" if isinstance(document.data, list) else "one value"
        _stop(document.place(()), f"must be a mapping of keys to values, not {kind}")
    return document


def parse(text: str, file: str) -> Document:
    """Turn YAML text into a Document whose `data` may be of any type. Raises PlanError."""
    # PyYAML finds a tab only in some places, and says `cannot start any token` there.
    tabs = [number for number, line in enumerate(text.split("\n"), 1) if re.match(r" *\t\s*[^\s#]", line)]
    fail(Problem(Place(file, number), "", "a tab: indent with spaces") for number in tabs)
    try:
        root = _Composer(text, file).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        _stop(Place(file, mark.line + 1 if mark else 1), _syntax(error))
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        _stop(Place(file, line), f"the character U+{int(error.character):04X} does not belong in YAML")
    if root is None:
        _stop(Place(file, 1), "the file is empty" if file != SET else "no value after `=`; write null for none")
    builder = ValueBuilder(file)
    data = builder.value(root, ())
    return Document(file, data, builder.places, tuple(builder.problems))


def in_yaml(value: Any) -> str:
    """Return a plain value as YAML on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(in_yaml, value))}]"
    if isinstance(value, str):
        return (
            value if re.fullmatch(r"[A-Za-z][\w./-]*", value) and parse(value, SET).data == value else json.dumps(value)
        )
    return re.sub(r"e([+-])0+", r"e\1", json.dumps(value))


def read_text(path: Path, largest: int = LARGEST_FILE) -> str:
    """Return the text of a YAML file of at most `largest` bytes. Raises PlanError where it cannot be read."""
    place = Place(str(path), 1)
    try:
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except FileNotFoundError:
        raise PlanError(f"{path}: no such file{hint(_beside(path))}") from None
    except IsADirectoryError:
        raise PlanError(f"{path}: is a folder: name the file in it") from None
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    # One byte more than allowed was asked for, so that the size of a pipe or a growing file does not matter.
    if len(data) > largest:
        _stop(place, f"larger than {largest >> 20} MiB, and no more is read")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        _stop(Place(str(path), line), f"not UTF-8 (byte 0x{data[error.start]:02x}): save the file as UTF-8")


def _beside(path: Path) -> str | None:
    """Return the file beside `path` whose name is nearest to it."""
    try:
        names = [other.name for other in path.parent.iterdir() if other.is_file()]
    except (OSError, ValueError):
        return None
    near = close(path.name, names)
    return str(path.with_name(near)) if near else None


def _stop(place: Place, what: str) -> NoReturn:
    raise PlanError(str(Problem(place, "", what)))


def _syntax(error: yaml.MarkedYAMLError) -> str:
    said = f"{error.context or ''} {error.problem or ''}"
    for pattern, sentence in _SYNTAX:
        if match := re.search(pattern, said):
            return sentence.format(*match.groups())
    return f"not YAML: {shorten(said)}"


class _Composer(Reader, Scanner, Parser, Composer, Resolver):
    """PyYAML's composer with the scalars of YAML 1.2 and a limit on depth."""

    # PyYAML's resolvers are those of YAML 1.1, where `no` is false and `1:30` is 90. This class starts with none.
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML fills its own on the class

    def __init__(self, text: str, file: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        Resolver.__init__(self)
        self.depth, self.file = 0, file

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        # Stopped while it is composed: deeper nesting would end Python's stack before `_take_one` counts.
        if self.depth > DEEPEST:
            _stop(Place(self.file, self.line + 1), f"nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Composer.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


class ValueBuilder:
    """Builds plain values from nodes, with their places; every alias is written out, up to MOST_VALUES values."""

    def __init__(self, file: str, deepest: int = DEEPEST) -> None:
        self.file, self.deepest, self.count = file, deepest, 0
        self.places: dict[KeyPath, Place] = {}
        self.problems: list[Problem] = []

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        # The place of a key wins over that of its value, which may begin on the next line.
        self.places.setdefault(path, self._place(node))
        self._take_one(path)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(item, (*path, n)) for n, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            self.places[path] = dataclasses.replace(self.places[path], written=node.value)
            return self.scalar(node, path)
        return self._refuse_tag(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(place, dotted(path), "a key must be text, not a list or a mapping"))
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key in found:
                first = "" if self.file == SET else f", first in line {self.places[here].line}"
                self.problems.append(Problem(place, dotted(here), f"written twice{first}"))
                continue
            self.places[here] = place
            found[key] = self.value(value_node, here)
        return found

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        """Return the value of a scalar of YAML 1.2."""
        kind, text = node.tag.removeprefix(_TAG), str(node.value)
        if kind == "str":
            return text
        try:
            if kind in {"null", "bool"}:
                return _CONSTANTS[text.lower() if text not in {"", "~"} else "null"]
            if kind == "int":
                return int(text)
            if kind == "float":
                return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
        # An explicit tag on other text, or more digits than Python turns into a number.
        except (KeyError, ValueError):
            what = f"{shorten(text)!r} is no {'number' if kind in {'int', 'float'} else kind} that can be read"
            self.problems.append(Problem(self.places[path], dotted(path), what))
            return None
        return self._refuse_tag(node, path)

    def _refuse_tag(self, node: yaml.Node, path: KeyPath) -> None:
        tag = shorten(node.tag.replace(_TAG, "!!"))
        self.problems.append(Problem(self.places[path], dotted(path), f"the tag {tag} is not for plans: leave it out"))

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.file, 0 if self.file == SET else node.start_mark.line + 1)

    def _take_one(self, path: KeyPath) -> None:
        self.count += 1
        if self.count > MOST_VALUES or len(path) > self.deepest:
            many = self.count > MOST_VALUES
            limit = f"more than {MOST_VALUES:,} values" if many else f"nested more than {self.deepest} deep"
            place = self.places.get(path[:1]) or self.places[()]
            raise PlanError(str(Problem(place, dotted(path[:1]), f"{limit} once its aliases are written out")))
