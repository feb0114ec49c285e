"""One part of a store, as one look found it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

State = Literal["ok", "damaged", "unfinished", "leftover", "put aside"]
"""`unfinished`: a run that is called again goes on with it. `leftover`: what a killed process was writing, which
is never read. `put aside`: it was damaged and was made again since; delete it once you have looked at it."""


@dataclasses.dataclass(frozen=True)
class StorePart:
    """A folder or file of a store. `what` says what is wrong with it.

    `mend` removes it or puts it aside, and returns in words what it did. It is None where nothing is to be done, or
    nothing can be. `lease` is that of the process that makes the part: it must be held while `mend` works. Without one,
    only what was not written to for an hour is a leftover.
    """

    path: Path
    state: State
    what: str = ""
    lease: Path | None = None
    mend: Callable[[], str] | None = None

    @property
    def wrong(self) -> bool:
        """Whether something is to be done about it."""
        return self.state in {"damaged", "leftover"}
