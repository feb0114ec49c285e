"""Work in a process that something kills."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def run_killed(work: Callable[[], Any]) -> int:
    """Run `work` in a forked process; return the signal that ended it, 0 where none did."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
