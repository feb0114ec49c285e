"""Of a matrix of cases, which are quick proofs of the default tier, and which are run nightly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def nightly(cases: Iterable[Any], quick: Callable[..., bool]) -> list[Any]:
    """Return the cases of a `parametrize`, slow where `quick` says no. A tuple is several arguments."""
    found = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        found.append(pytest.param(*values, marks=() if quick(*values) else pytest.mark.slow))
    return found


def examples(quick: int) -> int:
    """Return how many examples a dear property tries: `quick`, or what `RATCHET_EXAMPLES` says nightly."""
    return int(os.environ.get("RATCHET_EXAMPLES", quick))
