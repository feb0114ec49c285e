"""The identity of a model: what its weights and configuration are, not where or in how many files."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import CorruptError, ModelError
from ratchet.pairs.tokenizer import digest_tokenizer, digest_vocabulary, read_json
from ratchet.store.fingerprint import digest_files

__all__ = [
    "VOLATILE",
    "Stored",
    "config_identity",
    "digest_code",
    "digest_model",
    "digest_tokenizer",
    "digest_vocabulary",
    "file_marks",
    "stored_tensors",
    "weight_files",
]

VOLATILE = {"_name_or_path", "transformers_version", "use_cache", "torch_dtype", "dtype"}
"""Keys of config.json that say nothing of what the model computes from its weights."""
_CHUNK = 1 << 22
_LONGEST_HEADER = 100 << 20


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file: `dtype` as the format names it, and its bytes' place."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int


def weight_files(folder: Path) -> list[Path]:
    """Return the folder's safetensors files, by name. Raises ModelError where it has none."""
    files = sorted(folder.glob("*.safetensors"))
    if not folder.is_dir():
        raise ModelError("no such model folder", where=str(folder), fix="correct model.path")
    if not files:
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        what = f"its weights are pickles ({pickled[0]}), which can run code" if pickled else "it has no weights"
        raise ModelError(what, where=str(folder), fix="give a folder with *.safetensors files")
    return files


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Return every tensor of a model folder, by name. Raises ModelError, CorruptError."""
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        for tensor in _header(file):
            if tensor.name in found:
                raise ModelError(
                    f"{tensor.name} stands in {found[tensor.name].file.name} and in {file.name}",
                    where=str(folder),
                    fix="remove the files that do not belong to the model",
                )
            found[tensor.name] = tensor
    return dict(sorted(found.items()))


def _header(file: Path) -> Iterator[Stored]:
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size, _LONGEST_HEADER):
                raise ValueError(f"a header of {length} bytes")
            entries = json.loads(stream.read(length))
        for name, entry in entries.items():
            if name == "__metadata__":
                continue
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            if end > size:
                raise ValueError(f"{name} ends at byte {end} of {size}")
            yield Stored(name, entry["dtype"], tuple(entry["shape"]), file, start, end)
    except (ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(
            f"not a safetensors file: {error}", where=str(file), fix="the file is cut or damaged: get it again"
        ) from error


def file_marks(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of change of every file that decides what a model answers.

    Equal marks before and after a model was read say that it was not changed meanwhile. Raises ModelError.
    """
    others = (path for ending in ("json", "jinja", "model", "txt", "py") for path in folder.glob(f"*.{ending}"))
    files = {*weight_files(folder), *others}
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files))


def digest_code(folder: Path) -> str:
    """Return 20 hex digits over the code that comes with a model."""
    return digest_files(list(folder.glob("*.py")))


def config_identity(folder: Path) -> dict[str, object]:
    """Return config.json without what says nothing of the computation. Raises ModelError."""
    return {key: value for key, value in read_json(folder / "config.json").items() if key not in VOLATILE}


def digest_model(folder: Path) -> str:
    """Return 20 hex digits over names, shapes, dtypes and bytes of all weights, and the configuration.

    The same weights divided otherwise among files have the same digest. Raises ModelError, CorruptError.
    """
    digest = hashlib.sha256(json.dumps(config_identity(folder), sort_keys=True).encode())
    for tensor in stored_tensors(folder).values():
        digest.update(f"\0{tensor.name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.start)
            left = tensor.end - tensor.start
            while left:
                chunk = stream.read(min(_CHUNK, left))
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()[:20]
