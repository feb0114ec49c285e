"""The files of a source, under labels that hold wherever the folder lies, and the digests of their content."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ratchet.errors import DataError
from ratchet.pairs.folders import Folder, files_below
from ratchet.pairs.packed import bare_name
from ratchet.plan.data import Source
from ratchet.store.files import at_home
from ratchet.store.fingerprint import digest_once

NameKind = Literal["json", "lines", "csv", "parquet", "arrow"]
ENDINGS: Mapping[str, NameKind] = {
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".jsonlines": "lines",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
"""What a file is by the ending of its name, in any case; how JSON is laid out in it, its content says."""
PACKABLE = (".jsonl", ".ndjson", ".jsonlines", ".json", ".csv", ".tsv")
_INSTEAD = {
    (".xlsx", ".xls", ".ods"): "save the sheet as CSV (UTF-8)",
    (".zip", ".tar", ".tgz", ".7z", ".rar"): "unpack it, and give the files in it",
    (".parquet", ".arrow", ".feather"): "unpack it: a table is packed inside, and is read in parts",
    (".pkl", ".pickle", ".pt", ".npy", ".npz"): "write the rows as JSON lines or Parquet: such a file may run code",
}


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file, what its name says that it is, and its label: its path below the folder that all of the source share.

    `split` is the one to take of the rows inside; None where the file was chosen by it, or none is named.
    """

    label: str
    path: str
    kind: NameKind
    split: str | None


def source_files(source: Source) -> list[SourceFile]:
    """Return a source's files in order, each once. Raises DataError where a path, glob or folder gives none."""
    entries = [source.path] if isinstance(source.path, str) else list(source.path or ())
    found: dict[Path, str | None] = {}
    for path, split in (one for entry in entries for one in _expand(entry, source)):
        found.setdefault(path, split)
    paths = list(found)
    # Labels are in identities and in skipped rows, so they must not change with the place of the folder.
    common = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    files = [SourceFile(str(path.relative_to(common)), str(path), _kind(path), found[path]) for path in paths]
    if plain := next((file for file in files if file.split is not None and file.kind not in ("json", "lines")), None):
        raise DataError(
            f"the file has no split {plain.split}: `split:` is of a folder, or of JSON with rows under names of splits",
            where=plain.path,
            fix="leave `split:` out, or give the folder",
            code="data.split",
        )
    return files


def digests(source: Source) -> list[list[str]]:
    """Return label and SHA-256 of every file, in order; a file is read once while its size and time stay."""
    return [[file.label, digest_once(Path(file.path))] for file in source_files(source)]


def file_size(path: str) -> int:
    """Return a file's size in bytes."""
    return Path(path).stat().st_size


def _expand(entry: str, source: Source) -> list[tuple[Path, str | None]]:
    """Return the files of an entry, each with the split to take of its rows."""
    path = at_home(entry).absolute()
    if path.is_dir():
        names = files_below(_folder(path), source.split, source.config)
        return [(path / name, None) for name in names]
    if source.config is not None:
        raise DataError(
            "`config:` is of a folder, and this is none",
            where=entry,
            fix="leave `config:` out, or give the folder",
            code="data.split",
        )
    if path.is_file():
        return [(path, source.split)]
    if not glob.has_magic(entry):
        raise DataError(
            "no such file or folder",
            where=entry,
            fix="check `path:`; it counts from where the command is run",
            code="data.no-file",
        )
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = [(name, source.split) for name in found if name.is_file()]
    if not files:
        raise DataError(
            "no file matches",
            where=entry,
            fix="check the pattern; it counts from where the command is run",
            code="data.no-file",
        )
    return files


def _folder(path: Path) -> Folder:
    found = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    names = sorted(str(name) for name in found if not any(part.startswith(".") for part in name.parts))
    return Folder(str(path), names, lambda name: (path / name).read_bytes(), kind_by_name)


def kind_by_name(name: str) -> NameKind | None:
    """Return what a file is by its name, or None where no such file can be read."""
    bare = bare_name(name)
    ending = next((ending for ending in ENDINGS if bare.endswith(ending)), None)
    return ENDINGS[ending] if ending is not None and (ending in PACKABLE or bare == name.lower()) else None


def _kind(path: Path) -> NameKind:
    if (kind := kind_by_name(path.name)) is not None:
        return kind
    bare = bare_name(path.name)
    known = f"use one of {', '.join(ENDINGS)}; those of text may be packed: .gz, .bz2, .xz, .zst"
    fix = next((fix for endings, fix in _INSTEAD.items() if bare.endswith(endings)), known)
    raise DataError("not a kind of file that can be read", where=str(path), fix=fix, code="data.form")
