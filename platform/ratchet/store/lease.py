"""Leases: one maker at a time of what several processes want, on one machine or on many that share a folder.

    <folder>/<generation>.json      the highest generation holds; an empty file is a released lease

A lease is a file that appears whole, under a number that only one process can take. A process that sees that generation
n was released, or that its holder is dead, links generation n + 1; of many only one succeeds. The highest file stays
when it is released: it is emptied, which needs no space on the disk. So no number ever comes back. A process suspended
after reading a lease cannot evict a holder that it never saw.

Who holds a lease renews it: a thread sets the file's time. No clocks of machines are compared: who waits takes
the lease over when it has watched the time stand still for `LAPSE_SECONDS` of its own clock. A holder on the
same machine whose process has ended is found out at once.

A holder that slept longer than that has lost its lease: `Lease.check` raises, and is called right before something is
published. No lease can close the moment between a check and what follows it. So what is published appears whole, by one
rename, and is the same whichever process made it.

No two processes may wait for each other. So a lease is taken before those of what it is made from, and several of one
kind in the order of their names. The order is: a sweep's trial, a step, a model's answers, judgments, then scores,
tokens, pairs and models. While a sweep's folder is held, no other is waited for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ratchet.errors import RunError, StorageError
from ratchet.store.files import gone, storage_errors
from ratchet.store.machine import Process, this_process
from ratchet.store.record import now

BEAT_SECONDS = 5.0
"""How often a holder renews its lease."""
LAPSE_SECONDS = 60.0
"""How long a lease must be seen not to be renewed before another process takes it over."""
_PAUSES = (0.05, 1.0)
"""The first and the longest pause between two looks at a lease, in seconds."""
_LONGEST_GAP = 2.0
"""What one pause may count for: who was stopped together with the holder has not watched it meanwhile."""
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lease, and for what. `token` distinguishes two threads of one process."""

    token: str
    what: str
    process: Process
    thread: int
    since: str

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.process.host}, since {self.since}"


@dataclasses.dataclass(frozen=True)
class Wait:
    """What a process does while it waits for another one.

    `say` gets one line when a wait begins. `look` is called again and again, and what it raises ends the wait.
    """

    say: Callable[[str], None] = lambda line: None
    look: Callable[[], None] = lambda: None


SILENTLY = Wait()


class Lease:
    """A lease that this thread took. Made by `leased` alone."""

    def __init__(self, folder: Path, generation: int, holder: Holder, handle: int) -> None:
        self.folder, self.generation, self.holder = folder, generation, holder
        self._handle = handle
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._renew, name="ratchet-lease", daemon=True)
        self._beat.start()

    def check(self) -> None:
        """Raise RunError where another process has taken the lease over: then nothing may be published any more.

        Raises StorageError where the storage itself is gone.
        """
        seen = _look(self.folder)
        if seen.generation == self.generation and seen.holder is not None and seen.holder.token == self.holder.token:
            return
        if not seen.generation:  # a released lease leaves its last file
            raise gone(self.folder)
        raise RunError(
            f"{self.holder.what}: another process took over ({seen.holder or 'it has finished'}), as this one was "
            f"not heard of for {LAPSE_SECONDS:g} s",
            where=str(self.folder),
            fix="run again: what the other one makes is found in the store",
            code="run.taken-over",
        )

    def _renew(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            # By the open file and not by its name, which may be another's by now. A disk that is away for a
            # moment is no reason to end: `check` says whether the lease was lost.
            with contextlib.suppress(OSError):
                os.utime(self._handle)

    def release(self) -> None:
        """Release the lease, also before the end of the `with`. A process that dies releases it too."""
        if self._over.is_set():
            return
        self._over.set()
        self._beat.join()  # the number of a closed file may be given to another
        with contextlib.suppress(OSError):  # where it cannot be written it lapses, as it is not renewed any more
            os.ftruncate(self._handle, 0)
        with contextlib.suppress(OSError):
            os.close(self._handle)


@contextlib.contextmanager
def leased(
    folder: Path,
    *,
    what: str,
    wait: Wait = SILENTLY,
    refuse: str | None = None,
) -> Iterator[Lease]:
    """Hold the lease in `folder`, once its holder has released it, ended, or not been heard of for `LAPSE_SECONDS`.

    After a wait, look again for what is to be made: it may be there. `what` says in a few words what is made. With
    `refuse`, the advice of an error, a living holder is not waited for. It is alive where its process runs on this
    machine, or renews the lease while it is watched. Raises RunError then; StorageError; RuntimeError where the thread
    holds the lease already.
    """
    mine = Holder(uuid.uuid4().hex, what, this_process(), threading.get_native_id(), now())
    lease = _wait(folder, mine, wait, refuse)
    try:
        yield lease
    finally:
        lease.release()


def _wait(folder: Path, mine: Holder, wait: Wait, refuse: str | None) -> Lease:
    watch, told, pause = _Watch(), False, _PAUSES[0]
    while True:
        changed = watch.look(folder)
        seen = watch.seen
        if seen.free or watch.still >= LAPSE_SECONDS or (seen.holder is not None and seen.holder.process.has_ended()):
            if (lease := _take(folder, seen.generation + 1, mine)) is not None:
                return lease
        else:
            if seen.holder is not None and (seen.holder.process, seen.holder.thread) == (mine.process, mine.thread):
                raise RuntimeError(f"{mine.what}: the thread waits for a lease that it holds: {folder}")
            if refuse is not None and (watch.renewed or (seen.holder is not None and seen.holder.process.is_here)):
                raise RunError(
                    f"another process is using {mine.what}: {seen.holder}",
                    where=str(folder),
                    fix=refuse,
                    code="run.held",
                )
            if not told:
                wait.say(f"waiting for {mine.what}: {seen.holder or 'an unknown process'} is at it")
                told = True
            wait.look()
        pause = _PAUSES[0] if changed else min(1.5 * pause, _PAUSES[1])
        time.sleep(pause)


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A lease's highest generation (0: it was never held), when it was renewed, and what its file holds."""

    generation: int = 0
    beat: int = 0
    raw: bytes = b""

    @property
    def free(self) -> bool:
        """Whether it was released, or never taken."""
        return not self.raw

    @property
    def holder(self) -> Holder | None:
        """Who holds it; None where it is free, or the file does not say."""
        try:
            found = json.loads(self.raw)
            return Holder(**{**found, "process": Process(**found["process"])})
        except (ValueError, TypeError, KeyError):
            return None


class _Watch:
    """What is seen of a lease, for how many seconds it was watched without a change (`still`), and whether its holder
    renewed it meanwhile.
    """

    def __init__(self) -> None:
        self.seen, self.still, self.renewed = _Seen(), 0.0, False
        self._last = time.monotonic()

    def look(self, folder: Path) -> bool:
        """Look again; return whether another one holds it than before."""
        began = time.monotonic()
        seen = _look(folder)
        self.still = self.still + min(began - self._last, _LONGEST_GAP) if seen == self.seen else 0.0
        self._last = time.monotonic()
        changed = seen.generation != self.seen.generation
        self.renewed = not changed and (self.renewed or seen.beat != self.seen.beat)
        self.seen = seen
        return changed


def _look(folder: Path) -> _Seen:
    """Return a lease as it is now. Raises StorageError."""
    with storage_errors(folder):
        while True:
            try:
                generation = max(_generations(folder), default=0)
                if not generation:
                    return _Seen()
                # Opened, and not only asked for its time: a network disk gives the newest state at an opening alone.
                with _path(folder, generation).open("rb") as file:
                    return _Seen(generation, os.fstat(file.fileno()).st_mtime_ns, file.read())
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ESTALE}:
                    raise
                time.sleep(_PAUSES[0] / 10)  # a higher one is there, and this one was removed


def _take(folder: Path, generation: int, mine: Holder) -> Lease | None:
    """Take a generation; None where another process was faster. Raises StorageError."""
    mine = dataclasses.replace(mine, since=now())  # not since it waits
    aside = folder / f".{mine.token}"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_text(json.dumps(dataclasses.asdict(mine)), encoding="utf-8")
            handle = os.open(aside, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fsync(handle)  # on a network disk others must find what it holds
                taken = _link(aside, _path(folder, generation)) and _settle(folder, generation)
            except BaseException:
                os.close(handle)
                raise
        finally:
            aside.unlink(missing_ok=True)
    if taken:
        return Lease(folder, generation, mine, handle)
    os.close(handle)
    return None


def _settle(folder: Path, generation: int) -> bool:
    """Remove the generations below one's own; return False, and remove one's own, where there is a higher one.

    Its number was free because it had been used and removed, after this process looked.
    """
    others = _generations(folder)
    highest = generation == max(others, default=generation)
    for one in others:
        if one < generation or (one == generation and not highest):
            _path(folder, one).unlink(missing_ok=True)
    return highest


def _link(aside: Path, path: Path) -> bool:
    try:
        os.link(aside, path)
    except FileExistsError:
        # A network disk whose first answer was lost asks twice, and finds the name taken: by itself.
        return aside.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise StorageError(
            f"no hard links can be made here: {error.strerror}",
            where=str(path.parent),
            fix="set cluster.storage to a folder on a disk that has them",
            code="storage.no-links",
        ) from error
    return True


def highest(folder: Path) -> int:
    """Return the generation that holds a lease now, or held it last; 0 where it was never held. Raises StorageError."""
    with storage_errors(folder):
        return max(_generations(folder), default=0)


def holder_of(folder: Path) -> Holder | None:
    """Return who holds a lease now; None where it was released, or its holder is known to have ended.

    Raises StorageError.
    """
    seen = _look(folder)
    return None if seen.holder is None or seen.holder.process.has_ended() else seen.holder


def _path(folder: Path, generation: int) -> Path:
    return folder / f"{generation}.json"


def _generations(folder: Path) -> list[int]:
    try:
        return [int(path.stem) for path in folder.iterdir() if path.suffix == ".json" and path.stem.isdigit()]
    except FileNotFoundError:
        return []
