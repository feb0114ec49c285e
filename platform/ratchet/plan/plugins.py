"""Kinds that other installed packages add, by entry points of the groups `ratchet.losses`, `ratchet.layouts`, ….

An entry point's name is the kind. The package's name and version are in the identity of whatever that kind decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from ratchet.errors import PlanError

Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A kind that a package adds."""

    kind: str
    entry: EntryPoint

    @property
    def package(self) -> str:
        """The package's name; its module where it was installed without one."""
        return self.entry.dist.name if self.entry.dist is not None else self.entry.module

    @property
    def release(self) -> str:
        """The package with its version, as identities and errors have it."""
        return f"{self.package} {self.entry.dist.version}" if self.entry.dist is not None else self.package

    def unusable(self, what: str) -> PlanError:
        """Return the error of a kind that cannot be used."""
        return PlanError(
            f"{self.kind!r} of {self.entry.group} cannot be used: {what}",
            where=self.release,
            fix=f"mend {self.package}, or uninstall it",
        )

    def load(self, row: type[Row]) -> Row:
        """Return the object that the entry point names. Raises PlanError where it cannot be loaded, or is no `row`."""
        try:
            found: Any = self.entry.load()
        except Exception as error:
            what = f"{self.entry.value} cannot be loaded: {type(error).__name__}: {error}"
            raise self.unusable(what) from error
        if not isinstance(found, row):
            raise self.unusable(f"{self.entry.value} is of type {type(found).__name__}, not {row.__name__}")
        return found


def plugins(group: str, built_in: Container[str]) -> Mapping[str, Plugin]:
    """Return the kinds that packages add to a group, by name. Loads none of them.

    Raises PlanError where two kinds have one name.
    """
    found: dict[str, Plugin] = {}
    for entry in sorted(entry_points(group=group), key=lambda one: (one.name, one.value)):
        added = Plugin(entry.name, entry)
        if entry.name in built_in:
            raise added.unusable("Ratchet has a kind of that name itself")
        if entry.name in found and found[entry.name].entry.dist != entry.dist:
            raise added.unusable(f"{found[entry.name].release} has a kind of that name too")
        if entry.name in found:
            raise added.unusable("it is named twice")
        found[entry.name] = added
    return found
