"""What killed processes were writing: files and folders aside, which were never renamed to what they should become."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ratchet.fsck.part import StorePart
from ratchet.store.layout import Layout

_ASIDE = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8,32}|\.(?P<ray>ray-.+)")
_LEASES = {"pairs": "pairs", "tokens": "tokens", "models": "models", "logps": "logps", "steps": "step"}
_JOURNALS = {"answers", "judgments"}
_LONG_AGO = 3600.0


def leftovers(layout: Layout) -> Iterator[StorePart]:
    """Yield what was being written, with the lease of the process that may still write it."""
    for top in (layout.store, layout.run("x").parent, layout.root / "sweeps", layout.root / "evaluations"):
        for path in _hidden(top):
            lease = _lease(path, layout)
            if lease is not None or time.time() - _newest(path) > _LONG_AGO:
                yield StorePart(path, "leftover", "it was never finished", lease, lambda one=path: _remove(one))  # type: ignore[misc]


def _hidden(top: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(top):
        if Path(parent).name in {"leases", "lease"}:
            folders.clear()
            continue
        found = [name for name in (*folders, *files) if _ASIDE.fullmatch(name)]
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
