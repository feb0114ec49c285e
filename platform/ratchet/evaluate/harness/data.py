"""Where the data of lm-eval's tasks lie, what they are known by, and `datasets`' copies of them.

`datasets` memory-maps its copies: each is held against digests before anything reads it.

    store/datasets/<digest of the data's files>/copies.json   configs that were read, and size and SHA-256 of each file

A copy that is damaged, or was never finished, is removed, and `datasets` makes it again. Who makes or removes one
holds a lease; who finds a sound one needs none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ratchet.errors import CorruptError
from ratchet.store.codec import from_values, to_values
from ratchet.store.files import read_sealed, write_sealed
from ratchet.store.fingerprint import digest_file, digest_once
from ratchet.store.lease import leased
from ratchet.store.record import faults

NAME = "copies.json"
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class KnownCopies:
    """What a folder of copies holds: the configs that were read, and size and SHA-256 of each file."""

    configs: tuple[str, ...]
    files: Mapping[str, tuple[int, str]]


class Copies:
    """The copies below a folder, while a task is loaded: use it in a `with` around the loading. Raises StorageError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = contextlib.ExitStack()
        self._made: dict[Path, set[str]] = {}

    def of(self, digest: str, config: str) -> Path:
        """Return the folder of a data set's copies, in which what there is of it is sound."""
        folder = self.folder / digest
        if folder not in self._made and config in (_sound(folder) or ()):
            return folder
        if not self._made:
            # One lease for all data sets: a task may load several, and two processes could wait for each other.
            self._open.enter_context(leased(self.folder.parent / "leases" / "datasets", what="copies of data sets"))
        if folder not in self._made:
            self._made[folder] = _cleared(folder)  # another process may have made it meanwhile
        self._made[folder].add(config)
        return folder

    def __enter__(self) -> Copies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            # A loading that failed says nothing of the copies that it left: without a list they are made again.
            for folder, configs in self._made.items() if kind is None else ():
                if folder.is_dir():
                    files = {name: (path.stat().st_size, digest_once(path)) for name, path in _files(folder).items()}
                    write_sealed(folder / NAME, to_values(KnownCopies(tuple(sorted(configs)), files)))


def copy_faults(folder: Path) -> list[str]:
    """Return what is wrong with a data set's copies, in words."""
    try:
        known = _known(folder)
    except CorruptError as error:
        return [f"{NAME}: {error.what}"]
    if known is None:
        return ["they were never finished"]
    strange = sorted(set(_files(folder)) - set(known.files))
    return [*faults(folder, known.files), *(f"{name} is not named in {NAME}" for name in strange)]


def _sound(folder: Path) -> set[str] | None:
    """Return the configs of which there are sound copies; None where they are damaged, or there are none."""
    if not folder.is_dir() or copy_faults(folder):
        return None
    known = _known(folder)
    return None if known is None else set(known.configs)


def _known(folder: Path) -> KnownCopies | None:
    values = read_sealed(folder / NAME)
    if values is None:
        return None
    return from_values(KnownCopies, values, where=str(folder / NAME), fix="run again", error=CorruptError)


def _cleared(folder: Path) -> set[str]:
    """Return the configs of which there are sound copies; remove the folder, with a warning, where it is damaged."""
    found = _sound(folder)
    if found is None and folder.is_dir():
        wrong = copy_faults(folder)
        _log.warning("%s: copies of data are damaged (%s); they are made again", folder, wrong[0])
        shutil.rmtree(folder)
    return found or set()


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a data set's copies by their names; `datasets`' locks are none."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path for path in found if path != folder / NAME}


def content_of(task: Any) -> str:
    """Return a digest of the rows of a task: of all splits that it asks or draws examples from."""
    config, digest = task.config, hashlib.sha256()
    names = {config.training_split, config.validation_split, config.test_split, task.fewshot_cfg.split} - {None}
    for split in sorted(names & set(task.dataset)):
        digest.update(f"{split} {len(task.dataset[split])}\n".encode())
        table = task.dataset[split].data.table
        # In one piece, as how a table is cut is no part of what it holds.
        for batch in table.combine_chunks().to_batches():
            digest.update(batch.serialize())
        digest.update(str(table.schema.remove_metadata()).encode())
    return digest.hexdigest()[:20]


def files_beside(data_files: Any, folder: Path) -> tuple[Any, list[Path]]:
    """Return data files with those that lie beside the definition by their full path, and the local ones."""
    if isinstance(data_files, Mapping):
        pairs = {split: files_beside(some_files, folder) for split, some_files in data_files.items()}
        return {split: pair[0] for split, pair in pairs.items()}, [path for pair in pairs.values() for path in pair[1]]
    if isinstance(data_files, list | tuple):
        found = [files_beside(name, folder) for name in data_files]
        return [pair[0] for pair in found], [path for pair in found for path in pair[1]]
    if isinstance(data_files, str):
        path = next((path for path in (folder / data_files, Path(data_files)) if path.is_file()), None)
        return (str(path.resolve()), [path]) if path else (data_files, [])
    return data_files, []


def folder_digest(folder: str | None) -> str:
    """Return one digest over the files of a folder of definitions; nothing where there is none."""
    if folder is None:
        return ""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return data_digest(sorted(files), Path(folder))


def data_digest(files: list[Path], folder: Path) -> str:
    """Return one digest over files' contents and their names below `folder`."""
    lines = [
        f"{path.relative_to(folder) if path.is_relative_to(folder) else path.name} {digest_file(path)}"
        for path in files
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:20]
