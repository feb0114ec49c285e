"""Files that appear whole or not at all: write aside, fsync, rename.

A sealed document is one of JSON that carries a digest of its own content, so that no changed bit in one is believed.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet import redact
from ratchet.errors import CorruptError, RunError, StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNUSABLE = {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a read-only folder into a StorageError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(
                "no space left on the disk",
                where=str(path),
                fix="free some space and run again; everything committed so far is kept",
                code="storage.full",
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise StorageError(
                f"cannot write: {error.strerror}",
                where=str(path),
                fix="set cluster.storage to a folder you may write to",
                code="storage.read-only",
            ) from error
        if error.errno in _UNUSABLE:
            raise StorageError(
                f"cannot be used: {error.strerror}",
                where=str(path),
                fix="move away what stands in its place, or set cluster.storage to another folder",
                code="storage.unusable",
            ) from error
        raise


def open_storage(root: Path) -> None:
    """Make the storage's folder where it is missing, and prove that a file can be written there.

    It is the first touch of the storage by a command. Raises StorageError, whatever the reason.
    """
    probe = root / f".probe.{uuid.uuid4().hex[:8]}"
    with storage_errors(root):
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Permissions do not tell it all: the disk may be full, or mounted to be read only.
            probe.write_bytes(b"1")
            probe.unlink()
        except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
            what = "no folder can be made here" if isinstance(error, FileNotFoundError) else "is a file, not a folder"
            raise StorageError(
                what, where=str(root), fix="set cluster.storage to a folder on a disk that you may write to"
            ) from error


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` by way of a file aside, fsync and rename. Raises StorageError."""
    # Beside it, as a rename is whole only within one file system.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        # The name is on the disk only once its folder is.
        fsync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write text to `path`, the values of secrets masked, whole or not at all. Raises StorageError."""
    write_bytes(path, redact.values(text).encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, the values of secrets masked, whole or not at all.

    Raises StorageError.
    """
    write_bytes(path, (json.dumps(redact.tree(value), indent=2, ensure_ascii=False) + "\n").encode())


def write_json_once(path: Path, value: Any) -> bool:
    """Write `value` to `path` as JSON, whole; return False, and leave it, where there is such a file already.

    Of several that write at one moment one succeeds. Raises StorageError.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    write_json(aside, value)
    try:
        with storage_errors(path):
            # A link fails where the name is taken; a rename would replace what is there.
            os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True


@contextlib.contextmanager
def folder_aside(final: Path) -> Iterator[Path]:
    """Yield a folder to fill; on success it becomes `final`, on an error it goes.

    If `final` appeared in the meantime (another process made the same thing), that one is kept.
    Raises StorageError; RunError where another process, which took over, has removed the folder aside.
    """
    aside = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
    with storage_errors(final):
        aside.mkdir(parents=True)
        try:
            yield aside
            sync_tree(aside)
            with contextlib.suppress(FileExistsError):
                publish_folder(aside, final)
            fsync_folder(final.parent)
        except FileNotFoundError as error:
            if aside.exists():
                raise
            raise RunError(
                "another process makes this now, and has removed what was begun here",
                where=str(final),
                fix="nothing to do here: that one goes on with it",
                code="run.taken-over",
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(final: Path) -> None:
    """Remove what killed processes left beside `final` in making it; for who alone may make it now."""
    with storage_errors(final):
        for path in final.parent.glob(f".{glob.escape(final.name)}.*"):
            # Other hidden names beside it are not of our making.
            if re.fullmatch(r"[0-9a-f]{8}", path.name.removeprefix(f".{final.name}.")):
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def publish_folder(aside: Path, final: Path) -> None:
    """Rename a finished folder to its name. Raises FileExistsError where the name is taken."""
    try:
        aside.rename(final)
    except OSError as error:
        # POSIX leaves it to the file system which of the two a full folder gives.
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:
            raise FileExistsError(str(final)) from error
        raise


def sync_tree(folder: Path) -> None:
    """Fsync every file and folder below `folder`."""
    for parent, _, names in os.walk(folder):
        for name in names:
            handle = os.open(Path(parent) / name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        fsync_folder(Path(parent))


def gone(path: Path) -> StorageError:
    """Return the error of a place of the storage that was there while this process ran, and is there no more."""
    return StorageError(
        "it was there and is gone: its disk is no longer mounted on this node, or the folder was removed",
        where=str(path),
        fix="mount cluster.storage again where it was, and run again: the run goes on from its last checkpoint",
        code="storage.gone",
    )


def at_home(text: str) -> Path:
    """Return a path with its `~` written out; unchanged where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def free_bytes(folder: Path) -> int:
    """Return the bytes free on the disk that holds `folder` or its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def bytes_text(count: int, *, down: bool = False) -> str:
    """Return bytes as people say them, rounded up or `down`: `312 B`, `4.1 KiB`, `7.0 MiB`, `2.0 GiB`."""
    power = max((one for one in range(4) if count >= 1 << 10 * one), default=0)
    if power == 0:
        return f"{count} B"
    # Rounded up, so that what is over a limit reads so; what is there goes down, and reads as less than what is asked.
    tenths = (math.floor if down else math.ceil)(count / (1 << 10 * power) * 10)
    return f"{tenths / 10:.1f} {'BKMG'[power]}iB"


DIGEST = "digest"
"""The key of a document's digest: 20 hex digits of the SHA-256 of all other keys and values."""


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return `document` as JSON types, the values of secrets masked, with its digest as the last key."""
    # As a reader will have it, a tuple as a list: the digest is taken of that.
    plain: dict[str, Any] = json.loads(json.dumps(redact.tree(dict(document))))
    plain.pop(DIGEST, None)
    return {**plain, DIGEST: _digest(plain)}


def write_sealed(path: Path, document: Mapping[str, Any]) -> None:
    """Write `document` with its digest, whole or not at all. Raises StorageError."""
    write_json(path, sealed(document))


def write_sealed_once(path: Path, document: Mapping[str, Any]) -> bool:
    """As `write_sealed`; return False, and leave it, where there is such a file already. Raises StorageError."""
    return write_json_once(path, sealed(document))


def read_sealed(path: Path, fix: str = "delete the file; it will be made again") -> dict[str, Any] | None:
    """Return what `write_sealed` wrote, without its digest; None where there is no such file.

    Raises CorruptError, with `fix` as its advice, where the file is not what was written.
    """
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("not a JSON object")
        if document.pop(DIGEST, None) != _digest(document):
            raise ValueError("its digest does not fit its content")
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return read_sealed(path, fix)  # on a network disk: another file has taken the name meanwhile
    except (ValueError, RecursionError) as error:
        raise CorruptError(
            f"not what was written: {error}", where=str(path), fix=fix, code="corrupt.document"
        ) from error
    return document


def _digest(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]
