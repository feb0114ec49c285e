"""What a plan and its suites name outside of themselves: files, folders, variables with keys, and whether it is here.

All faults are found at once, before anything starts.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import DataError, some
from ratchet.pairs.chat import shipped_templates
from ratchet.pairs.files import source_files
from ratchet.pairs.packed import file_size
from ratchet.plan.base import Strict, is_url, url_fault
from ratchet.plan.cluster import Cluster
from ratchet.plan.data import HeldOutRows, Source
from ratchet.plan.document import Document, KeyPath, Problem
from ratchet.plan.judge import JUDGE_KINDS
from ratchet.plan.load import PlannedSuite, planned_suites
from ratchet.plan.model import ModelSpec
from ratchet.plan.naming import NAMING, TEMPLATE, NamedPath, places
from ratchet.plan.outline import close, hint
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import may_train
from ratchet.plan.suite import TASK_KINDS, Suite
from ratchet.plan.task_parts import Files, PathKind, Rows
from ratchet.plan.training import TrainingStage

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|[^/]*\\")


def path_problems(document: Document, schema: type[Plan] | type[Suite], *, sent: bool = False) -> Iterator[Problem]:
    """Yield what is wrong with the paths that a plan or suite names, its own suites apart, as seen from here.

    With `sent`, files go along to another machine: absolute paths are that one's, and are not looked for.
    """
    for place in places(document.data, schema):
        if sent and place.text.startswith(("/", "~")):
            continue
        if (what := path_fault(place)) is not None:
            yield document.problem(place.path, what)
    if schema is Plan:
        yield from _too_long(document)


def path_fault(place: NamedPath) -> str | None:
    """Return what is wrong with a text that names a file or folder, or None. What has a scheme is not looked at."""
    if is_url(place.text) and place.part in {Source, HeldOutRows}:
        return _at_url(place.text)
    if url_fault(place.text) is not None:
        return None
    try:
        return _LOOKS[place.part, place.key](place.text)
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL in it, an unknown user's home
        return f"cannot be looked for: {getattr(error, 'strerror', None) or error}"


def _data(text: str) -> str | None:
    what = _written_wrongly(text) or _no_plain_file(Path(text).expanduser())
    return _rows(text) if what is None else what


def _rows(text: str) -> str | None:
    try:
        empty = [Path(file.path).name for file in source_files(Source(path=text)) if not file_size(file.path)]
    except DataError as error:
        # Of several splits the source may name one, which stands beside the path.
        if error.code == "data.split":
            return None
        absent = error.what in {"no such file or folder", "no file matches"} and not is_url(text)
        return _missing(text, error.what) if absent else f"{error.what}: {error.fix}"
    return f"{some(empty)} is empty: take it out, or fill it" if empty else None


# Once in a process: each trial of a sweep would ask again.
_at_url = functools.cache(_rows)


def _model(text: str) -> str | None:
    if (what := _folder(text)) is not None:
        return what
    folder = Path(text).expanduser()
    if (folder / "config.json").is_file():
        return None
    if (folder / "adapter_config.json").is_file():
        return "is an adapter (LoRA) and no model: merge it into the model that it belongs to, and name that folder"
    return "the folder has no config.json: give a Hugging Face folder of a model"


def _template(text: str) -> str | None:
    if text in shipped_templates():
        return None
    what = _file(text)
    return None if what is None else f"{what}; it is a Jinja file, or one of {', '.join(shipped_templates())}"


def _folder(text: str) -> str | None:
    return _there(text, "folder", Path.is_dir)


def _file(text: str) -> str | None:
    return _there(text, "file", Path.is_file)


def _either(text: str) -> str | None:
    return _there(text, "file or folder", Path.exists)


def _there(text: str, kind: str, found: Callable[[Path], bool]) -> str | None:
    path = Path(text).expanduser()
    if found(path):
        return None
    # `exists` follows links, so one that leads nowhere would read as a file that is missing.
    if (what := _leads_nowhere(path)) is not None:
        return what
    if (what := _written_wrongly(text)) is not None:
        return what
    return (
        f"must be a {kind}, and {text} is {'a folder' if path.is_dir() else 'a file'}"
        if path.exists()
        else _missing(text, f"no such {kind}")
    )


def _storage(text: str) -> str | None:
    path = Path(text).expanduser().absolute()
    if not path.exists() and (what := _written_wrongly(text)) is not None:
        return what
    for one in (path, *path.parents):
        if (what := _leads_nowhere(one)) is not None:
            return what if one == path else f"{one} {what}"
    there = next(one for one in (path, *path.parents) if one.exists())
    if not there.is_dir():
        return f"{'it' if there == path else there} is a file, and what is kept needs a folder: name another one"
    if path.is_relative_to("/proc") or path.is_relative_to("/sys"):
        return "is a place of the system, where nothing can be kept: name a folder on a disk"
    if not os.access(there, os.W_OK):
        return f"you may not write to {there}: name a folder that you may write to"
    return None


_OF_KIND: dict[PathKind, Callable[[str], str | None]] = {"file": _file, "folder": _folder, "file or folder": _either}
_LOOKS: dict[tuple[type[Any], str], Callable[[str], str | None]] = {
    (ModelSpec, "path"): _model,
    (ModelSpec, TEMPLATE): _template,
    (Source, "path"): _data,
    (HeldOutRows, "path"): _data,
    (Suite, "data_root"): _folder,
    (Files, "path"): _either,
    (Rows, "path"): _file,
    **{(row.settings, key): _OF_KIND[kind] for row in TASK_KINDS.values() for key, kind in row.paths.items()},
    **{(row.settings, row.path): _file for row in JUDGE_KINDS.values() if row.path},
    (Cluster, "storage"): _storage,
}
"""What each key that names something must name; all keys of `NAMING` and `WRITTEN` are here."""


def _leads_nowhere(path: Path) -> str | None:
    """Return what is wrong with a link whose target is not there, or that leads back to itself; else None."""
    return f"is a link that leads nowhere: to {path.readlink()}" if path.is_symlink() and not path.exists() else None


def _no_plain_file(path: Path) -> str | None:
    """Return what is wrong with a path that is there, and is neither a file nor a folder; else None."""
    if path.exists() and not path.is_dir() and not path.is_file():
        return "is a device or a pipe, and must be a plain file, which can be read again"
    return _leads_nowhere(path)


def _written_wrongly(text: str) -> str | None:
    """Return why a path that is not there cannot be one of this machine, or None."""
    if Path(text).expanduser().exists():
        return None
    if "$" in text or "%" in text:
        return f"no such file: variables are not filled in; write the path out{hint(_filled_in(text))}"
    if _WINDOWS.match(text):
        slashes = re.sub(r"^[A-Za-z]:", "", text).replace("\\", "/")
        near = slashes if Path(slashes).exists() else None
        return f"is a path as Windows writes it: write it with /, as this machine sees it{hint(near)}"
    return None


def _filled_in(text: str) -> str | None:
    full = os.path.expandvars(text)
    return full if Path(full).exists() else None


def _missing(text: str, what: str) -> str:
    if near := _nearest(text):
        return f"{what}{hint(near)}"
    if text.startswith("~"):
        return f"{what} ({Path(text).expanduser()})"
    return what if text.startswith("/") else f"{what}; relative paths count from {Path.cwd()}"


def _nearest(text: str) -> str | None:
    """Return the path that `text` is most likely a slip of: each part that is missing gives way to the nearest name."""
    found = Path("/") if text.startswith("/") else Path()
    for part in Path(text).expanduser().parts if text.startswith("~") else Path(text).parts:
        if (found / part).exists():
            found = found / part
            continue
        if not found.is_dir() or (near := close(part, sorted(os.listdir(found)))) is None:  # noqa: PTH208
            return None
        found = found / near
    return str(found)


def _too_long(document: Document) -> Iterator[Problem]:
    """Yield the stages whose sequences may be longer than the plan's model takes, where its config.json is here."""
    data = document.data
    model, stages = data.get("model"), data.get("stages")
    longest = _positions(model) if isinstance(model, dict) else None
    if longest is None or not isinstance(stages, dict):
        return
    for name, stage in stages.items():
        if not isinstance(stage, dict) or not may_train(stage):
            continue
        asked = stage.get("max_length", TrainingStage.model_fields["max_length"].default)
        if isinstance(asked, int) and asked > longest:
            said = "" if "max_length" in stage else ", the default,"
            path: KeyPath = ("stages", name, "max_length")
            what = f"{asked}{said} is more than the {longest} positions of the model: set it to {longest} or less"
            yield document.problem(path, what)


def _positions(model: dict[str, Any]) -> int | None:
    """Return the longest sequence that a model's config.json names, or None where it is not here or names none."""
    config = _config(model)
    # A model of texts and images keeps its language model's settings one level down. `n_positions` is GPT-2's name.
    text = config.get("text_config", config)
    longest = text.get("max_position_embeddings") or text.get("n_positions") if isinstance(text, dict) else None
    return longest if isinstance(longest, int) else None


def _config(model: dict[str, Any]) -> dict[str, Any]:
    path, name = model.get("path"), model.get("name")
    scratch = model.get("scratch")
    if isinstance(scratch, dict):
        return {"max_position_embeddings": scratch.get("max_positions", 512)}
    if isinstance(path, str):
        return _json(Path(path).expanduser() / "config.json")
    if isinstance(name, str):
        return _json(_cached(name, model.get("revision")) / "config.json")
    return {}


def _cached(name: str, revision: Any) -> Path:
    """Return the folder where the hub's library keeps a model of this revision, once it was fetched."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
    asked = revision if isinstance(revision, str) else "main"
    try:
        # In the hub's cache a branch or tag is a file that holds its commit; a commit has no such file.
        commit = (hub / "refs" / asked).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = asked
    return hub / "snapshots" / commit


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclasses.dataclass(frozen=True)
class Named:
    """A text that names something, and its key in the plan, or in `suite` where that is not None."""

    text: str
    path: KeyPath
    suite: PlannedSuite | None = None


def named_files(plan: Plan) -> Iterator[Named]:
    """Yield every file and folder that a plan and its suites name; the suites' own files are `planned_suites`."""
    for suite, path, part in _parts_of(plan):
        for key in NAMING.get(type(part), ()):
            value = getattr(part, key)
            if key != TEMPLATE or value not in shipped_templates():
                texts = [value] if isinstance(value, str) else value or ()
                yield from (Named(text, (*path, key), suite) for text in texts)


def key_variables(plan: Plan) -> Iterator[Named]:
    """Yield the variables that hold the keys of the judges of a plan's suites."""
    keys = {row.settings: (row.key_variable,) for row in JUDGE_KINDS.values() if row.key_variable}
    for suite, path, part in _parts_of(plan):
        for key in keys.get(type(part), ()):
            if name := getattr(part, key):
                yield Named(name, (*path, key), suite)


def _parts_of(plan: Plan) -> Iterator[tuple[PlannedSuite | None, KeyPath, Strict]]:
    yield from ((None, path, part) for path, part in schema_parts(plan, ()))
    for one in planned_suites(plan):
        yield from ((one, path, part) for path, part in schema_parts(one.suite, ()))


def schema_parts(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Strict]]:
    """Yield the parts of a schema's value that have keys of their own, with their paths."""
    if isinstance(value, Strict):
        yield path, value
        value = {key: getattr(value, key) for key in type(value).model_fields}
    for key, item in value.items() if isinstance(value, Mapping) else _numbered(value):
        yield from schema_parts(item, (*path, key))


def _numbered(value: Any) -> Iterator[tuple[int, Any]]:
    return iter(enumerate(value) if isinstance(value, tuple | list) else ())
