"""Look through a store, and mend what can be mended, under the leases of those who make it.

Leftovers are what killed processes were writing: files and folders aside, which were never renamed to what they should
become.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ratchet.errors import DataError, RunError
from ratchet.fsck.kinds import KINDS, StorePart
from ratchet.store.layout import Layout
from ratchet.store.lease import holder_of, leased

_ASIDE = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8,32}|\.(?P<ray>ray-.+)")
_LEASES = {"pairs": "pairs", "tokens": "tokens", "models": "models", "logps": "logps", "steps": "step"}
_JOURNALS = {"answers", "judgments"}
_LONG_AGO = 3600.0
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
        raise DataError(
            "there is no store here",
            where=str(root),
            fix="name the folder of cluster.storage, or a plan",
            code="data.no-store",
        )
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


def leftovers(layout: Layout) -> Iterator[StorePart]:
    """Yield what was being written, with the lease of the process that may still write it."""
    for top in (layout.store, layout.run("x").parent, layout.root / "sweeps", layout.root / "evaluations"):
        for path in _hidden(top):
            lease = _lease(path, layout)
            # Where no lease tells who writes it, only its age tells that nobody does.
            if lease is not None or time.time() - _newest(path) > _LONG_AGO:
                yield StorePart(path, "leftover", "it was never finished", lease, lambda one=path: _remove(one))  # type: ignore[misc]


def _hidden(top: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(top):
        if Path(parent).name in {"leases", "lease"}:
            folders.clear()
            continue
        found = [name for name in (*folders, *files) if _ASIDE.fullmatch(name)]
        # What was being written goes as a whole, so nothing in it is looked at.
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent) / name for name in sorted(found))


def _lease(path: Path, layout: Layout) -> Path | None:
    """Return the lease of the process that writes `path`; None where none is known."""
    parts = path.relative_to(layout.root).parts
    match = _ASIDE.fullmatch(path.name)
    aside = match["name"] if match else None
    if parts[0] == "runs" and len(parts) > 2:
        return layout.root / parts[0] / parts[1] / "lease"
    if parts[0] == "sweeps" and len(parts) > 2:
        return layout.lease(f"sweep-{parts[1]}")
    if parts[0] != "store":
        return None
    name = parts[2] if len(parts) > 3 else aside
    if parts[1] in _LEASES and name:
        return layout.lease(f"{_LEASES[parts[1]]}-{name}")
    if parts[1] in _JOURNALS and name:
        return layout.lease(f"{parts[1]}-{Path(name).stem}")
    return None


def _newest(path: Path) -> float:
    return max(one.stat().st_mtime for one in (path, *path.rglob("*")))


def _remove(path: Path) -> str:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return "removed"
