"""JSON documents that carry a digest of their own content, so that no changed bit in one is believed."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet import redact
from ratchet.errors import CorruptError
from ratchet.store.files import write_json, write_json_once

DIGEST = "digest"
"""The key of a document's digest: 20 hex digits of the SHA-256 of all other keys and values."""


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return `document` as JSON types, the values of secrets masked, with its digest as the last key."""
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
