"""Where an endpoint's URL may lead: to public addresses, and elsewhere only by leave.

Another person's plan must not make this machine talk to what only it can reach: services of
its own, of its network, or the metadata server of its cloud.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from urllib.parse import urlsplit

from ratchet.errors import PlanError

_log = logging.getLogger(__name__)

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Addresses that look public and that a cloud answers itself, to its own machines: Azure's WireServer, Oracle's metadata
# (in the IETF's block for protocols), IBM's services, Equinix' metadata. Others' are link-local, private or shared.
_OF_CLOUDS = tuple(
    map(ipaddress.IPv4Network, ("168.63.129.16/32", "192.0.0.0/24", "161.26.0.0/16", "166.8.0.0/14", "192.80.8.124/32"))
)


_BASE_URL = "give it as https://host/v1, the part before /chat/completions"
_KEY = "put the key into an environment variable and name that as key_variable"


def check_url(url: str, where: str = "base_url", fix: str = _BASE_URL, *, instead: str = _KEY) -> None:
    """Raise PlanError where `url`, which stands at `where`, is not the http or https URL of a server without secrets.

    `fix` is the remedy, and `instead` that where a name or a password is in it.
    """
    if "@" in url:  # no part of it is shown
        raise PlanError("the URL has a name or a password in it", where=where, fix=instead)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise PlanError(f"not a URL: {error}", where=where, fix=fix) from None
    if parts.scheme not in {"http", "https"} or not host or url.split() != [url]:
        raise PlanError(f"not an http or https URL: {url!r}", where=where, fix=fix)
    if parts.query or parts.fragment:
        raise PlanError("the URL has a query or a fragment", where=where, fix=fix)


def addresses_of(host: str) -> list[str]:
    """Return the IP addresses of a host; none where it is not found."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]).partition("%")[0] for entry in found]


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine and cannot be reached from another."""
    found = addresses_of(host)
    return bool(found) and all(ipaddress.ip_address(address).is_loopback for address in found)


def is_in_the_open(url: str) -> bool:
    """Tell whether what is sent to `url` can be read on its way: plain http, to a host of the open internet."""
    parts = urlsplit(url)
    return parts.scheme != "https" and any(map(is_public, addresses_of(parts.hostname or "")))


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the open internet; IPv4 inside IPv6 is judged as IPv4."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    elif any(ip in block for block in _OF_CLOUDS):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def checked_addresses(host: str, port: int, *, allow_private: bool) -> list[str]:
    """Return the addresses of `host`, each of them checked.

    Raises PlanError where one is not public and `allow_private` is not set, or where `host` is no
    name at all; OSError where it cannot be resolved now.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise PlanError(f"not the name of a host: {error}", where=host, fix="check base_url") from None
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    inside = [] if allow_private else [address for address in addresses if not is_public(address)]
    if inside:
        _log.warning("not asked: %s leads to %s, which is not of the open internet", host, inside[0])
        raise PlanError(
            f"leads to {inside[0]}, which is not an address of the open internet",
            where=host,
            fix="if that server is yours, set allow_private: true",
            code="plan.private-address",
        )
    return addresses
