"""What every part of a plan shares."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,46}$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""Names become folders and Kubernetes objects: lower case, digits and hyphens."""

Share = Annotated[float, Field(gt=0, le=1)]
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
        names, got = ", ".join(keys), ", ".join(given) or "none"
        raise wrong(given[1] if given else "", f"give exactly one of {names}; got {got}", *keys)


def wrong(key: str, what: str, *others: str) -> PydanticCustomError:
    """Return the error of a validator that looks at several keys: `key` is to blame, `others` it also read."""
    template = "{key}: {what}" if key else "{what}"
    return PydanticCustomError("wrong", template, {"key": key, "what": what, "about": [key, *others]})
