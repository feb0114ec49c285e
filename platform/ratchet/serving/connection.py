"""The door to httpx: the only module that imports it. One POST, to a checked address.

Redirects are not followed and proxies of the environment are not used: both would lead to an
address that was not checked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx

from ratchet.errors import PlanError
from ratchet.serving.address import checked_addresses
from ratchet.serving.retry import Trouble


@dataclasses.dataclass(frozen=True)
class HttpReply:
    """What a server sent back. The two headers are None where it sent none."""

    status: int
    body: bytes
    retry_after: str | None
    location: str | None


class Connection:
    """Connections to one server, for the length of an `async with`.

    `timeout_seconds` is for a whole exchange: a server that sends a byte now and then does not get
    more. Raises PlanError where `base_url` is none.
    """

    def __init__(
        self, base_url: str, *, key: str | None, timeout_seconds: float, concurrency: int, allow_private: bool
    ) -> None:
        try:
            self._url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise PlanError(f"not a URL: {error}", where="base_url", fix="give it as https://host/v1") from None
        self._timeout_seconds = timeout_seconds
        self._client = httpx.AsyncClient(
            transport=_Checked(concurrency, allow_private=allow_private, tls=self._url.scheme == "https"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout_seconds,
            follow_redirects=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Connection:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def post(self, path: str, fields: Mapping[str, Any]) -> HttpReply:
        """Send `fields` as JSON and return the reply, whatever its status.

        Raises Trouble where no whole reply came, and PlanError where the URL leads to an address
        that it must not lead to.
        """
        url = self._url.copy_with(path=self._url.path.rstrip("/") + path)
        # As ASCII: half a surrogate pair in a text has no UTF-8.
        content = json.dumps(fields, allow_nan=False).encode()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._client.post(url, content=content, headers={"Content-Type": "application/json"})
        except (TimeoutError, httpx.TimeoutException):
            raise Trouble(
                f"no answer within {self._timeout_seconds:g} s",
                fix="raise timeout_seconds, or lower concurrency or max_tokens",
                code="endpoint.timeout",
            ) from None
        except (httpx.RequestError, OSError) as error:
            raise Trouble(
                f"cannot be reached: {type(error).__name__}: {error}",
                fix="check base_url, and that the server is up",
                code="endpoint.unreachable",
                shared=isinstance(error, httpx.ConnectError | OSError),
            ) from error
        headers = response.headers
        return HttpReply(response.status_code, response.content, headers.get("Retry-After"), headers.get("Location"))


class _Checked(httpx.AsyncBaseTransport):
    """Resolves a host itself, and connects to an address that was checked.

    A connection that resolved the name again could be led to another address than the one checked.
    """

    def __init__(self, concurrency: int, *, allow_private: bool, tls: bool) -> None:
        # `verify` reads the certificates that are trusted, which takes longer than many an answer:
        # without TLS there is nothing to verify.
        self._inner = httpx.AsyncHTTPTransport(verify=tls, limits=httpx.Limits(max_connections=concurrency))
        self._allow_private = allow_private

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        addresses = await checked_addresses(url.host, port, allow_private=self._allow_private)
        # The certificate is the name's, not the address's; the Host header was made from the name.
        request.extensions = {**request.extensions, "sni_hostname": url.host}
        for address in addresses[:-1]:
            request.url = url.copy_with(host=address)
            try:
                return await self._inner.handle_async_request(request)
            except httpx.ConnectError:  # nothing was sent: the host's next address may do
                continue
        request.url = url.copy_with(host=addresses[-1])
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()
