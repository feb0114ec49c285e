"""Files of rows at URLs, through fsspec: found, opened, and known by what their store says of their content.

A file's identity is its ETag, version or blob, where the store gives one; else the SHA-256 of its content, for which
it is read once. It is asked for again whenever an identity is taken, so that a changed file is noticed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from ratchet.errors import DataError

_BLOCK = 1 << 20
_PACKAGES = {
    ("s3", "s3a"): "s3fs",
    ("gs", "gcs"): "gcsfs",
    ("abfs", "abfss", "az", "adl"): "adlfs",
    ("oci",): "ocifs",
    ("oss",): "ossfs",
    ("sftp", "ssh"): "paramiko",
    ("smb",): "smbprotocol",
}
# What says the same of the same content: of S3 and others, of Google, of the hub.
_TAGS = ("ETag", "etag", "VersionId", "version_id", "generation", "md5Hash", "blob_id")
_NOT_THERE = (403, 404, 410)
# Of a server that does not answer; a long file may take as long as it does.
_CONNECT_SECONDS, _SILENT_SECONDS = 30.0, 120.0


def _is_web(url: str) -> bool:
    return urlsplit(url).scheme.lower() in ("http", "https")


@functools.lru_cache(maxsize=64)
def _file_system(scheme: str, host: str) -> Any:
    import fsspec  # here, as most plans have no URL

    options: dict[str, Any] = {}
    if scheme in ("http", "https"):  # by itself five minutes for a whole file
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
        options["client_kwargs"] = {"timeout": limits}
    return fsspec.core.url_to_fs(f"{scheme}://{host}", **options)[0]


@contextlib.contextmanager
def _asked(url: str) -> Iterator[Any]:
    """Yield the file system of a URL; what its library raises becomes a DataError that names the URL."""
    scheme = urlsplit(url).scheme.lower()
    try:
        yield _file_system(scheme, urlsplit(url).netloc)
    except DataError:
        raise
    except ImportError as error:
        package = next((name for schemes, name in _PACKAGES.items() if scheme in schemes), str(error))
        raise _unreached(url, "its package is not installed here", f"install it on every node: {package}") from error
    except Exception as error:  # each store has its own kinds
        # fsspec says the same of a server that has no such file and of one that does not answer.
        cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
        if isinstance(error, FileNotFoundError) and (cause is None or getattr(cause, "status", 0) in _NOT_THERE):
            fix = "check `path:`, and your rights to it"
            raise DataError("no such file or folder", where=url, fix=fix, code="data.no-file") from error
        fix = "check the URL, the credentials of every node, and that each reaches the store"
        raise _unreached(url, f"{type(cause or error).__name__}: {str(cause or error)[:200]}", fix) from error


def _unreached(url: str, why: str, fix: str) -> DataError:
    return DataError(f"the URL cannot be read: {why}", where=url, fix=fix, code="data.remote")


def url_files(url: str) -> list[str] | None:
    """Return the URLs that a pattern gives, in order, or the one of a file; None where it is a folder.

    Raises DataError where there is none, or the store cannot be asked.
    """
    with _asked(url) as files:
        web = _is_web(url)
        # In a URL of the web ? begins a query.
        if any(sign in url for sign in ("*" if web else "*?[")):
            found = sorted(files.unstrip_protocol(name) for name in files.glob(files._strip_protocol(url)))
            if not found:
                raise DataError("no file matches", where=url, fix="check the pattern", code="data.no-file")
            return found
        # To find out whether a page of the web is a folder, all of it would be fetched.
        return [url] if web or files.info(files._strip_protocol(url))["type"] == "file" else None


def url_names(url: str) -> list[str]:
    """Return the names of all files below a folder, without those that begin with a dot."""
    with _asked(url) as files:
        root = files._strip_protocol(url).rstrip("/")
        names = (name.removeprefix(root).strip("/") for name in files.find(root))
        return sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))


def url_info(url: str) -> Mapping[str, Any]:
    """Return what the store says of a file now: its `size` in bytes, and more."""
    with _asked(url) as files:
        files.invalidate_cache()
        found: Mapping[str, Any] = files.info(files._strip_protocol(url))
        return found


def url_state(url: str) -> str:
    """Return what tells a file from a later one of the same URL, as one text."""
    return repr(sorted((key, str(value)) for key, value in url_info(url).items()))


def url_size(url: str) -> int:
    """Return the size of a file in bytes; where the server does not say it, the file is read for it, once."""
    size = url_info(url).get("size")
    return _kept_measure(url, url_state(url))[1] if size is None else int(size)


def url_identity(url: str) -> str:
    """Return the tag that a store gives a file's content, as `ETag "…"`, or the SHA-256 of the content, in hex."""
    info = url_info(url)
    for tag in _TAGS:
        # A weak one is the same for contents that are only alike.
        if info.get(tag) and not str(info[tag]).startswith("W/"):
            return f"{tag} {info[tag]}"
    # A weak tag changes with the content; without any, only the content tells whether it did.
    tagged = any(info.get(tag) for tag in _TAGS)
    return (_kept_measure(url, url_state(url)) if tagged else _measure(url))[0]


# The state is the cache's key alone.
@functools.lru_cache(maxsize=1 << 12)
def _kept_measure(url: str, state: str) -> tuple[str, int]:
    return _measure(url)


def _measure(url: str) -> tuple[str, int]:
    """Return the SHA-256 of a file's content, in hex, and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    with open_url(url, "whole") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


class _Read(io.RawIOBase):
    """A file of a store, of which each failure to read it names its URL."""

    def __init__(self, url: str, file: Any) -> None:
        self._url, self._file, self._at = url, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def readinto(self, into: Any) -> int:
        with _asked(self._url):
            found = self._file.read(len(into))
        into[: len(found)] = found
        self._at += len(found)
        return len(found)

    def seek(self, place: int, whence: int = 0) -> int:
        with _asked(self._url):
            self._at = self._file.seek(place, whence)
        return self._at

    def tell(self) -> int:
        return self._at


@contextlib.contextmanager
def open_url(url: str, read: Literal["whole", "parts"]) -> Iterator[io.BufferedReader]:
    """Open a file to read it from its beginning on (`whole`), or at any place (`parts`).

    A server of the web that gives no parts is asked for the whole file, which is then kept in a temporary one.
    """
    with contextlib.ExitStack() as stack:
        with _asked(url) as files:
            place = files._strip_protocol(url)
            streamed = _is_web(url) and (read == "whole" or not _gives_parts(files, place))
            how = {"block_size": 0} if streamed else {"block_size": _BLOCK, "cache_type": "readahead"}
            file: Any = _Read(url, stack.enter_context(files.open(place, "rb", **how)))
        if streamed and read == "parts":
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(io.BufferedReader(file, _BLOCK), copy, _BLOCK)
            copy.seek(0)
            file = copy.raw if hasattr(copy, "raw") else copy
        yield io.BufferedReader(file, _BLOCK)


def _gives_parts(files: Any, place: str) -> bool:
    size = files.info(place).get("size") or 0
    if size < 2:
        return False
    with files.open(place, "rb", block_size=1, cache_type="none") as file:
        try:
            file.seek(size - 1)
            return len(file.read(1)) == 1
        except (ValueError, AttributeError, OSError):  # how fsspec says that the server sends all of it
            return False


def url_bytes(url: str) -> bytes:
    """Return the content of a small file, such as a card."""
    with open_url(url, "whole") as file:
        return file.read()
