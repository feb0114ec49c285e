"""What a score's note says of its error: that there is none, or what one of 0 leaves open."""

from __future__ import annotations

import math

import numpy as np

from ratchet.reference.store import Floats

_MISSED = 0.05


def joined(*parts: str) -> str:
    """Return the parts of a note that say something, in their order."""
    return "; ".join(part for part in parts if part)


def without_error(error: float | None, what: str) -> str:
    """Return that one `what` tells no error, where there is no error."""
    return f"one {what}: no error" if error is None else ""


def unanimous(values: Floats, draws: int | None = None) -> str:
    """Return what N items, (N,), that are all 0 or all 1 leave open of a share; nothing where they differ.

    Such a share has a standard error of 0 by the formula, and still is no more sure than its items are many: the other
    answer is rarer than 1 − 0.05^(1/n) with 95 % confidence (Clopper and Pearson 1934, one-sided), here in
    per cent and rounded away from certainty. n is `draws` where that is given, else N.
    """
    if not len(values) or not (np.all(values == 0) or np.all(values == 1)):
        return ""
    rare = 100 * -math.expm1(math.log(_MISSED) / (draws or len(values)))
    decimals = max(1, 1 - math.floor(math.log10(rare)))
    rare = math.ceil(rare * 10**decimals - 1e-6) / 10**decimals
    if values[0] == 0:
        return f"0 of {len(values)}: below {rare:.{decimals}f} %"
    return f"all of {len(values)}: above {100 - rare:.{decimals}f} %"
