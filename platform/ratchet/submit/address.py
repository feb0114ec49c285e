"""Which cluster a job goes to, and whether its token would cross an open network in the clear."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from ratchet.errors import PlanError
from ratchet.serving.address import is_public

_FIX = "give the dashboard's, such as --address http://127.0.0.1:8265, or set RAY_API_SERVER_ADDRESS"


def find_address(given: str | None, environment: Mapping[str, str]) -> str:
    """Return the URL of a cluster's dashboard: as given, of RAY_API_SERVER_ADDRESS, or of RAY_ADDRESS if it is one.

    Raises PlanError where none is given, or it is not such a URL.
    """
    ray_address = environment.get("RAY_ADDRESS", "")
    address = given or environment.get("RAY_API_SERVER_ADDRESS")
    if not address and ray_address.startswith(("http://", "https://")):
        address = ray_address
    if not address:
        raise PlanError("no cluster is named", where="--address", fix=_FIX)
    address = address if "://" in address else f"http://{address}"
    if "@" in address:
        raise PlanError("the URL has a name or a password in it", where="--address", fix="use RAY_AUTH_TOKEN_PATH")
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise PlanError(f"not a URL: {error}", where="--address", fix=_FIX) from None
    if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
        raise PlanError(f"not the URL of a dashboard: {address}", where="--address", fix=_FIX)
    return address.rstrip("/")


def is_in_the_open(address: str) -> bool:
    """Tell whether what is sent to `address` can be read on its way: plain http, to a host of the open internet."""
    parts = urlsplit(address)
    if parts.scheme == "https" or parts.hostname is None:
        return False
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except OSError:  # a host that is not found is sent nothing
        return False
    return any(is_public(str(entry[4][0]).partition("%")[0]) for entry in found)
