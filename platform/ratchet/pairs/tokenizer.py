"""Tokenizers and chat templates: loaded from a model folder, and distinguished by what they do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ratchet.errors import ModelError
from ratchet.pairs.chat import ChatTemplate, bind
from ratchet.pairs.lean import tokenizer_class

_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")
# These change with the place of the folder or the version that saved it, and turn no text into other ids.
_NOT_ABOUT_IDS = {"chat_template", "name_or_path", "processor_class", "tokenizer_file", "transformers_version"}


def load_tokenizer(folder: Path, chat_template: ChatTemplate | None) -> Any:
    """Return the fast tokenizer of a model folder, which renders conversations as `chat_template` says, or by default.

    Code that comes with a tokenizer is never run, whatever is trusted. Raises ModelError where the folder has
    none that can be used.
    """
    settings = folder / "tokenizer_config.json"
    # Without that code transformers may take another class in its place, whose ids differ.
    if settings.is_file() and read_json(settings).get("auto_map"):
        raise ModelError(
            "its tokenizer is code of its own (auto_map), which is not run",
            where=str(settings),
            fix="convert it to tokenizer.json, and take auto_map out of a copy of the folder",
            code="model.code",
        )
    try:
        tokenizer = tokenizer_class().from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise ModelError(
            f"no tokenizer can be loaded: {str(error).strip().splitlines()[0]}",
            where=str(folder),
            fix="the folder needs tokenizer.json and tokenizer_config.json",
            code="model.no-tokenizer",
        ) from error
    if not tokenizer.is_fast:
        raise ModelError("its tokenizer has no fast form", where=str(folder), fix="convert it to tokenizer.json")
    bind(tokenizer, chat_template or ChatTemplate())
    return tokenizer


def digest_tokenizer(folder: Path) -> str:
    """Return 20 hex digits over all that turns text into ids; the chat template is not part of it.

    Raises ModelError where a file is not JSON.
    """
    digest = hashlib.sha256()
    for name in _VOCABULARY_FILES:
        if (path := folder / name).is_file():
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (path := folder / name).is_file():
            kept = {key: value for key, value in read_json(path).items() if key not in _NOT_ABOUT_IDS}
            digest.update(name.encode() + b"\0" + json.dumps(kept, sort_keys=True).encode() + b"\0")
    return digest.hexdigest()[:20]


def digest_vocabulary(folder: Path) -> str:
    """Return 20 hex digits over the map from token to id: equal where ids mean the same. Raises ModelError."""
    tokens = load_tokenizer(folder, None).get_vocab()
    return hashlib.sha256(json.dumps(sorted(tokens.items())).encode()).hexdigest()[:20]


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object. Raises ModelError where the file is missing or is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path.name} is missing", where=str(path.parent), fix="give a Hugging Face folder", code="model.not-json"
        ) from None
    except ValueError as error:
        raise ModelError(
            f"not JSON: {error}", where=str(path), fix="get the folder again", code="model.not-json"
        ) from error
    if not isinstance(value, dict):
        raise ModelError("not a JSON object", where=str(path), fix="get the folder again", code="model.not-json")
    return value
