"""Plain values as YAML that people like to read, and that `plan.reading` reads back as the same values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ratchet.plan.document import SET
from ratchet.plan.reading import parse

WIDTH = 100
_PLAIN = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_ASTRAL = re.compile(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}")
_LARGEST_WHOLE, _SMALL = 1e15, 1e-3


def in_yaml_block(value: Any, *, width: int = WIDTH) -> str:
    """Return plain values as YAML: a mapping with a blank line between its keys' parts, and small parts on one line."""
    if not isinstance(value, Mapping) or not value:
        return "".join(f"{line}\n" for line in _lines(value, "", width))
    parts = [_entry(key, inner, "", width) for key, inner in value.items()]
    return "\n".join("".join(f"{line}\n" for line in part) for part in parts)


def one_line(text: str) -> str:
    """Return a text on one line without characters that no YAML file may hold, for a comment."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _lines(value: Any, indent: str, width: int) -> list[str]:
    flow = _flow(value)
    if len(indent) + len(flow) <= width or not isinstance(value, Mapping | list) or not value:
        return [indent + flow]
    if isinstance(value, Mapping):
        return [line for key, inner in value.items() for line in _entry(key, inner, indent, width)]
    found = []
    for item in value:
        first, *rest = _lines(item, f"{indent}  ", width)
        found += [f"{indent}- {first.strip()}", *rest]
    return found


def _entry(key: str, value: Any, indent: str, width: int) -> list[str]:
    """A key with its value: on one line where that fits, but mappings of mappings and long ones below it."""
    name = key if _KEY.fullmatch(key) else _quoted(key)
    flow = f"{indent}{name}: {_flow(value)}"
    nested = isinstance(value, Mapping) and any(isinstance(inner, Mapping) for inner in value.values())
    if not value or not isinstance(value, Mapping | list) or (len(flow) <= width and not nested):
        return [flow]
    if isinstance(value, Mapping):
        inside = [line for inner, one in value.items() for line in _entry(inner, one, f"{indent}  ", width)]
        return [f"{indent}{name}:", *inside]
    return [f"{indent}{name}:", *_lines(value, f"{indent}  ", width)]


def _flow(value: Any) -> str:
    match value:
        case Mapping():
            pairs = (f"{key if _KEY.fullmatch(key) else _quoted(key)}: {_flow(inner)}" for key, inner in value.items())
            return f"{{{', '.join(pairs)}}}"
        case list() | tuple():
            return f"[{', '.join(map(_flow, value))}]"
        case str():
            # A word such as `null` reads back as something else, and needs quotes.
            return value if _PLAIN.fullmatch(value) and parse(value, SET).data == value else _quoted(value)
        case float():
            return _number(value)
        case _:
            return json.dumps(value)


def _number(value: float) -> str:
    """A number as people write it: `50`, `0.3`, `2e-5`; every digit that distinguishes it from its neighbours."""
    if value.is_integer() and abs(value) < _LARGEST_WHOLE:
        return str(int(value))
    if _SMALL <= abs(value) < _LARGEST_WHOLE:
        return json.dumps(value)
    # Seventeen digits distinguish any two floats; most need far fewer.
    digits = next(text for places in range(18) if float(text := f"{value:.{places}e}") == value)
    return re.sub(r"e([+-])0*", lambda sign: f"e{sign[1].strip('+')}", digits)


def _quoted(text: str) -> str:
    if "\\" in text and re.fullmatch(r"[ -~]+", text):  # a regular expression, as people write it
        return "'" + text.replace("'", "''") + "'"
    return _ASTRAL.sub(_astral, json.dumps(text))


def _astral(pair: re.Match[str]) -> str:
    """Write a character that JSON writes as two halves as YAML writes it."""
    return f"\\U{ord(json.loads(chr(34) + pair[0] + chr(34))):08x}"
