"""What the store holds once: looked for, leased, looked for again, made aside, proved, recorded and renamed.

Every part that is made once goes through here, so that a kill, a wait or a second process is handled in one place.
Whole folders go through `ensure`; what is made in place (a step, the blocks of scores) takes a `turn` and writes its
record itself. A run folder is held as a whole (`hold`), as long as one process works in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ratchet.store.files import folder_aside, remove_leftovers
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import SILENTLY, Lease, Wait, leased
from ratchet.store.record import Record, legible_record, make_room, now, sound_record, write_record

Found = TypeVar("Found")
HELD = "lease"
"""The folder of a run folder's lease."""


@dataclasses.dataclass(frozen=True)
class Product:
    """What a maker says of the folder that it filled: as in a Record. `seconds` where they are not those of `make`."""

    counts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float | None = None


class Artefact(Protocol):
    """Something that the store holds once: what it is, what decides its content, and how it is made.

    `kind` names its folder in the store and its lease. What it is made from enters its identity by the fingerprint of
    that, or by a digest of its content; so identities are composed, and a part has its whole identity or none.
    """

    @property
    def kind(self) -> str:
        """Which kind of thing it is, such as `pairs`."""

    @property
    def what(self) -> str:
        """What it is, in a few words for people who wait for it."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides its content. Raises DataError, ModelError where that is not there."""

    def make(self, folder: Path, look: Callable[[], None]) -> Product:
        """Fill an empty folder and prove its content; what `look` raises ends the work."""


@dataclasses.dataclass(frozen=True)
class Made:
    """Where an artefact lies, with its record; `fresh` where it was made just now."""

    fingerprint: str
    folder: Path
    record: Record
    fresh: bool = False


@dataclasses.dataclass(frozen=True)
class LeasedTurn(Generic[Found]):
    """What was found, and the leases of what is missing: none where nothing is."""

    found: Found
    leases: Mapping[str, Lease]

    def check(self) -> None:
        """Raise RunError where another process has taken a lease over. Call it before a record is written."""
        for lease in self.leases.values():
            lease.check()


@contextlib.contextmanager
def turn(
    layout: Layout,
    look: Callable[[bool], Found],
    missing: Callable[[Found], Mapping[str, str]],
    wait: Wait,
) -> Iterator[LeasedTurn[Found]]:
    """Look for something; hold the leases of what is missing, and look again, as others may have made it meanwhile.

    `look` gets True once the leases are held: only then may it put damaged parts aside. `missing` returns, by the key
    of its lease, in a few words what is to be made. Raises what waiting raises; StorageError.
    """
    found = look(False)
    wanted = missing(found)
    with contextlib.ExitStack() as stack:
        # In one order, whatever is wanted: so no two processes wait for each other.
        leases = {
            key: stack.enter_context(leased(layout.lease(key), what=wanted[key], wait=wait)) for key in sorted(wanted)
        }
        if leases:
            wait.look()  # a lease that was free was not waited for
            found = look(True)
            for key in leases.keys() - missing(found).keys():
                leases.pop(key).release()  # nobody else is to wait for work that does not make it
        yield LeasedTurn(found, leases)


def find(layout: Layout, artefact: Artefact) -> Made | None:
    """Return where an artefact lies, its files unseen, for those who only show what is there; None where it is not."""
    digest = fingerprint(artefact.identity)
    record = legible_record(folder := layout.made(artefact.kind, digest))
    return None if record is None else Made(digest, folder, record)


def ensure(layout: Layout, artefact: Artefact, wait: Wait = SILENTLY) -> Made:
    """Return an artefact, made where the store has none. A damaged one is put aside and made again.

    Raises what `make` raises; RunError where another process took over; StorageError.
    """
    digest = fingerprint(artefact.identity)
    folder = layout.made(artefact.kind, digest)

    def look(mine: bool) -> Record | None:
        return make_room(folder, layout.damaged) if mine else sound_record(folder)

    def missing(record: Record | None) -> dict[str, str]:
        return {} if record else {f"{artefact.kind}-{digest}": artefact.what}

    with turn(layout, look, missing, wait) as mine:
        if mine.found is not None:
            return Made(digest, folder, mine.found)
        return Made(digest, folder, publish(folder, artefact, list(mine.leases.values()), wait.look), fresh=True)


def publish(
    folder: Path, artefact: Artefact, leases: Sequence[Lease], look: Callable[[], None] = lambda: None
) -> Record:
    """Fill a folder aside, write its record, and give it its name while the leases are still held.

    Raises what `make` raises; RunError where another process took over; StorageError.
    """
    started, clock = now(), time.monotonic()
    remove_leftovers(folder)
    with folder_aside(folder) as aside:
        made = artefact.make(aside, look)
        seconds = round(time.monotonic() - clock if made.seconds is None else made.seconds, 3)
        digest = fingerprint(artefact.identity)
        record = Record(
            artefact.kind, digest, artefact.identity, made.counts, started, seconds, made.inputs, made.facts
        )
        write_record(aside, record)
        for lease in leases:
            lease.check()
    return record


@contextlib.contextmanager
def hold(folder: Path, say: Callable[[str], None] = lambda line: None) -> Iterator[Lease]:
    """Hold `folder` for this process. `Lease.check` says, before something is recorded, whether it still does.

    Whoever held it and is lost is displaced: on this machine at once, on another one when its lease was seen
    to lapse, which `say` reports. Raises RunError naming the holder where that one is alive.
    """
    fix = "wait for it, stop it, or give this plan another name"
    with leased(folder / HELD, what=f"{folder.name} in {folder.parent}", wait=Wait(say), refuse=fix) as lease:
        yield lease
