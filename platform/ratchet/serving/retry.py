"""When to ask again: exponential back-off with full jitter, and never before the server's Retry-After."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import email.utils
import random
import re
import time
from collections.abc import Awaitable, Callable

from ratchet.codes import Code

_FIRST_SECONDS = 1.0
_CAP_SECONDS = 60.0
# A server that asks for more than this has no answer for this run.
LONGEST_SECONDS = 600.0


class Trouble(Exception):  # noqa: N818 - one attempt's; it becomes an error where no other attempt is made
    """An attempt failed. `again` says whether the next may do better.

    `code` is that of the error, `retry_after` the server's header of that name, as it came. `shared` is trouble that
    every other request would meet as well: a refused key, a server that is not there.
    """

    def __init__(
        self,
        what: str,
        *,
        fix: str,
        code: Code,
        again: bool = True,
        retry_after: str | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__(what, fix, code, again, retry_after, shared)
        self.what, self.fix, self.code, self.again = what, fix, code, again
        self.retry_after, self.shared = retry_after, shared


@dataclasses.dataclass(frozen=True)
class RequestPace:
    """How time passes. Tests put in their own, and wait for nothing.

    `now` is in seconds since 1970; `draw` gives an even random number between its two arguments.
    """

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], float] = time.time
    draw: Callable[[float, float], float] = random.uniform


REAL_PACE = RequestPace()


def wait_seconds(attempt: int, retry_after: str | None, pace: RequestPace) -> float:
    """Return how long to wait after the failed attempt number `attempt`, from 1.

    A number between 0 and 1 s, 2 s, 4 s, … up to a minute, drawn so that clients that failed together
    do not come back together; what the server asks for is waited before that.
    """
    ceiling = min(_CAP_SECONDS, _FIRST_SECONDS * 2.0 ** min(attempt - 1, 10))
    return asked_seconds(retry_after, pace.now()) + pace.draw(0.0, ceiling)


def asked_seconds(retry_after: str | None, now: float) -> float:
    """Return what `Retry-After` asks for, in seconds from `now`: a number, or a date of HTTP.

    0 where there is no such header, it cannot be read, or its date is past.
    """
    if retry_after is None:
        return 0.0
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text := retry_after.strip()):
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0  # the back-off is a polite wait without it
    if moment.tzinfo is None:  # RFC 9110: a date of HTTP is in UTC
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, moment.timestamp() - now)
