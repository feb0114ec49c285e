"""Look through a store, and mend what can be mended, under the leases of those who make it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from ratchet.errors import DataError, RunError
from ratchet.fsck.kinds import KINDS
from ratchet.fsck.leftovers import leftovers
from ratchet.fsck.part import StorePart
from ratchet.store.layout import Layout
from ratchet.store.lease import holder_of, leased

FINE, MENDED, WRONG = 0, 1, 74
"""Exit status: nothing was wrong; what was wrong is mended; something is wrong still."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A part, and what was done about it: `done` in words, `mended` whether nothing is wrong with it now."""

    part: StorePart
    done: str = ""
    mended: bool = True


def fsck(root: Path, *, dry_run: bool, say: Callable[[Outcome], None]) -> int:
    """Look at every part of the store below `root`; return the exit status. `say` gets each part, as it is known.

    With `dry_run` nothing is changed. What a living process holds the lease of is left alone, and reported. Raises
    DataError where there is no store.
    """
    layout = Layout(root)
    if not layout.store.is_dir():
        raise DataError("there is no store here", where=str(root), fix="name the folder of cluster.storage, or a plan")
    status = FINE
    for part in _parts(layout):
        outcome = _mended(part, dry_run=dry_run) if part.wrong else Outcome(part)
        say(outcome)
        if part.wrong:
            status = max(status, MENDED if outcome.mended else WRONG)
    return status


def _parts(layout: Layout) -> Iterator[StorePart]:
    for kind in KINDS.values():
        for path in sorted(layout.root.glob(kind.pattern)):
            if not path.name.startswith("."):
                yield from kind.look(path, layout)
    yield from leftovers(layout)


def _mended(part: StorePart, *, dry_run: bool) -> Outcome:
    holder = None if part.lease is None else holder_of(part.lease)
    if holder is not None:
        return Outcome(part, f"left alone: {holder} is at it", mended=False)
    if part.mend is None or dry_run:
        return Outcome(part, "left as it is (dry run)" if part.mend else "", mended=False)
    guard: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if part.lease is not None:
        guard = leased(part.lease, what=str(part.path), refuse="call fsck again once it has ended")
    try:
        with guard:
            return Outcome(part, part.mend())
    except FileNotFoundError:
        return Outcome(part, "it is gone: another process mended it")
    except RunError as error:
        return Outcome(part, f"left alone: {error.what}", mended=False)
