"""Hosts on this machine: network namespaces, each with one end of a cable (eth0) to a bridge in one of their own.

Names begin with the id of the process that made them, so that the next one finds what was left of one that was killed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

PREFIX = f"rtn{os.getpid()}-"
TEMPORARY = Path("/tmp")  # short: paths of sockets are limited
"""Where folders of hosts lie; their names begin with `PREFIX` too."""
_SWITCH = f"{PREFIX}sw"
_NAMESPACES = Path("/var/run/netns")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of setns(2)
_T = TypeVar("_T")


def why_not() -> str | None:
    """Why there can be no such hosts here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2's `ip`"
    tried = subprocess.run(["ip", "netns", "add", f"{PREFIX}try"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespace can be made here: {tried.stderr.strip()}"
    ip("netns", "del", f"{PREFIX}try")
    return None


def lay_cables(addresses: Mapping[str, str]) -> None:
    """Make hosts, by name and address, and join them."""
    ip("netns", "add", _SWITCH)
    ip("-n", _SWITCH, "link", "add", "br0", "type", "bridge")
    ip("-n", _SWITCH, "link", "set", "br0", "up")
    for host, address in addresses.items():
        space = f"{PREFIX}{host}"
        ip("netns", "add", space)
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", f"v{host}", "netns", _SWITCH)
        ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        ip("-n", _SWITCH, "link", "set", f"v{host}", "master", "br0", "up")


def set_cable(host: str, state: str) -> None:
    """Pull a host's cable (`down`), or put it back (`up`)."""
    ip("-n", _SWITCH, "link", "set", f"v{host}", state)


def pids(host: str) -> list[int]:
    """Processes of a host."""
    return [int(pid) for pid in ip("netns", "pids", f"{PREFIX}{host}").split()]


def on(host: str, command: list[str]) -> list[str]:
    """Return the command that runs another one on a host, as the same process."""
    return ["ip", "netns", "exec", f"{PREFIX}{host}", *command]


def inside(host: str, call: Callable[[], _T]) -> _T:
    """Return what `call` returns on a thread of its own on a host."""
    found: list[_T] = []

    def enter() -> None:
        handle = os.open(_NAMESPACES / f"{PREFIX}{host}", os.O_RDONLY)
        try:
            assert ctypes.CDLL(None, use_errno=True).setns(handle, _NEW_NETWORK) == 0, os.strerror(ctypes.get_errno())
        finally:
            os.close(handle)
        found.append(call())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return found[0]


def remove_left() -> None:
    """Remove what a test session left that was killed itself: processes, namespaces, folders."""
    for line in ip("netns", "list").splitlines():
        if _abandoned(space := line.split()[0]):
            _remove(space)
    for folder in TEMPORARY.glob("rtn*-*"):
        if _abandoned(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _abandoned(name: str) -> bool:
    owner = name.removeprefix("rtn").partition("-")[0]
    return name.startswith("rtn") and owner.isdigit() and not Path(f"/proc/{owner}").exists()


def remove(hosts: Iterable[str]) -> None:
    """Remove hosts and the bridge, with every process on them."""
    for host in (*hosts, "sw"):
        _remove(f"{PREFIX}{host}")


def kill_all(host: str) -> None:
    """SIGKILL to every process of a host."""
    if (_NAMESPACES / f"{PREFIX}{host}").exists():
        _kill_all(f"{PREFIX}{host}")


def _remove(space: str) -> None:
    if (_NAMESPACES / space).exists():
        _kill_all(space)
        ip("netns", "del", space)


def _kill_all(space: str) -> None:
    """SIGKILL until nobody is left: a process may start another meanwhile."""
    while left := ip("netns", "pids", space).split():
        for pid in left:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def ip(*arguments: str) -> str:
    """Run `ip` and return what it says."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout
