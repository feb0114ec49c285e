"""What the store holds once: looked for, leased, looked for again, made aside, proved, recorded and renamed.

Every part that is made once goes through here, so that a kill, a wait or a second process is handled in one place.
Whole folders go through `ensure`, or through `keep` where the caller holds the lease of what they were made with. What
is made in place (a step, the blocks of scores) takes a `turn`, and `record_of` makes its record. A run folder is held
as a whole (`hold`), as long as one process works in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ratchet.errors import CorruptError
from ratchet.store.codec import from_values, to_values
from ratchet.store.files import folder_aside, read_sealed, remove_leftovers, write_sealed
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import SILENTLY, Lease, Wait, leased
from ratchet.store.record import Record, legible_record, make_room, now, sound_record, write_record

Found = TypeVar("Found")
Key = TypeVar("Key")
Document = TypeVar("Document")
HELD = "lease"
"""The folder of a run folder's lease."""
_OF = "made_of"
"""The key of a document that says of which artefact it is."""


@dataclasses.dataclass(frozen=True)
class Product:
    """What a maker says of the folder that it filled: as in a Record. `seconds` where they are not those of `make`."""

    counts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float | None = None


class Identified(Protocol):
    """Something that is made once: what it is, and what decides its content.

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


class Artefact(Identified, Protocol):
    """Something identified that says how it is made, as a whole folder."""

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
    *,
    held: Lease | None = None,
) -> Iterator[LeasedTurn[Found]]:
    """Look for something; hold the leases of what is missing, and look again, as others may have made it meanwhile.

    `look` gets True once the leases are held: only then may it put damaged parts aside. `missing` returns, by the key
    of its lease, in a few words what is to be made. With the lease of the folder that it lies in already `held`, as a
    run holds its own, there is nothing to wait for, and one look is enough. Raises what waiting raises; StorageError.
    """
    if held is not None:
        yield LeasedTurn(look(True), {HELD: held})
        return
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


def lease_key(artefact: Identified) -> str:
    """Return the key of the lease under which an artefact is made."""
    return f"{artefact.kind}-{fingerprint(artefact.identity)}"


def find(layout: Layout, artefact: Identified) -> Made | None:
    """Return where an artefact lies, or None where it does not, or not as it was written."""
    folder = made_folder(layout, artefact)
    record = sound_record(folder)
    return None if record is None else Made(folder.name, folder, record)


def survey(layout: Layout, artefacts: Mapping[Key, Identified]) -> dict[Key, Made]:
    """Return those artefacts that are there, by their keys, for who only shows it: their files are not looked at.

    One whose record cannot be believed is left out, as a run makes it again.
    """
    folders = {key: made_folder(layout, one) for key, one in artefacts.items()}
    records = {key: legible_record(folder) for key, folder in folders.items()}
    return {key: Made(folders[key].name, folders[key], one) for key, one in records.items() if one is not None}


def ensure(layout: Layout, artefact: Artefact, wait: Wait = SILENTLY) -> Made:
    """Return an artefact, made where the store has none. A damaged one is put aside and made again.

    Raises what `make` raises; RunError where another process took over; StorageError.
    """

    def look(mine: bool) -> Made | None:
        if mine:
            make_room(made_folder(layout, artefact), layout.damaged)
        return find(layout, artefact)

    def missing(found: Made | None) -> dict[str, str]:
        return {} if found else {lease_key(artefact): artefact.what}

    with turn(layout, look, missing, wait) as mine:
        return mine.found or _publish(made_folder(layout, artefact), artefact, list(mine.leases.values()), wait.look)


def keep(layout: Layout, artefact: Artefact, leases: Sequence[Lease], *, apart: bool = False) -> Made:
    """Make an artefact under leases of what it is made with, which the caller holds; a damaged one is put aside.

    `apart`: it is shown and never found, under a name of its own. Raises as `ensure`.
    """
    folder = made_folder(layout, artefact)
    if apart:
        folder = folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:8]}")
    # `_publish` renames onto a name, and never over a folder.
    make_room(folder, layout.damaged)
    return _publish(folder, artefact, leases)


def keep_document(path: Path, artefact: Identified, document: Any) -> None:
    """Write an artefact that is one document, a dataclass, in the run folder that the caller holds.

    Raises StorageError.
    """
    write_sealed(path, to_values(document) | {_OF: fingerprint(artefact.identity)})


def find_document(
    kind: type[Document], path: Path, artefact: Identified | None, *, unnamed: bool = False
) -> Document | None:
    """Return an artefact's document; None where it is not there, or is that of another artefact.

    An artefact of None is one that is not known yet. `unnamed`: a document written before documents said what they are
    of counts too, for those who only show what is there. Raises CorruptError.
    """
    fix = "run the plan: what it says is decided again"
    values = read_sealed(path, fix)
    if values is None:
        return None
    of = values.pop(_OF, None)
    mine = unnamed if of is None else artefact is not None and of == fingerprint(artefact.identity)
    return from_values(kind, values, where=str(path), fix=fix, error=CorruptError) if mine else None


def made_folder(layout: Layout, artefact: Identified) -> Path:
    """Return where an artefact lies, or will."""
    return layout.made(artefact.kind, fingerprint(artefact.identity))


def _publish(
    folder: Path, artefact: Artefact, leases: Sequence[Lease], look: Callable[[], None] = lambda: None
) -> Made:
    """Fill a folder aside, write its record, and give it its name while the leases are still held."""
    started, clock = now(), time.monotonic()
    remove_leftovers(folder)
    with folder_aside(folder) as aside:
        made = artefact.make(aside, look)
        record = record_of(artefact, made, started, time.monotonic() - clock)
        write_record(aside, record)
        for lease in leases:
            lease.check()
    return Made(record.fingerprint, folder, record, fresh=True)


def record_of(artefact: Identified, made: Product, started: str, seconds: float) -> Record:
    """Return the record of an artefact that was begun at `started` and took `seconds`, unless its maker says less."""
    identity = artefact.identity
    took = round(seconds if made.seconds is None else made.seconds, 3)
    return Record(artefact.kind, fingerprint(identity), identity, made.counts, started, took, made.inputs, made.facts)


@contextlib.contextmanager
def hold(folder: Path, say: Callable[[str], None] = lambda line: None) -> Iterator[Lease]:
    """Hold `folder` for this process. `Lease.check` says, before something is recorded, whether it still does.

    A holder that is lost is displaced: on this machine at once, on another one when its lease was seen
    to lapse, which `say` reports. Raises RunError naming the holder where that one is alive.
    """
    fix = "wait for it, stop it, or give this plan another name"
    with leased(folder / HELD, what=f"{folder.name} in {folder.parent}", wait=Wait(say), refuse=fix) as lease:
        yield lease
