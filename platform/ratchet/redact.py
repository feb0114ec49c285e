"""Secrets stay out of what leaves this process: errors, lines for people, records, journals, pages.

Two kinds are found. Values: those of environment variables that hold secrets, and those in the files where Ray, the
hub, wandb, curl (netrc), git and AWS keep theirs; wherever text of ours holds one it is replaced, also as a URL, JSON
or HTTP's basic authentication spells it. And shapes: keys of known form, `Bearer …`, a name and password in a URL;
those only in words for people, since data may speak of them. Model weights, data sets, pairs and tokens are never
touched.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote

MASK = "***"
SHORTEST = 8
"""Characters below which a value is no secret to look for: it would be found in ordinary words."""
_LONG = 20
"""Characters from which on a value of letters alone is looked for too."""

_WORDS = {"AUTH", "AUTHORIZATION", "BEARER", "CREDENTIAL", "CREDENTIALS", "KEY", "KEYS", "PASSPHRASE", "SECRETS"}
_ENDINGS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "APIKEY")
_NO_SECRET = {"PATH", "FILE", "DIR", "URL", "NAME", "ID", "MODE", "SOCK", "VARIABLE"}
"""Last words of variables that say where a secret is, or how it is used, and do not hold one."""
_SHAPES = (
    ("a bearer token", r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{16,}", rf"\1 {MASK}"),
    ("a URL with a name or password", r"(?<=://)[^/\s@'\"]+@", f"{MASK}@"),
    ("a token of Hugging Face", r"(?<![\w-])hf_[A-Za-z0-9]{16,}", MASK),
    ("a key of an API", r"(?<![\w-])(?:sk|pk)-[\w-]{16,}", MASK),
    ("a token of Slack", r"(?<![\w-])xox[abprs]-[\w-]{10,}", MASK),
    ("a token of GitHub", r"(?<![\w-])(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{30,})", MASK),
    ("a key of AWS", r"(?<![\w-])(?:AKIA|ASIA)[A-Z0-9]{16}(?!\w)", MASK),
    ("a JSON web token", r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w.-]{8,}", MASK),
    ("a private key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?", MASK),
)
"""What it is, its shape, and what stands in its place."""
_COMPILED = tuple((what, re.compile(shape), instead) for what, shape, instead in _SHAPES)
_WHOLE = (
    *("~/.ray/auth_token", "$RAY_AUTH_TOKEN_PATH", "~/.cache/huggingface/token", "~/.huggingface/token"),
    *("$XDG_CACHE_HOME/huggingface/token", "$HF_HOME/token", "$HF_TOKEN_PATH", "$WANDB_IDENTITY_TOKEN_FILE"),
)
"""Files whose whole content is a secret; variables in them are expanded, and a file of an unset one is none."""
_NAMED = (
    *("~/.netrc", "~/_netrc", "$NETRC", "~/.git-credentials", "~/.aws/credentials", "$AWS_SHARED_CREDENTIALS_FILE"),
    *("~/.config/wandb/settings", "~/.config/wandb/credentials.json", "$WANDB_CONFIG_DIR/settings", "wandb/settings"),
    *("$WANDB_CREDENTIALS_FILE", "~/.cache/huggingface/stored_tokens", "$XDG_CACHE_HOME/huggingface/stored_tokens"),
    "$HF_HOME/stored_tokens",
)
"""Files that hold secrets by name, as netrc, INI and JSON do (`password K`, `api_key = K`, `"token": "K"`), or URLs."""
_BY_NAME = re.compile(
    r"""(?ix) ["']? \b ([\w.-]* (?:token|secret|password|passwd|key|account)) ["']? (?: \s*[=:]\s* | \s+ )
    (?: "([^"\n]+)" | '([^'\n]+)' | ([^\s"',]+) )"""
)
_IN_URL = re.compile(r"(?m)://[^:/@\s]*:([^@\s]+)@")
_LARGEST_FILE = 1 << 16
_named: set[str] = set()
_contents: dict[Path, str] = {}


def keep_secret(variable: str) -> None:
    """Count the value of an environment variable, such as a suite's `key_variable`, as a secret from now on."""
    _named.add(variable)


def looks_secret(variable: str) -> bool:
    """Tell whether an environment variable of this name holds a secret, as far as a name can tell."""
    parts = re.split(r"[^A-Z0-9]+", variable.upper())
    secret = any(part in _WORDS or part.endswith(_ENDINGS) for part in parts)
    return variable in _named or (secret and parts[-1] not in _NO_SECRET)


def values(text: str) -> str:
    """Return `text` without the values of secrets. Nothing else changes, so records and journals may pass."""
    return _masked(text, spellings(_secrets()))


def _masked(text: str, known: Iterable[str]) -> str:
    for spelling in known:
        if spelling in text:
            text = text.replace(spelling, MASK)
    return text


def words(text: str) -> str:
    """Return a text for people without secrets, by value and by shape."""
    text = values(text)
    for _, shape, instead in _COMPILED:
        text = shape.sub(instead, text)
    return text


def shapes_in(text: str) -> list[str]:
    """Return what is in `text` in the shape of a secret, such as `a key of AWS`."""
    return [what for what, shape, _ in _COMPILED if shape.search(text)]


def tree(value: Any) -> Any:
    """Return what is to become JSON without the values of secrets: in all texts, and in the keys of mappings."""
    return _masked_tree(value, spellings(_secrets()))


def _masked_tree(value: Any, known: Iterable[str]) -> Any:
    if isinstance(value, str):
        return _masked(value, known)
    if isinstance(value, Mapping):
        return {_masked_tree(key, known): _masked_tree(item, known) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked_tree(item, known) for item in value]
    return value


def guard_process() -> None:
    """Take secrets out of tracebacks of this process, and out of what it logs by `logging`."""
    sys.excepthook = _excepthook
    logging.setLogRecordFactory(_LogRecord)


class _LogRecord(logging.LogRecord):
    """A record whose message and traceback have no secrets, whichever handler writes it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0] is not None:
            # A formatter takes this text where it is set, and makes none of its own.
            self.exc_text = words("".join(traceback.format_exception(*self.exc_info))).rstrip()

    def getMessage(self) -> str:
        return words(super().getMessage())


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(words("".join(traceback.format_exception(kind, error, trace))))


def in_files() -> dict[str, list[str]]:
    """Return the secrets in the files where the tools that Ratchet works with keep theirs, by the path of the file."""
    found: dict[str, list[str]] = {}
    for names, read in ((_WHOLE, lambda text: [text.strip()]), (_NAMED, _by_name)):
        for path in dict.fromkeys(map(_place, names)):
            if path is not None and (text := _content(path)):
                found.setdefault(str(path), []).extend(read(text))
    return found


def _by_name(text: str) -> list[str]:
    named = [next(filter(None, match.groups()[1:])) for match in _BY_NAME.finditer(text)]
    return [*named, *(unquote(match[1]) for match in _IN_URL.finditer(text))]


def _place(name: str) -> Path | None:
    """Return a file by its name with `~` and variables; None where there is no home or no such variable."""
    path = os.path.expandvars(name)
    try:
        return None if path.startswith("$") else Path(path).expanduser()
    except RuntimeError:
        return None


def _secrets() -> frozenset[str]:
    found = {value.strip() for name, value in os.environ.items() if looks_secret(name)}
    found |= {value for values_of in in_files().values() for value in values_of}
    return frozenset(filter(_can_be_told, found))


def _content(path: Path) -> str:
    """Return what a file of secrets holds; empty where it cannot be read yet."""
    # Kept, as every text that leaves asks again.
    if path not in _contents:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path.stat().st_size <= _LARGEST_FILE:
                _contents[path] = path.read_text(encoding="utf-8")
    return _contents.get(path, "")


@functools.lru_cache(maxsize=4)
def spellings(secrets: frozenset[str]) -> tuple[str, ...]:
    """Return each secret as texts may spell it, the longest first: one may be a part of another."""
    found = set(secrets)
    for secret in secrets:
        found |= {quote(secret, safe=""), json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
        # In basic authentication a name and a colon stand before it: wandb's name is `api`, others send none.
        found |= {base64.b64encode(prefix + secret.encode()).decode() for prefix in (b"", b"api:", b":")}
    return tuple(sorted(found, key=lambda spelling: (-len(spelling), spelling)))


def _can_be_told(value: str) -> bool:
    """Whether a value is looked for. Plain words and plain numbers are not, though a variable that is named as secrets
    are may hold one: they stand in records that must be read again as they were.
    """
    plain = value.replace(".", "").replace("-", "")
    word = len(value) < _LONG and re.fullmatch(r"[A-Za-z_-]+", value)
    return len(value) >= SHORTEST and not word and not plain.isdigit()
