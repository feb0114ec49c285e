"""One process at a time on a run folder, on one machine or on many that share it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ratchet.store.lease import Lease, Wait, leased

NAME = "lease"


@contextlib.contextmanager
def hold(folder: Path, say: Callable[[str], None] = lambda line: None) -> Iterator[Lease]:
    """Hold `folder` for this process. `Lease.check` says, before something is recorded, whether it still does.

    Whoever held it and is lost is displaced: on this machine at once, on another one when its lease was seen
    to lapse, which `say` reports. Raises RunError naming the holder where that one is alive.
    """
    fix = "wait for it, stop it, or give this plan another name"
    with leased(folder / NAME, what=f"{folder.name} in {folder.parent}", wait=Wait(say), refuse=fix) as lease:
        yield lease
