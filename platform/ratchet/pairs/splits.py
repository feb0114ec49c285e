"""One split or configuration of several: the one that a plan names, or the one that is meant where it names none."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ratchet.errors import DataError

TRAIN = "train"


def choose_split(names: Sequence[str], asked: str | None, where: str, key: str) -> str:
    """Return `asked`, or the only one of `names`, or `train` where no one is asked for; `key` is the plan's.

    Raises DataError with the names where that is not clear, so that no two are ever mixed in silence.
    """
    known = ", ".join(names)
    if asked is not None:
        if asked in names:
            return asked
        near = difflib.get_close_matches(asked, names, 1)
        meant = f": did you mean {near[0]}?" if near else ""
        raise DataError(
            f"there is no {key} {asked}{meant}", where=where, fix=f"give one of: {known}", code="data.split"
        )
    usual = TRAIN if key == "split" else "default"
    if len(names) == 1 or usual in names:
        return names[0] if len(names) == 1 else usual
    # The example should be right for most: no one trains on a test split.
    likely = sorted(names, key=lambda name: (not name.startswith(TRAIN), "test" in name))
    raise DataError(
        f"there are several, and none is called {usual}: {known}",
        where=where,
        fix=f"name one, for example `{key}: {likely[0]}`",
        code="data.split",
    )
