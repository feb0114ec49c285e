"""Kinds that other installed packages add, by entry points of the groups `ratchet.losses`, `ratchet.layouts`, ….

An entry point's name is the kind. The package's name and version are in the identity of whatever that kind decides.

A package that cannot be used stops no import, so that `ratchet fsck FOLDER` goes on. What is wrong with it is kept in
its table, and is raised where a plan, suite or space is read.
"""

from __future__ import annotations

import dataclasses
import functools
import platform
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from ratchet.errors import PlanError

Row = TypeVar("Row")
Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A kind that a package adds."""

    kind: str
    entry: EntryPoint

    @property
    def package(self) -> str:
        """The package's name; its module where it was installed without one."""
        return (self.entry.dist and self.entry.dist.name) or self.entry.value.partition(":")[0]

    @property
    def release(self) -> str:
        """The package with its version, as identities and errors have it."""
        return f"{self.package} {self.entry.dist.version}" if self.entry.dist is not None else self.package

    def unusable(self, what: str) -> PlanError:
        """Return the error of a kind that cannot be used."""
        return PlanError(
            f"the entry point {self.kind} = {self.entry.value} of {self.entry.group} cannot be used: {what}",
            where=self.release,
            fix=f"mend {self.package}, or uninstall it: pip uninstall {self.package}",
            code="plan.kind",
        )

    def load(self, row: type[Row]) -> Row:
        """Return the object that the entry point names. Raises PlanError where it cannot be loaded, or is no `row`."""
        try:
            found: Any = self.entry.load()
        except Exception as error:  # it is another's code: it may raise anything
            raise self.unusable(f"it cannot be loaded: {type(error).__name__}: {error}") from error
        if not isinstance(found, row):
            raise self.unusable(f"it is of type {type(found).__name__}, not {row.__name__}")
        return found


@dataclasses.dataclass(frozen=True)
class Kinds:
    """The names of one group's kinds: those that come with Ratchet, and those that packages add.

    `what` is what has such a kind, in one word: a stage, a task, a layout, a builder.
    """

    group: str
    what: str
    built_in: tuple[str, ...]
    faults: dict[str, PlanError] = dataclasses.field(default_factory=dict, init=False)
    """What is wrong with kinds that packages add, by kind; filled by `added` and `rows`."""

    @functools.cached_property
    def added(self) -> Mapping[str, Plugin]:
        """What packages add, by kind; loads none of them. Two of one name are a fault, and the first is kept."""
        found: dict[str, Plugin] = {}
        for entry in sorted(entry_points(group=self.group), key=lambda one: (one.name, one.value)):
            plugin = Plugin(entry.name, entry)
            if entry.name in self.built_in:
                self._keep(plugin, "Ratchet has a kind of that name itself")
            elif entry.name in found:
                self._keep(plugin, f"{found[entry.name].release} has a kind of that name too")
            else:
                found[entry.name] = plugin
        return found

    def rows(self, row_of: Callable[[Plugin], Found]) -> dict[str, Found]:
        """Return the rows of the kinds that packages add, without those that `row_of` cannot make."""
        found = {}
        for kind, plugin in self.added.items():
            try:
                found[kind] = row_of(plugin)
            except PlanError as error:
                self.faults[kind] = error
            except Exception as error:  # a row may hold anything, whatever its type
                self._keep(plugin, f"its row cannot be read: {type(error).__name__}: {error}")
        return found

    def release_of(self, kind: str) -> str | None:
        """Return the package that adds a kind, with its version; None for one of Ratchet's own.

        Raises PlanError where this host has no such kind.
        """
        if kind in self.added:
            return self.added[kind].release
        if kind not in self.built_in:
            raise self.unknown(kind)
        return None

    def unknown(self, kind: str) -> PlanError:
        """Return the error of a kind that is not there, or of the package that should add it."""
        if fault := self.faults.get(kind):
            return fault
        return PlanError(
            f"no {self.what} is of kind {kind!r}",
            where=platform.node(),
            fix=f"use one of {', '.join([*self.built_in, *self.added])}, or install the package that adds it, here and "
            "on every host",
            code="plan.kind",
        )

    def _keep(self, plugin: Plugin, what: str) -> None:
        self.faults[plugin.kind] = plugin.unusable(what)


_TABLES: list[Kinds] = []
_raised: list[PlanError] = []


def table_of(group: str, what: str, built_in: Iterable[str]) -> Kinds:
    """Return the table of a group's kinds, whose faults `refuse_broken` raises from now on."""
    _TABLES.append(kinds := Kinds(group, what, tuple(built_in)))
    return kinds


def refuse_broken() -> None:
    """Raise PlanError where a package adds a kind that cannot be used: a plan may mean it."""
    found = [fault for table in _TABLES for fault in table.faults.values()]
    _raised.extend(found)
    if len(found) == 1:
        raise found[0]
    if found:
        what = "\n".join(f"{fault.where}: {fault.what}" for fault in found)
        fix = "\n  ".join(dict.fromkeys(fault.fix for fault in found))
        raise PlanError(what, fix=fix, code="plan.kind")


def broken_unsaid() -> list[PlanError]:
    """Return what is wrong with packages and was not raised, as no plan was read."""
    return [fault for table in _TABLES for fault in table.faults.values() if fault not in _raised]
