"""How a file of JSON is laid out: one object a line, an array, objects over many lines, or rows under a key.

Its first value decides, and whether anything follows it. The name of a file says little: many files of JSON lines
are called .json.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import ijson

from ratchet.errors import DataError
from ratchet.pairs.encoding import BOM, Repaired, check_encoding
from ratchet.pairs.packed import open_unpacked
from ratchet.pairs.remote import url_state
from ratchet.pairs.span import FileForm
from ratchet.pairs.splits import choose_split
from ratchet.plan.base import is_url

_BLOCK = 1 << 20
_BLANK = b" \t\r\n"
_SPLITS = ("train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval", "evaluation")
_KEYS = (
    *_SPLITS,
    *("data", "rows", "examples", "instances", "items", "records", "samples", "dataset", "entries", "pairs"),
)
"""Names of lists of rows in a document."""
_ABOUT = ("features", "licenses", "authors")
"""Names of lists that say something of the rows, beside them."""
_MOST_OBJECTS = 32
_TURN: tuple[set[str], ...] = ({"role", "content"}, {"from", "value"})
_TALKS = ("conversation", "conversations", "dialogue", "dialog", "chat")
_EXCHANGE: tuple[set[str], ...] = ({"input", "output"}, {"human", "assistant"}, {"user", "assistant"})
"""Of a list under such a name: what makes it one dialogue, and not the rows of a document."""


@dataclasses.dataclass(frozen=True)
class JsonShape:
    """The form of a file of JSON, and in `key` where its rows are, or how a table is written."""

    form: FileForm
    key: str = ""


@dataclasses.dataclass
class _Part:
    """What a key of the first object holds: `rows` is a list of objects; `first` has keys of the first item of it."""

    kind: Literal["value", "object", "list", "rows"] = "value"
    items: int = 0
    first: list[str] = dataclasses.field(default_factory=list)


def json_shape(path: str, split: str | None, *, lines: bool) -> JsonShape:
    """Return how a file of JSON is laid out; `lines` says that its name is one of JSON lines.

    Raises DataError where it is no JSON, in another encoding, or holds several splits of which `split` is none.
    """
    shape, parts = _shape(path, lines, *_state(path))
    if shape.form == "document":
        lists = [name for name, part in parts.items() if part.kind == "rows" and name not in _ABOUT]
        splits = [name for name in lists if name in _SPLITS]
        return JsonShape("document", choose_split(splits or lists, split, path, "split"))
    if split is not None:
        raise DataError(
            f"the file has no split {split}: its rows are not under names of splits",
            where=path,
            fix="leave `split:` out, or name the file of that split",
            code="data.split",
        )
    return shape


def _state(path: str) -> tuple[Any, ...]:
    if is_url(path):
        return (url_state(path),)
    state = Path(path).stat()
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


# Its state is the cache's key alone: a document is read to its end, once in a process while it stays as it is.
@functools.lru_cache(maxsize=1 << 12)
def _shape(path: str, lines: bool, *state: Any) -> tuple[JsonShape, Mapping[str, _Part]]:
    with open_unpacked(path) as file:
        head = _head(file.stream)
    check_encoding(head, path)
    head = head.removeprefix(BOM).lstrip(_BLANK)
    if head.startswith(b"{"):
        first, _, rest = head.partition(b"\n")
        if rest.strip() and _parses(first):
            return JsonShape("lines"), {}
        with open_unpacked(path) as file:
            return _of_object(file.stream, first, lines=lines)
    if head.startswith(b"["):
        first, _, rest = head.partition(b"\n")
        return JsonShape("lines" if lines and rest.strip() and _parses(first) else "array"), {}
    if lines:
        return JsonShape("lines"), {}
    what = "an array, nor one object a line" if head else "anything: the file is empty"
    raise DataError(f"the file holds neither {what}", where=path, fix="give JSON or JSON lines", code="data.form")


def _head(stream: BinaryIO) -> bytes:
    """Return a first block that is not blank."""
    while (block := stream.read(_BLOCK)) and not block.removeprefix(BOM).strip():
        pass
    return block


def _parses(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _of_object(stream: BinaryIO, first_line: bytes, *, lines: bool) -> tuple[JsonShape, Mapping[str, _Part]]:
    """Return the shape of a file whose first value is an object that is not known to be one line of many."""
    parts: dict[str, _Part] = {}
    ended = more = False
    try:
        for _ in _walk(stream, parts):
            more, ended = ended, True
            if more:
                break
    except ijson.JSONError:
        more = ended
    if not ended and not any(name in _KEYS and part.kind == "rows" for name, part in parts.items()):
        # A broken line of many, unless it is the head of an object that goes on.
        opens = first_line.rstrip().endswith((b"{", b"[", b",")) and not lines
        return JsonShape("objects" if opens else "lines"), {}
    if more:
        return JsonShape("lines" if _parses(first_line) else "objects"), {}
    return _of_lone(parts, one_line=_parses(first_line)), parts


def _walk(stream: BinaryIO, parts: dict[str, _Part]) -> Iterator[None]:
    """Fill in the parts of the first value, and yield at its end and at the beginning of the next."""
    depth, part, ended = 0, _Part(), False
    for event, value in ijson.basic_parse(Repaired(stream), multiple_values=True, use_float=True):
        if ended:
            yield
        closes, opens = event.startswith("end_"), event.startswith("start_")
        if event == "map_key":
            if depth == 1:
                part = parts[value] = _Part()
            elif depth == 2:
                part.items += 1
            # Of a list of objects the keys of its first item; of an object its own, of which the first tells enough.
            if (depth == 3 and part.kind == "rows" and part.items == 1) or (depth == 2 and not part.first):
                part.first.append(value)
            continue
        if depth == 1 and not closes:
            part.kind = "object" if event == "start_map" else "list" if event == "start_array" else "value"
        elif depth == 2 and not closes and part.kind in ("list", "rows"):
            part.items += 1
            if part.items == 1 and event == "start_map":
                part.kind = "rows"
        depth += opens - closes
        if depth == 0:
            ended = True
            yield


def _of_lone(parts: Mapping[str, _Part], *, one_line: bool) -> JsonShape:
    """Return the shape of a file that is one object: rows under a key, a table by columns, or one row."""
    lists = [name for name, part in parts.items() if part.kind == "rows" and name not in _ABOUT]
    named = [name for name in lists if name in _KEYS]
    is_row = any(
        turn <= {*parts[name].first} for name in lists for turn in (*_TURN, *(_EXCHANGE if name in _TALKS else ()))
    )
    if named or (len(lists) == len(parts) > 0 and not is_row):
        return JsonShape("document", (named or lists)[0])
    if {"columns", "data"} <= parts.keys() and parts["data"].kind == parts["columns"].kind == "list":
        return JsonShape("columns", "split")
    kinds = {part.kind for part in parts.values()}
    # Rows by their names; a row has no such number of objects.
    if kinds == {"object"} and (all(name.isdecimal() for name in parts) or len(parts) > _MOST_OBJECTS):
        return JsonShape("columns", "index")
    # pandas writes a column as an object of its rows' numbers, others as a list; one row has no such equal lists.
    if (
        len(parts) > 1
        and len({(part.items, *(part.first if kinds == {"object"} else ())) for part in parts.values()}) == 1
    ):
        numbered = kinds == {"object"} and all(part.first[:1] and part.first[0].isdecimal() for part in parts.values())
        if numbered or ("list" in kinds and kinds <= {"list", "rows"}):
            return JsonShape("columns", "columns")
    return JsonShape("lines" if one_line else "objects")
