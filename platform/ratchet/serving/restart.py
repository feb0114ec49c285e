"""An engine that dies gets one more life, with half as much to do at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from ratchet.errors import EngineDeathError, RatchetError

logger = logging.getLogger(__name__)
T = TypeVar("T")


def with_one_restart(
    action: Callable[[], T], halve: Callable[[], None], failed: Callable[[EngineDeathError], RatchetError]
) -> T:
    """Return what `action` gives; where the engine dies, `halve` and try once more.

    Raises what `failed` makes of a second death, after another `halve`: what the engine held is not
    to be used again.
    """
    try:
        return action()
    except EngineDeathError as error:
        logger.warning("%s; another engine is started, with half as much at a time", error.what)
        halve()
    try:
        return action()
    except EngineDeathError as error:
        halve()
        raise failed(error) from error
