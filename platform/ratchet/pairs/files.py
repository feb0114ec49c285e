"""The files of a source: what `path:` names, under labels that hold wherever the folder lies."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
from pathlib import Path
from typing import Literal

from ratchet.errors import DataError
from ratchet.plan.data import Source
from ratchet.store.files import at_home
from ratchet.store.fingerprint import digest_once

_FORMS: dict[str, Literal["lines", "array", "parquet"]] = {
    ".jsonl": "lines",
    ".jsonl.gz": "lines",
    ".json": "array",
    ".json.gz": "array",
    ".parquet": "parquet",
}


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file, its form, and its label: its path below the folder that all files of the source share."""

    label: str
    path: Path
    form: Literal["lines", "array", "parquet", "arrow"]


def source_files(source: Source) -> list[SourceFile]:
    """Return a source's files in order, each once. Raises DataError where a path, glob or folder gives none."""
    entries = [source.path] if isinstance(source.path, str) else list(source.path or ())
    paths = list(dict.fromkeys(path for entry in entries for path in _expand(entry)))
    common = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    return [SourceFile(str(path.relative_to(common)), path, _form(path)) for path in paths]


def digests(source: Source) -> list[list[str]]:
    """Return label and SHA-256 of every file, in order; a file is read once while its size and time stay."""
    return [[file.label, digest_once(file.path)] for file in source_files(source)]


def _expand(entry: str) -> list[Path]:
    path = at_home(entry).absolute()
    if path.is_dir():
        return _saved(path)
    if path.is_file():
        return [path]
    if not glob.has_magic(entry):
        raise DataError(
            "no such file or folder", where=entry, fix="check `path:`; it counts from where the command is run"
        )
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = [name for name in found if name.is_file()]
    if not files:
        raise DataError(
            "no file matches", where=entry, fix="check the pattern; it counts from where the command is run"
        )
    return files


def _saved(folder: Path) -> list[Path]:
    """Return the Arrow files of a folder written by `Dataset.save_to_disk`."""
    state = folder / "state.json"
    if not state.is_file():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        if splits:
            raise DataError(
                f"the folder holds several data sets: {', '.join(splits)}",
                where=str(folder),
                fix=f"name one, for example path: {folder / splits[0]}",
            )
        raise DataError(
            "the folder was not saved by `datasets`: it has no state.json",
            where=str(folder),
            fix=f"give the files themselves, for example path: {folder / '*.jsonl'}",
        )
    try:
        files = [folder / item["filename"] for item in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"cannot read the list of data files: {error!r}", where=str(state), fix="save it again"
        ) from error
    lost = [path.name for path in files if not path.is_file()]
    if lost or not files:
        raise DataError(
            f"data files are missing: {', '.join(lost) or 'all'}", where=str(folder), fix="fetch or save it again"
        )
    return files


def _form(path: Path) -> Literal["lines", "array", "parquet", "arrow"]:
    if path.suffix == ".arrow" and (path.parent / "state.json").is_file():
        return "arrow"
    for suffix, form in _FORMS.items():
        if path.name.lower().endswith(suffix):
            return form
    raise DataError("not a kind of file that can be read", where=str(path), fix=f"use one of {', '.join(_FORMS)}")
