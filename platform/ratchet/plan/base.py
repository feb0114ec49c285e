"""What every part of a plan shares."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

# Kubernetes allows 63 characters in the name of an object, and some are added to a plan's name there.
NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,46}$"
AVERAGE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9-]{0,46}$"
ARGUMENT_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
DAY_PATTERN = r"^\d{4}-\d{2}-\d{2}$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""Names become folders and Kubernetes objects: lower case, digits and hyphens."""

# One slash is enough: `s3:/x` is a slip of a URL too, and a drive, `C:/x`, is none.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_NO_STORES = "object storage and URLs are not supported: give a file or folder that every node sees, or mount it there"
_INSTEAD = {
    "file": "give the path itself, without file://",
    "hf": "a place on the hub: give its name (`name:` for a model); a source takes it as it is",
}
"""What to do in place of a URL, by its scheme; all others are `_NO_STORES`."""

Share = Annotated[float, Field(gt=0, le=100)]
"""How often an epoch sees a source's pairs: 0.5 is half of them, 3 is each of them three times."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy, torch and Python's random all take."""


class Strict(BaseModel):
    """Unknown keys are errors, values do not change, and text is not taken for a number."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def one_of(part: Strict, *keys: str) -> None:
    """Check that a part of a plan gives exactly one of `keys`. Raises the error of `wrong`."""
    given = [key for key in keys if getattr(part, key) is not None]
    if len(given) != 1:
        # The second one given is to blame: with the first alone the plan would be right.
        names, got = ", ".join(keys), ", ".join(given) or "none"
        raise wrong(given[1] if given else "", f"give exactly one of {names}; got {got}", *keys)


def local(part: Strict, *keys: str) -> None:
    """Check that the files and folders of a part of a plan are no URLs. Raises the error of `wrong`.

    Opened as a file, `s3://bucket/x` is a relative folder named `s3:`, and would be lost with this machine.
    """
    for key in keys:
        value = getattr(part, key)
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and (what := url_fault(text)):
                raise wrong(key, what)


def is_url(text: str) -> bool:
    """Say whether a text is a URL: what has a scheme of two letters or more, and two slashes."""
    return _URL.match(text) is not None


def url_or_local(part: Strict, key: str) -> None:
    """Check that a URL among the files of a part of a plan has two slashes. Raises the error of `wrong`."""
    value = getattr(part, key)
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and not is_url(text) and (scheme := _SCHEME.match(text)):
            raise wrong(key, f"{text}: a URL has two slashes, as in {scheme[1]}://…")


def hub_name(part: Strict, key: str, instead: str) -> None:
    """Check that a name on the hub is one, and no path of a folder. Raises the error of `wrong`."""
    name = getattr(part, key)
    if name is not None and not _HUB_NAME.fullmatch(name):
        raise wrong(key, f"{name} is no name on the hub (owner/name): if it is a folder, {instead}")


def url_fault(text: str) -> str | None:
    """Return what is wrong with a URL where a file or folder belongs, or None where `text` is no URL."""
    scheme = _SCHEME.match(text)
    return f"{text}: {_INSTEAD.get(scheme[1].lower(), _NO_STORES)}" if scheme else None


def wrong(key: str, what: str, *others: str) -> PydanticCustomError:
    """Return the error of a validator that looks at several keys: `key` is to blame, `others` it also read."""
    template = "{key}: {what}" if key else "{what}"
    return PydanticCustomError("wrong", template, {"key": key, "what": what, "about": [key, *others]})
