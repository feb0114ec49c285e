"""What the store holds once: looked for, leased, looked for again, made aside, proved, recorded and renamed.

Every part that is made once goes through here, so that a kill, a wait or a second process is handled in one place.
Whole folders go through `ensure`; what is made in place (a step, the blocks of scores) takes a `turn` and writes its
record itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from ratchet.store.files import folder_aside, remove_leftovers
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import Lease, Wait, leased
from ratchet.store.record import Record, now, write_record
from ratchet.store.sound import clear, sound_record

Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A place of the store: its kind, what decides its content, and in a few words what it is."""

    kind: str
    identity: Mapping[str, Any]
    what: str

    @property
    def fingerprint(self) -> str:
        """What it is known by."""
        return fingerprint(self.identity)

    @property
    def key(self) -> str:
        """The name of its lease."""
        return f"{self.kind}-{self.fingerprint}"


@dataclasses.dataclass(frozen=True)
class Product:
    """What a maker says of the folder that it filled: as in a Record. `seconds` where they are not those of `make`."""

    counts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Turn(Generic[Found]):
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
) -> Iterator[Turn[Found]]:
    """Look for something; hold the leases of what is missing, and look again, as others may have made it meanwhile.

    `look` is told whether the leases are held: what is damaged may be put aside then. `missing` returns, by the key
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
        yield Turn(found, leases)


def ensure(
    layout: Layout,
    entry: Entry,
    make: Callable[[Path], Product],
    wait: Wait,
    accept: Callable[[Record], None] = lambda record: None,
) -> Path:
    """Return the folder of an entry, filled by `make` where the store has none. Damaged ones are made again.

    What `accept` raises of a record that is found ends the search. Raises what `make` raises; RunError where another
    process took over; StorageError.
    """
    folder = layout.made(entry.kind, entry.fingerprint)

    def look(mine: bool) -> Record | None:
        record = clear(folder, layout.damaged) if mine else sound_record(folder)
        if record is not None:
            accept(record)
        return record

    with turn(layout, look, lambda record: {} if record else {entry.key: entry.what}, wait) as mine:
        if mine.leases:
            publish(folder, entry, make, list(mine.leases.values()))
    return folder


def publish(folder: Path, entry: Entry, make: Callable[[Path], Product], leases: Sequence[Lease]) -> None:
    """Fill a folder aside, write its record, and give it its name while the leases are still held.

    Raises what `make` raises; RunError where another process took over; StorageError.
    """
    started, clock = now(), time.monotonic()
    remove_leftovers(folder)
    with folder_aside(folder) as aside:
        made = make(aside)
        seconds = round(time.monotonic() - clock if made.seconds is None else made.seconds, 3)
        record = Record(entry.kind, entry.fingerprint, entry.identity, made.counts, started, seconds)
        write_record(aside, dataclasses.replace(record, inputs=made.inputs, facts=made.facts))
        for lease in leases:
            lease.check()
