"""A bar for work that is counted in this process."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def counted(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield `show(done, total)`, which moves a bar on standard error with its rate and time left.

    Where standard error is no terminal, or `CI` is set, nothing is shown.
    """
    if not sys.stderr.isatty() or os.environ.get("CI"):
        yield lambda done, total: None
        return
    from tqdm import tqdm

    with tqdm(desc=label, unit=f" {unit}", leave=False, dynamic_ncols=True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
