"""Versions with known holes. Each row: identifier, package, first version without it, what it lets happen.

Sources are the advisories themselves: `https://www.cve.org/CVERecord?id=<CVE>`, `https://github.com/advisories/<GHSA>`.
The table is no full list and is as of November 2026: it holds what a run of Ratchet comes to meet. CVE-2023-48022
(anyone who reaches a Ray without authentication runs code on it) has no version that mends it, and is what the checks
`authentication` and `dashboard` are about.
"""

from __future__ import annotations

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Advisory:
    """A hole. `fixed_in` is the first version without it."""

    id: str
    package: str
    fixed_in: str
    what: str


ADVISORIES = (
    Advisory("CVE-2025-62593", "ray", "2.52.0", "a page in a browser beside it runs code through the dashboard"),
    Advisory("CVE-2026-27482", "ray", "2.54.0", "a page in a browser deletes jobs and applications"),
    Advisory("CVE-2025-32434", "torch", "2.6.0", "torch.load runs code of a file even with weights_only"),
    Advisory("GHSA-63cw-57p8-fm3p", "torch", "2.10.0", "torch.load with weights_only corrupts memory"),
    Advisory("CVE-2026-5241", "transformers", "5.3.0", "a model's config.json runs code without trust_remote_code"),
    Advisory("CVE-2026-4372", "transformers", "5.3.0", "a model's config.json runs code without trust_remote_code"),
)


def holes(package: str, version: str) -> list[Advisory]:
    """Return the known holes of a package's version."""
    return [one for one in ADVISORIES if one.package == package and _numbers(version) < _numbers(one.fixed_in)]


def _numbers(version: str) -> tuple[tuple[int, ...], bool]:
    """Return a version as something that sorts: its numbers, and whether it is the release and not before it."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else [0]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    before = re.match(r"\.?(?:a|b|rc|dev)", version[found.end() :] if found else "")
    return tuple(numbers), before is None
