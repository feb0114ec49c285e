"""What was found out of a cluster, as plain numbers and texts, and the findings that rules make of that.

All sizes are in bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal

Versions = Mapping[str, str]
"""Version by library, as `store.record.versions` gives them."""
Level = Literal["ok", "warning", "problem"]
_ORDER: tuple[Level, ...] = ("problem", "warning", "ok")


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU as `nvidia-smi` reports it."""

    model: str
    memory: int
    driver: str


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a process on a machine sees of it.

    `cuda` is the CUDA version of its torch, `cuda_devices` what torch can use; None and 0 on a machine without.
    `open_files` is the most file handles that a process may have (its hard limit). `free_storage` is None where the
    storage folder could not be made.
    """

    name: str
    versions: Versions
    gpus: tuple[Gpu, ...]
    cuda: str | None
    cuda_devices: int
    shared_memory: int
    open_files: int
    free_storage: int | None
    free_temporary: int


@dataclasses.dataclass(frozen=True)
class Skew:
    """How far a node's clock is from the driver's, in seconds: between `low` and `high`, positive where it is ahead."""

    low: float
    high: float

    @property
    def certain(self) -> float:
        """Seconds that it is off whatever the round trip hides."""
        return max(0.0, self.low, -self.high)


@dataclasses.dataclass(frozen=True)
class Storage:
    """Whether a node and the driver see each other's files below one storage path; `error` is of the node."""

    sees_ours: bool
    ours_sees_it: bool
    error: str = ""


@dataclasses.dataclass(frozen=True)
class NodeFacts:
    """A node of a Ray cluster. `machine` is None where nothing could run on it, for the reason in `error`."""

    name: str
    address: str
    resources: Mapping[str, float]
    metrics_port: int
    machine: Machine | None = None
    skew: Skew | None = None
    storage: Storage | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Dashboard:
    """What a dashboard shows without a token.

    `mode` is its answer to /api/authentication_mode (None: none). `status` is that of /api/jobs/, and `jobs_open` says
    that it listed the jobs: who reads them can send some. `secrets` are (job, variable) of secret-looking variables in
    the jobs' runtime environments, read with our token where it needs one.
    """

    url: str
    reachable: bool
    mode: str | None = None
    status: int = 0
    jobs_open: bool = False
    ray_version: str | None = None
    loopback: bool = False
    secrets: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Finding:
    """`check` is the name of what was looked at, `found` what was there, `do` the remedy: empty where all is well."""

    check: str
    level: Level
    found: str
    do: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, do: str) -> Finding:
    """It works, and could work better or be safer."""
    return Finding(check, "warning", found, do)


def problem(check: str, found: str, do: str) -> Finding:
    """It must not stay like this: it is open to others, or a run would fail or come out wrong."""
    return Finding(check, "problem", found, do)


@dataclasses.dataclass(frozen=True)
class Findings:
    """What `ratchet doctor --json` writes; `level` is the worst of the findings."""

    level: Level
    findings: tuple[Finding, ...]


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level among findings; `ok` for no findings."""
    levels = {one.level for one in findings}
    return next((level for level in _ORDER if level in levels), "ok")


def findings_text(findings: Iterable[Finding]) -> str:
    """Return findings as lines for people."""
    lines = []
    # What asks for something to be done comes last, where it is seen.
    for one in sorted(findings, key=lambda one: -_ORDER.index(one.level)):
        lines.append(f"{one.level:<8} {one.check}: {one.found}")
        lines += [f"         → {one.do}"] if one.do else []
    return "\n".join(lines) + "\n"
