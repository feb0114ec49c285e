"""A model folder as files: its tensors, its identity, and the line that uses it.

No weights are loaded, and torch is not needed. The identity is what weights and configuration are, not where they
lie or in how many files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet.errors import CorruptError, ModelError
from ratchet.pairs.hub import commit_of
from ratchet.pairs.tokenizer import read_json
from ratchet.plan.model import ModelSpec
from ratchet.store.files import at_home
from ratchet.store.fingerprint import digest_files

VOLATILE = {"_name_or_path", "transformers_version", "use_cache", "torch_dtype", "dtype"}
"""Keys of config.json that say nothing of what the model computes from its weights."""
UNDONE = {"fp8": "FP8", "mxfp4": "MXFP4"}
"""Precisions of storage that transformers turns into plain weights when it loads them, by its name for each."""
SCALES = re.compile(r"_scales$|_scale_inv$|\.(?:weight|activation|input)_scale$")
"""Names of tensors that others are multiplied by."""
_FLOATS = {"F64", "F32", "F16", "BF16"}
_CHUNK = 1 << 22
_LONGEST_HEADER = 100 << 20
_HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.py", "LICENSE*", "NOTICE*")
_OTHER_FORMS = ["original/*", "metal/*", "consolidated*"]
"""The same weights once more, in forms that transformers does not read."""


def model_folder(spec: ModelSpec) -> Path:
    """Return the absolute folder of a `path` or `name` spec; a hub model is fetched, or found in the local cache.

    Raises ModelError where there is no such folder or model, or no way to the hub.
    """
    if spec.path is not None:
        folder = at_home(spec.path).absolute()  # workers run in another folder
        if not folder.is_dir():
            raise ModelError("no such model folder", where=spec.path, fix="correct model.path", code="model.no-folder")
        return folder
    if spec.name is None:
        raise ModelError("a scratch model has no folder yet", where="model.scratch", fix="make it first")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        commit = commit_of("model", spec.name, spec.revision)
        wanted = list(_HUB_FILES)
        return Path(snapshot_download(spec.name, revision=commit, allow_patterns=wanted, ignore_patterns=_OTHER_FORMS))
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"the hub has no model {spec.name!r} that you may read",
            where="model.name",
            fix="correct the name, or set HF_TOKEN for a private or gated model",
            code="model.hub",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(
            f"{spec.name} is not in the local cache and cannot be fetched: {str(error).strip().splitlines()[0]}",
            where="model.name",
            fix="check the name, the revision and the network; or download it elsewhere and set model.path",
            code="model.hub",
        ) from error


@dataclasses.dataclass(frozen=True)
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
    # Mistral's own form of the same weights, which transformers does not read.
    files = [file for file in files if not file.name.startswith("consolidated")] or files
    if not folder.is_dir():
        raise ModelError("no such model folder", where=str(folder), fix="correct model.path", code="model.no-folder")
    if not files:
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        fix = "give a folder with *.safetensors files"
        if pickled:
            what = f"its weights are pickles ({pickled[0]}), which can run code"
            raise ModelError(what, where=str(folder), fix=fix, code="model.pickles")
        raise ModelError("it has no weights", where=str(folder), fix=fix, code="model.no-weights")
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
                    code="model.two-weights",
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
            f"not a safetensors file: {error}",
            where=str(file),
            fix="the file is cut or damaged: get it again",
            code="corrupt.tensors",
        ) from error


def pieces(tensor: Stored) -> Iterator[bytes]:
    """Yield the bytes of a stored tensor, some at a time."""
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.start)
        left = tensor.end - tensor.start
        while left:
            piece = stream.read(min(_CHUNK, left))
            yield piece
            left -= len(piece)


def storage_of(folder: Path) -> str | None:
    """Return transformers' name of the form in which a folder's weights are quantised, if they are."""
    fields = read_json(folder / "config.json")
    text = fields.get("text_config")
    for part in (fields, text if isinstance(text, dict) else {}):
        found = part.get("quantization_config") or part.get("compression_config")
        if found:
            return str((isinstance(found, dict) and found.get("quant_method")) or "an unnamed form")
    return None


def scale_of(tensor: Stored, among: Mapping[str, Stored]) -> Stored | None:
    """Return the scales that a tensor in FP8 is multiplied by, one for each of equal blocks; None where it has none.

    The blocks are those that the folder's settings name, where they name any.
    """
    found = among.get(f"{tensor.name}_scale_inv") if tensor.dtype.startswith("F8") else None
    if found is None or len(tensor.shape) < len(found.shape):
        return None
    grid = (*(1 for _ in tensor.shape[len(found.shape) :]), *found.shape)
    equal = all(count and not size % count for size, count in zip(tensor.shape, grid, strict=True))
    settings = read_json(tensor.file.parent / "config.json").get("quantization_config") or {}
    named = zip(tensor.shape[-2:], grid[-2:], settings.get("weight_block_size") or (), strict=False)
    # One scale of a row that is shorter than a block is that of the whole row.
    other = any(count > 1 and size != count * block for size, count, block in named)
    return found if equal and not other else None


def scales_undone(method: str | None, tensors: Mapping[str, Stored]) -> list[str]:
    """Return which of some stored tensors can be published beside weights that are not quantised.

    `method` is how the folder's weights are (`storage_of`). Scales are no tensors then, and where one of the tensors
    has none, or a form that is not known here, none is of use.
    """
    if method is None:
        return list(tensors)
    weights = [one for one in tensors.values() if not SCALES.search(one.name)]
    plain = all(one.dtype in _FLOATS or scale_of(one, tensors) is not None for one in weights)
    return [one.name for one in weights] if method == "fp8" and plain else []


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


def settings_without(fields: Mapping[str, Any], spared: Callable[[str, object], bool]) -> dict[str, Any]:
    """Return settings without those that say nothing of a computation, at any depth, and those that are `spared`."""
    return {
        key: settings_without(value, spared) if isinstance(value, Mapping) else value
        for key, value in ((str(key), value) for key, value in fields.items())
        if key not in VOLATILE and not spared(key, value)
    }


def digest_model(folder: Path) -> str:
    """Return 20 hex digits over names, shapes, dtypes and bytes of all weights, and the configuration.

    Raises ModelError, CorruptError.
    """
    digest = hashlib.sha256(json.dumps(config_identity(folder), sort_keys=True).encode())
    # By name, whatever file it is in: the same weights divided otherwise among files have the same digest.
    for tensor in stored_tensors(folder).values():
        digest.update(f"\0{tensor.name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
        for piece in pieces(tensor):
            digest.update(piece)
    return digest.hexdigest()[:20]


def load_line(folder: str, *, trust_remote_code: bool = False) -> str:
    """Return the Python call that loads the model in `folder` for texts; transformers has the function."""
    trust = ", trust_remote_code=True" if trust_remote_code else ""
    return f'transformers.pipeline("text-generation", model={json.dumps(folder, ensure_ascii=False)}{trust})'


def card_usage(*, trust_remote_code: bool = False) -> str:
    """Return the part of a model card that shows how to chat with the model, whose folder may move."""
    line = load_line("path/to/this/folder", trust_remote_code=trust_remote_code)
    asked = 'chat([{"role": "user", "content": "Hello"}], max_new_tokens=128)'
    return (
        f"\n## How to use it\n\n```python\nimport transformers\n\nchat = {line}\n"
        f'print({asked}[0]["generated_text"][-1]["content"])\n```\n'
    )
