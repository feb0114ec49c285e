"""Manifests as documents: plain values, and the file and line of every key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ratchet.errors import PlanError
from ratchet.plan.document import Document, KeyPath, Problem, dotted, fail, shorten
from ratchet.plan.reading import DEEPEST, LARGEST_FILE, ValueBuilder, read_text

_TEXTS = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value"}


def read_manifests(path: Path) -> list[Document]:
    """Read the objects of a file. Raises PlanError where it cannot be read, or is not YAML."""
    return parse_manifests(read_text(path), str(path))


def parse_manifests(text: str, file: str) -> list[Document]:
    """Return the objects of YAML text, documents without content left out; `List` objects count as their items.

    Raises PlanError where the text is no YAML, is over the limits that hold for plans, or has something else.
    """
    if len(text) > LARGEST_FILE:
        raise PlanError(f"{file}: larger than {LARGEST_FILE >> 20} MiB, and no more is read", code="plan.manifest")
    return [item for document in parse_documents(text, file) for item in _items(document)]


def parse_documents(text: str, file: str, deepest: int = DEEPEST) -> list[Document]:
    """Return the documents of YAML text, those without content left out, of whatever type they are.

    The scalars are those of YAML 1.1, as Kubernetes reads them: `on` is true there. Raises PlanError.
    """
    try:
        # Composing recurses, so text of many brackets must be refused before.
        _limit_depth(text, file, deepest)
        nodes = list(yaml.compose_all(text, Loader=yaml.CSafeLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PlanError(
            f"{file}:{line}: not YAML: {shorten(error.problem or str(error))}", code="plan.manifest"
        ) from None
    except yaml.YAMLError as error:
        raise PlanError(f"{file}: not YAML: {shorten(str(error))}", code="plan.manifest") from None
    found = []
    for node in nodes:
        builder = _ManifestBuilder(file, deepest)
        data = builder.value(node, ())
        if data is not None:
            found.append(Document(file, data, builder.places, tuple(builder.problems)))
    return found


def _limit_depth(text: str, file: str, deepest: int) -> None:
    """Raise PlanError where text is nested too deep, before anything is built of it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > deepest:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise PlanError(f"{file}:{line}: nested more than {deepest} deep", code="plan.manifest")


def one_document(text: str, file: str) -> Document:
    """Return the one document of YAML text. Raises PlanError where there are none or several."""
    found = parse_manifests(text, file)
    if len(found) != 1:
        raise PlanError(f"{file}: holds {len(found)} documents, and one is expected", code="plan.manifest")
    return found[0]


def at(value: Any, *path: str | int) -> Any:
    """Return what stands at `path`, or None where there is nothing, or something that cannot hold it."""
    for part in path:
        if isinstance(part, int):
            value = value[part] if isinstance(value, list) and part < len(value) else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def mapping(value: Any, *path: str | int) -> dict[str, Any]:
    """Return the mapping at `path`, or an empty one."""
    found = at(value, *path)
    return found if isinstance(found, dict) else {}


def mappings(value: Any, *path: str | int) -> list[dict[str, Any]]:
    """Return the mappings in the list at `path`."""
    found = at(value, *path)
    # An empty one stands for an item that is none, so that places stay.
    return [item if isinstance(item, dict) else {} for item in found] if isinstance(found, list) else []


def without_nulls(value: Any) -> Any:
    """Return a value without the keys that hold null: an API server takes these for left out."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def texts_in(value: Any) -> list[str]:
    """Return the texts in a list; none where it is none."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def object_kind(document: Document) -> str:
    """Return the kind of an object, or an empty text."""
    return str(at(document.data, "kind") or "")


def name_of(document: Document) -> str:
    """Return the name of an object, or an empty text."""
    return str(at(document.data, "metadata", "name") or "")


def texts(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield every text of a value, with its path."""
    if isinstance(value, str):
        yield path, value
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from texts(item, (*path, key))


def to_yaml(objects: Sequence[Any]) -> str:
    """Return objects as YAML documents, texts of several lines as blocks."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they are, and nothing as an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _items(document: Document) -> Iterator[Document]:
    listed = at(document.data, "items")
    if not isinstance(document.data, dict):
        fail([document.problem((), "must be an object, with apiVersion and kind")])
    if not (object_kind(document).endswith("List") and isinstance(listed, list)):
        yield document
        return
    for n, item in enumerate(listed):
        places = {path[2:]: place for path, place in document.places.items() if path[:2] == ("items", n)}
        yield Document(document.file, item, places, document.problems if n == 0 else ())


class _ManifestBuilder(ValueBuilder):
    """Builds values with the scalars of YAML 1.1, as Kubernetes reads them."""

    def __init__(self, file: str, deepest: int) -> None:
        super().__init__(file, deepest)
        self._scalars = yaml.SafeLoader("")

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        """Return the value of a scalar; dates are texts, as in JSON."""
        if node.tag in _TEXTS:
            return node.value
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            self.problems.append(Problem(self.places[path], dotted(path), f"cannot be read: {shorten(str(error))}"))
            return None
