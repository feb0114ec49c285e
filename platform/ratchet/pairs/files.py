"""The files of a source, under labels that hold wherever the folder lies, and the digests of their content."""

from __future__ import annotations

import dataclasses
import glob
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from ratchet.errors import DataError
from ratchet.pairs.folders import Folder, files_below
from ratchet.pairs.packed import bare_name, without_query
from ratchet.pairs.remote import url_bytes, url_files, url_identity, url_names
from ratchet.plan.base import is_url
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
    """Return a source's files in order, each once. Raises DataError where a path, URL, glob or folder gives none."""
    # The first of two entries that give one file decides.
    found: dict[str, str | None] = {}
    for path, split in (one for entry in source.paths for one in _expand(entry, source)):
        found.setdefault(path, split)
    labelled = zip(_labels(found), found.items(), strict=True)
    files = [SourceFile(label, path, _kind(path), split) for label, (path, split) in labelled]
    if plain := next((file for file in files if file.split is not None and file.kind not in ("json", "lines")), None):
        raise DataError(
            f"the file has no split {plain.split}: `split:` is of a folder, or of JSON with rows under names of splits",
            where=plain.path,
            fix="leave `split:` out, or give the folder",
            code="data.split",
        )
    return files


def _labels(paths: Iterable[str]) -> list[str]:
    """Return paths below the folder that all share: labels are in identities, and may not change with its place."""
    parts = [without_query(path).split("/") for path in paths]
    folders = [one[:-1] for one in parts]
    same = itertools.takewhile(lambda level: len({*level}) == 1, zip(*folders, strict=False))
    common = sum(1 for _ in same)
    return ["/".join(one[common:]) for one in parts]


def digests(source: Source) -> list[list[str]]:
    """Return label and SHA-256 of every file, in order; a file is read once while its size and time stay.

    Of a file at a URL it is what `url_identity` says. Raises DataError.
    """
    return [[file.label, _digest(file.path)] for file in source_files(source)]


def _digest(path: str) -> str:
    return url_identity(path) if is_url(path) else digest_once(Path(path))


def _expand(entry: str, source: Source) -> list[tuple[str, str | None]]:
    """Return the files of an entry, each with the split to take of its rows."""
    files = _url(entry) if is_url(entry) else _local(entry)
    if isinstance(files, Folder):
        names = files_below(files, source.split, source.config)
        return [(f"{files.root}/{name}", None) for name in names]
    if source.config is not None:
        raise DataError(
            "`config:` is of a folder, and this is none",
            where=entry,
            fix="leave `config:` out, or give the folder",
            code="data.split",
        )
    return [(file, source.split) for file in files]


def _local(entry: str) -> Folder | list[str]:
    path = at_home(entry).absolute()
    try:
        if path.is_dir():
            return Folder(str(path), _names(path), lambda name: (path / name).read_bytes(), kind_by_name)
        if path.is_file():
            return [str(path)]
    except OSError as error:
        raise DataError(
            f"cannot be looked into: {error.strerror}", where=str(error.filename), fix="check the rights to it"
        ) from error
    if not glob.has_magic(entry):
        raise DataError(
            "no such file or folder",
            where=entry,
            fix="check `path:`; it counts from where the command is run",
            code="data.no-file",
        )
    files = sorted(name for name in glob.glob(str(path), recursive=True) if Path(name).is_file())  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not files:
        raise DataError(
            "no file matches",
            where=entry,
            fix="check the pattern; it counts from where the command is run",
            code="data.no-file",
        )
    return files


def _names(root: Path) -> list[str]:
    """Return the names of all files below a folder, without those that begin with a dot. Raises OSError."""

    def stop(error: OSError) -> None:
        raise error

    found = []
    for folder, below, files in os.walk(root, onerror=stop):
        below[:] = [name for name in below if not name.startswith(".")]
        here = Path(folder).relative_to(root)
        found += [str(here / name) for name in files if not name.startswith(".") and Path(folder, name).is_file()]
    return sorted(found)


def _url(entry: str) -> Folder | list[str]:
    if (files := url_files(entry)) is not None:
        return files
    root = entry.rstrip("/")
    return Folder(root, url_names(root), lambda name: url_bytes(f"{root}/{name}"), kind_by_name)


def kind_by_name(name: str) -> NameKind | None:
    """Return what a file is by its name, or None where no such file can be read."""
    bare = bare_name(name)
    ending = next((ending for ending in ENDINGS if bare.endswith(ending)), None)
    return ENDINGS[ending] if ending is not None and (ending in PACKABLE or bare == name.lower()) else None


def _kind(path: str) -> NameKind:
    name = without_query(path).rpartition("/")[2]
    if (kind := kind_by_name(name)) is not None:
        return kind
    bare = bare_name(name)
    known = f"use one of {', '.join(ENDINGS)}; those of text may be packed: .gz, .bz2, .xz, .zst"
    fix = next((fix for endings, fix in _INSTEAD.items() if bare.endswith(endings)), known)
    raise DataError("not a kind of file that can be read", where=path, fix=fix, code="data.form")
