"""An engine behind a URL: a vLLM server, another vendor's, or anything else that speaks OpenAI's protocol."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Sequence

from ratchet import redact
from ratchet.errors import EndpointError, PlanError, RatchetError
from ratchet.serving.address import check_url
from ratchet.serving.connection import Connection
from ratchet.serving.journal import Journal
from ratchet.serving.requests import Answer, Request, answer_key
from ratchet.serving.retry import LONGEST_SECONDS, REAL_PACE, RequestPace, Trouble, asked_seconds, wait_seconds
from ratchet.serving.wire import check_status, compose, read_answer

_SHOWN = 400
_ALONE = 10  # failures of single requests, and not one answer: it is the server that fails
# How often `look` is called while nothing comes.
_LOOK_SECONDS = 1.0
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EndpointSettings:
    """Where an endpoint is and how it is asked.

    `base_url` is what stands before `/chat/completions`, mostly ending in `/v1`. `key_variable`
    names the environment variable that holds the key; the key itself is in no plan. `concurrency`
    is the number of requests under way at once, and `max_attempts` how often one is asked before
    that is an error. `budget` limits what one Endpoint sends, attempts that failed included; answers
    in the journal cost nothing. `allow_private` lets the URL lead to addresses that are not of the
    open internet. Raises PlanError where a value cannot be.
    """

    base_url: str
    model: str
    key_variable: str | None = None
    concurrency: int = 8
    timeout_seconds: float = 300.0
    max_attempts: int = 6
    budget: int | None = None
    allow_private: bool = False

    def __post_init__(self) -> None:
        check_url(self.base_url)
        for name in ("concurrency", "timeout_seconds", "max_attempts", "budget"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise PlanError(f"must be above 0, not {value}", where=name)
        if self.key_variable is not None and not _NAME.fullmatch(self.key_variable):
            raise PlanError(
                "not the name of an environment variable",  # not shown: it may be the key itself
                where="key_variable",
                fix="give the name of the variable that holds the key, such as OPENAI_API_KEY",
            )


@dataclasses.dataclass
class _Round:
    """One call of `answer` or `attempt`: what waits to be asked, and how it stands."""

    keys: frozenset[str]
    waiting: collections.deque[Request]
    failed: dict[str, RatchetError] | None  # requests that failed alone; None where the first failure ends the round
    failure: RatchetError | None = None
    resting: set[asyncio.Future[None]] = dataclasses.field(default_factory=set)


class _AloneError(EndpointError):
    """One request gets no answer; others may."""


class Endpoint:
    """Asks a server, and journals every answer before it counts.

    `look` is called before every attempt, and while it waits for one: what it raises ends the round as an error would.
    Raises PlanError where the key's environment variable is empty, or holds what no header can.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        journal: Journal,
        pace: RequestPace = REAL_PACE,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.sent = 0
        self._look = look
        self._journal = journal
        self._pace = pace
        self._key = _read_key(settings.key_variable)

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer for each request, in their order; those in the journal are not asked for.

        At the first error no new request is sent, those under way are finished and journalled, and
        the error is raised: EndpointError, PlanError where the URL leads to a private address, or
        StorageError. Interrupted, it leaves the journal whole. Not to be called from a coroutine.
        """
        return [self._journal.find(key) for key in self._fill(requests, None)]

    def attempt(self, requests: Sequence[Request]) -> list[Answer | RatchetError]:
        """Return an answer for each request, in their order, or the error of one that gets none.

        A request that the server refuses (400), fails at (5xx), does not finish in time, or answers with what
        is no answer ends nothing but itself, after the attempts that it has. What would meet every other
        request too is raised as by `answer`: a refused key, an unknown model, a redirect, a limit on requests
        that does not pass, a server that cannot be reached, a private address, a budget used up, a full disk;
        and ten failures where not one request got an answer. Asked again, it goes on from the journal.
        """
        failed: dict[str, RatchetError] = {}
        keys = self._fill(requests, failed)
        return [failed[key] if key in failed else self._journal.find(key) for key in keys]

    def _fill(self, requests: Sequence[Request], failed: dict[str, RatchetError] | None) -> list[str]:
        """Ask for what the journal lacks, and return the keys of all requests."""
        keys = [answer_key(self.settings.model, request) for request in requests]
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._journal}
        if missing:
            asyncio.run(self._ask_all(_Round(frozenset(keys), collections.deque(missing.values()), failed)))
        return keys

    async def _ask_all(self, this: _Round) -> None:
        settings = self.settings
        connection = Connection(
            settings.base_url,
            key=self._key,
            timeout_seconds=settings.timeout_seconds,
            concurrency=settings.concurrency,
            allow_private=settings.allow_private,
        )
        async with connection, asyncio.TaskGroup() as group:
            for _ in range(min(settings.concurrency, len(this.waiting))):
                group.create_task(self._work(connection, this))
        if this.failure is not None:
            raise self._with_progress(this.failure, this.keys)

    async def _work(self, connection: Connection, this: _Round) -> None:
        while this.waiting and this.failure is None:
            request = this.waiting.popleft()
            try:
                answer = await self._ask(connection, request, this)
                if answer is not None:
                    self._journal.append(self.settings.model, request, answer)
            except RatchetError as error:
                if self._goes_on(error, request, this):
                    continue
                if this.failure is None:
                    this.failure = error
                for nap in this.resting:
                    nap.cancel()  # it waits for an attempt that is not made any more

    def _goes_on(self, error: RatchetError, request: Request, this: _Round) -> bool:
        """Note an error that concerns its request alone; False where the round ends with it."""
        if this.failed is None or not isinstance(error, _AloneError):
            return False
        this.failed[answer_key(self.settings.model, request)] = error
        return len(this.failed) < _ALONE or any(key in self._journal for key in this.keys)

    async def _ask(self, connection: Connection, request: Request, this: _Round) -> Answer | None:
        """Return the answer, or None where another request's error ended the round first."""
        path, fields = compose(self.settings.model, request)
        attempt = 0
        while this.failure is None:
            attempt += 1
            self._look()
            self._spend()
            try:
                reply = await connection.post(path, fields)
                check_status(reply, request, model=self.settings.model, key_variable=self.settings.key_variable)
                return read_answer(request, reply.body)
            except Trouble as caught:
                trouble = caught
            await self._rest(attempt, trouble, path, this)
        return None

    def _spend(self) -> None:
        if self.settings.budget is not None and self.sent >= self.settings.budget:
            raise EndpointError(
                f"the budget of {self.settings.budget} requests is used up",
                where=self.settings.base_url,
                fix="raise the budget, or run again for as many once more",
                code="endpoint.budget",
            )
        self.sent += 1

    async def _rest(self, attempt: int, trouble: Trouble, path: str, this: _Round) -> None:
        """Wait until the next attempt. Raises EndpointError after the last one."""
        what, fix = self._for_people(trouble.what), trouble.fix
        where = self.settings.base_url.rstrip("/") + path
        asked = asked_seconds(trouble.retry_after, self._pace.now())
        kind = EndpointError if trouble.shared or asked > LONGEST_SECONDS else _AloneError
        if not trouble.again:
            raise kind(what, where=where, fix=fix, code=trouble.code)
        if attempt >= self.settings.max_attempts:
            raise kind(f"{what} (attempt {attempt}, the last)", where=where, fix=fix, code=trouble.code)
        if asked > LONGEST_SECONDS:
            raise kind(f"{what} (and not to come back before {asked:,.0f} s)", where=where, fix=fix, code=trouble.code)
        if this.failure is not None:
            return
        seconds = wait_seconds(attempt, trouble.retry_after, self._pace)
        _log.info("%s: attempt %d: %s; again in %.1f s", where, attempt, what, seconds)
        nap = asyncio.ensure_future(self._pace.sleep(seconds))
        this.resting.add(nap)
        try:
            while not nap.done():
                self._look()
                await asyncio.wait({nap}, timeout=_LOOK_SECONDS)
        finally:
            nap.cancel()
            this.resting.discard(nap)

    def _for_people(self, text: str) -> str:
        """Return the head of a foreign text as one line, without the key even where the server sent it."""
        line = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
        if self._key:
            line = line.replace(self._key, "***")
        return line if len(line) <= _SHOWN else line[:_SHOWN] + "…"

    def _with_progress(self, error: RatchetError, keys: frozenset[str]) -> RatchetError:
        if not isinstance(error, EndpointError):
            return error
        answered = sum(key in self._journal for key in keys)
        kept = f"{answered} of {len(keys)} requests are answered, and kept in {self._journal.path}"
        return EndpointError(error.what, where=error.where, fix=f"{error.fix}\n  {kept}", code=error.finer)


def _read_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    redact.keep_secret(variable)
    key = os.environ.get(variable, "").strip()
    if not key:
        raise PlanError(
            f"the environment variable {variable} is not set",
            where="key_variable",
            fix=f"put the endpoint's key into it: export {variable}=…",
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise PlanError(
            f"the environment variable {variable} holds no key: it has blanks or signs that a header cannot have",
            where="key_variable",
            fix="set it to the key alone",
        )
    return key
