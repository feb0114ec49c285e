"""Checkpoints that are whole or absent, verified before use, and never written by a stale worker.

    <step folder>/attempt                       id of the worker group that may commit
    <step folder>/checkpoints/.step-000010.<attempt>/   being written
    <step folder>/checkpoints/step-000010/      committed: shards, MANIFEST.json, COMMITTED
    <step folder>/checkpoints/bad-step-000010/  failed its check, kept for a look

Order of a save: every worker writes and fsyncs its files; worker 0 writes the manifest (size and
SHA-256 of each), then COMMITTED (the manifest's SHA-256), then renames the folder; only then do
older checkpoints go. A kill at any point leaves the last good one in place.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ratchet.documents.events import Event
from ratchet.errors import RatchetError, RunError, StorageError
from ratchet.store.files import (
    free_bytes,
    fsync_folder,
    gone,
    publish_folder,
    storage_errors,
    sync_tree,
    write_json,
    write_text,
)
from ratchet.store.fingerprint import digest_file
from ratchet.train import faults
from ratchet.train.communicate import Communicator, agree

MANIFEST, COMMITTED, ATTEMPT = "MANIFEST.json", "COMMITTED", "attempt"
ROOM = 2.5
"""Free space that a save asks for, in sizes of the last checkpoint."""

_NAME = re.compile(r"step-(\d{6,})")

Write = Callable[[Path], Mapping[Path, str]]
"""Writes a worker's files into a folder; returns the SHA-256 of each, taken of what it wrote."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """A committed checkpoint. `facts` is what was given to `save`."""

    step: int
    path: Path
    attempt: str
    files: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["bytes"]) for entry in self.files.values())

    @property
    def loss(self) -> float:
        """Held-out loss at this step; infinite where there was none, or it was no number."""
        found = self.facts.get("metrics", {}).get("heldout/loss")
        return float(found) if found is not None and math.isfinite(found) else math.inf


class Checkpoints:
    """The checkpoints of one training step. Every method but the constructor is for all workers together.

    Making one claims the folder for this worker group: an older group can no longer commit.
    `events` are those of checkpoints that were found broken or unfinished.
    """

    def __init__(self, step_folder: Path, communicator: Communicator, keep: int) -> None:
        self.step_folder, self.communicator, self.keep = step_folder, communicator, keep
        self.folder = step_folder / "checkpoints"
        self.events: list[Event] = []
        claimed = agree(communicator, lambda: _claim(step_folder) if communicator.rank == 0 else "")
        self.attempt = communicator.gather(claimed)[0]
        self.last: Saved | None = None

    def save(self, step: int, write: Write, facts: Mapping[str, Any]) -> Saved:
        """Commit a checkpoint of `step`, then remove what `keep` and the best one do not cover.

        `write` gets the folder, writes this worker's files and returns the SHA-256 of each; it may hold
        collectives if it raises StorageError only after them. Raises StorageError where any worker's disk is
        full (the last checkpoint stays), RunError where a newer group has claimed the folder.
        """
        rank = self.communicator.rank
        staging = self.folder / f".step-{step:06d}.{self.attempt}"
        self._lead(lambda: self._prepare(staging))
        try:
            mine = agree(self.communicator, lambda: self._write_own(staging, write, step))
            faults.kill_if_due("ckpt:after_shard", step, rank)
            files = {name: entry for part in self.communicator.gather(mine) for name, entry in part.items()}
            saved = Saved(step, self.folder / f"step-{step:06d}", self.attempt, files, dict(facts))
            self._lead(lambda: self._commit(staging, saved))
        except RatchetError:
            if rank == 0:
                shutil.rmtree(staging, ignore_errors=True)
            raise
        self.last = saved
        return saved

    def newest(self) -> Saved | None:
        """Return the newest checkpoint that passes its check, or None.

        Unfinished ones are removed, broken ones renamed to `bad-…`; `events` has both.
        The files are hashed by all workers, a share each.
        """
        self._lead(self._sweep)
        while True:
            candidate = self.communicator.gather(self._candidate() if self.communicator.rank == 0 else None)[0]
            if candidate is None:
                return None
            told = self.communicator.gather(self._faults(candidate))
            faulty = list(dict.fromkeys(line for part in told for line in part))
            if not faulty:
                self.last = read_checkpoint(self.folder / candidate)
                return self.last
            self._lead(functools.partial(set_aside, self.folder / candidate))
            said = f"{candidate} failed its check and was set aside: {'; '.join(faulty[:3])}"
            self.events.append(Event(code="checkpoint-damaged", what=said, checkpoint=candidate))

    def best(self) -> Saved | None:
        """Return the committed checkpoint of the lowest held-out loss, the newest of equals."""
        return min(self._all(), key=lambda saved: (saved.loss, -saved.step), default=None)

    def still_ours(self) -> None:
        """Raise RunError on all workers where a newer group has claimed the folder."""
        self._lead(lambda: check_claim(self.step_folder, self.attempt))

    def verify(self, saved: Saved) -> bool:
        """Whether every file of `saved` is as it was written."""
        return not any(self.communicator.gather(self._faults(saved.path.name)))

    def _lead(self, action: Callable[[], None]) -> None:
        """Run `action` on worker 0; the others wait, and raise what it raises."""
        agree(self.communicator, action if self.communicator.rank == 0 else lambda: None)

    def _prepare(self, staging: Path) -> None:
        check_claim(self.step_folder, self.attempt)
        with storage_errors(self.folder):
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        if self.last is not None and (room := free_bytes(self.folder)) < ROOM * self.last.size:
            shutil.rmtree(staging)
            raise StorageError(
                f"{room / 1e9:.1f} GB free, and a checkpoint asks for {ROOM * self.last.size / 1e9:.1f} GB",
                where=str(self.folder),
                fix=f"free some space and run again: it goes on after step {self.last.step}",
                code="storage.no-room",
            )

    def _write_own(self, staging: Path, write: Write, step: int) -> dict[str, dict[str, Any]]:
        with storage_errors(staging):
            files = write(staging)
            if faults.due("ckpt:disk_full", step, self.communicator.rank):
                raise OSError(28, "No space left on device")
            return {str(path.relative_to(staging)): _entry(path, digest) for path, digest in files.items()}

    def _commit(self, staging: Path, saved: Saved) -> None:
        with storage_errors(staging):
            found = {str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file()}
        if found != set(saved.files):
            raise StorageError(
                f"workers wrote {len(saved.files)} files and {len(found)} are here",
                where=str(staging),
                fix="cluster.storage must be one folder that every node sees",
                code="storage.not-shared",
            )
        write_json(staging / MANIFEST, {**dataclasses.asdict(saved), "path": saved.path.name})
        faults.kill_if_due("ckpt:before_marker", saved.step, 0)
        check_claim(self.step_folder, self.attempt)
        # Before the rename: what has a checkpoint's name is then always whole.
        write_text(staging / COMMITTED, digest_file(staging / MANIFEST) + "\n")
        with storage_errors(staging):
            sync_tree(staging)
            check_claim(self.step_folder, self.attempt)  # the disk may have taken its time
            try:
                publish_folder(staging, saved.path)
            except FileExistsError:
                raise RunError(
                    f"step {saved.step} was committed by another worker group",
                    where=str(saved.path),
                    fix="stop the other run of this plan",
                ) from None
            fsync_folder(self.folder)
        faults.kill_if_due("ckpt:after_marker", saved.step, 0)
        self._prune()

    def _prune(self) -> None:
        everything = self._all()
        best = self.best()
        for saved in everything[: -self.keep]:
            if saved != best:
                shutil.rmtree(saved.path, ignore_errors=True)

    def _all(self) -> list[Saved]:
        """Committed checkpoints whose manifest can be read, oldest first; their files are not checked."""
        found = (read_checkpoint(path) for path in _committed(self.folder))
        return [saved for saved in found if saved is not None]

    def _candidate(self) -> str | None:
        names = [path.name for path in _committed(self.folder)]
        return names[-1] if names else None

    def _sweep(self) -> None:
        """Remove what was never committed: no worker group but this one may be writing."""
        for path in sorted(self.folder.glob(".step-*")):
            shutil.rmtree(path)
            said = f"{path.name} was never finished and was removed"
            self.events.append(Event(code="checkpoint-unfinished", what=said, checkpoint=path.name))

    def _faults(self, name: str) -> list[str]:
        """What is wrong with this worker's share of a checkpoint's files, in words."""
        folder = self.folder / name
        saved = read_checkpoint(folder)
        if saved is None:
            return ["its manifest is not the one that was committed"]
        if f"step-{saved.step:06d}" != name:
            return [f"it is the checkpoint of step {saved.step}"]
        strange = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        strange -= {*saved.files, MANIFEST, COMMITTED}
        wrong = [f"{file} does not belong to it" for file in sorted(strange)]
        share = sorted(saved.files)[self.communicator.rank :: self.communicator.world]
        return wrong + [f"{file} {fault}" for file in share if (fault := _fault(folder / file, saved.files[file]))]


def read_checkpoint(folder: Path) -> Saved | None:
    """Return a committed checkpoint as its manifest tells it; None where the two do not agree."""
    try:
        if digest_file(folder / MANIFEST) + "\n" != (folder / COMMITTED).read_text(encoding="utf-8"):
            return None
        fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Saved(**{**fields, "path": folder})
    except (OSError, ValueError, TypeError):
        return None


def newest_step(step_folder: Path) -> int | None:
    """Return the step of the newest committed checkpoint, unverified, or None: for showing, not for loading."""
    found = [saved for path in _committed(step_folder / "checkpoints") if (saved := read_checkpoint(path)) is not None]
    return found[-1].step if found else None


def check_claim(step_folder: Path, attempt: str) -> None:
    """Raise RunError where a newer worker group has claimed the step folder, StorageError where the claim is gone."""
    path = step_folder / ATTEMPT
    try:
        current = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise gone(step_folder) from None
    if current != attempt:
        raise RunError(
            f"worker group {attempt} is stale: {current} has taken over",
            where=str(path),
            fix="nothing to do here: the newer group goes on from the last checkpoint",
            code="run.taken-over",
        )


def _claim(step_folder: Path) -> str:
    attempt = uuid.uuid4().hex[:12]
    write_text(step_folder / ATTEMPT, attempt + "\n")
    return attempt


def _committed(folder: Path) -> list[Path]:
    """Folders that have a committed checkpoint's name, by step."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _entry(path: Path, digest: str) -> dict[str, Any]:
    """Make a file durable, and return what the manifest says of it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        # It also takes a handle that only reads: the library that wrote the file has closed its own.
        os.fsync(handle)
    finally:
        os.close(handle)
    return {"bytes": path.stat().st_size, "sha256": digest}


def _fault(path: Path, entry: Mapping[str, Any]) -> str:
    try:
        if path.stat().st_size != entry["bytes"]:
            return f"has {path.stat().st_size} bytes of {entry['bytes']}"
        return "" if digest_file(path) == entry["sha256"] else "does not have the bytes that were written"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint to `bad-…`, under a name that is free."""
    names: Iterable[str] = (f"bad-{path.name}{suffix}" for suffix in ["", *(f"-{n}" for n in range(1, 1000))])
    path.rename(next(path.with_name(name) for name in names if not path.with_name(name).exists()))
