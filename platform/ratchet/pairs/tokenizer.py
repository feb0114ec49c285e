"""Tokenizers and chat templates: loaded from a model folder, and distinguished by what they do."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from ratchet.errors import ModelError
from ratchet.pairs.chat import ChatTemplate, bind
from ratchet.pairs.lean import tokenizer_base, tokenizer_class

_WHOLE = "tokenizer.json"
_VOCABULARY_FILES = (
    *(_WHOLE, "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"),
    *("tekken.json", "tiktoken.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt"),
)
"""What turns text into ids; a folder has some of them."""
_OF_PROCESSOR = "chat_template.json"
"""Where processors of models that see had their chat template, before tokenizers had one of their own."""
_TEKKEN = {"bos_token": "<s>", "eos_token": "</s>"}
"""What tekken.json, which names no such tokens, means by its format."""
# These change with the place of the folder or the version that saved it, and turn no text into other ids.
_NOT_ABOUT_IDS = {"chat_template", "name_or_path", "processor_class", "tokenizer_file", "transformers_version"}


def load_tokenizer(folder: Path, chat_template: ChatTemplate | None) -> Any:
    """Return the fast tokenizer of a model folder, which renders conversations as `chat_template` says, or by default.

    Code that comes with a tokenizer is never run, whatever is trusted; a whole tokenizer.json beside it is read without
    it. Raises ModelError where the folder has none that can be used.
    """
    settings = folder / "tokenizer_config.json"
    own_code = settings.is_file() and bool(read_json(settings).get("auto_map"))
    _check_readable(folder, own_code=own_code)
    try:
        # The class that its code takes the place of may have other ids; the plain one reads what stands in the file.
        reader = tokenizer_base() if own_code else tokenizer_class()
        tokenizer = reader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        raise ModelError(
            f"no tokenizer can be loaded: {str(error).strip().splitlines()[0]}",
            where=str(folder),
            fix="the folder needs tokenizer.json and tokenizer_config.json",
            code="model.no-tokenizer",
        ) from error
    if not tokenizer.is_fast:
        raise ModelError("its tokenizer has no fast form", where=str(folder), fix="convert it to tokenizer.json")
    if (folder / "tekken.json").is_file() and not (folder / _WHOLE).is_file():
        for key, token in _TEKKEN.items():
            if getattr(tokenizer, key) is None and token in tokenizer.get_vocab():
                setattr(tokenizer, key, token)
    if not tokenizer.chat_template and (folder / _OF_PROCESSOR).is_file():
        tokenizer.chat_template = read_json(folder / _OF_PROCESSOR).get("chat_template")
    bind(tokenizer, chat_template or ChatTemplate())
    return tokenizer


def _check_readable(folder: Path, *, own_code: bool) -> None:
    """Raise ModelError where a folder has no tokenizer.json and what it has instead cannot be read here."""
    if (folder / _WHOLE).is_file():
        return
    ranks = [path.name for path in folder.glob("*") if _is_tiktoken(path)]
    if own_code:
        reads = f", which reads {ranks[0]}" if ranks else ""
        raise ModelError(
            f"its tokenizer is code of its own (auto_map){reads}, which is not run",
            where=str(folder / "tokenizer_config.json"),
            fix="convert it to tokenizer.json, and put that beside it",
            code="model.code",
        )
    pieces = next((path.name for path in folder.glob("*.model") if path.name not in ranks), None)
    for library, file in (("tiktoken", ranks[0] if ranks else None), ("sentencepiece", pieces)):
        if file is not None and importlib.util.find_spec(library) is None:
            raise ModelError(
                f"its tokenizer is {file} alone, which {library} reads, and {library} is not installed",
                where=str(folder),
                fix=f"pip install {library}, or write tokenizer.json beside it once where that is installed",
                code="model.no-tokenizer",
            )


def _is_tiktoken(path: Path) -> bool:
    """Whether a file has tiktoken's form, whatever its name: lines of a token in base64 and its rank."""
    if path.suffix not in {".model", ".tiktoken"} or not path.is_file():
        return False
    with path.open("rb") as stream:
        return re.fullmatch(rb"[A-Za-z0-9+/]+=* \d+\r?\n?", stream.readline(256)) is not None


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
