"""What lies in a store: where each kind of part is, how it is looked at, and whose lease guards it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from ratchet.errors import CorruptError, some
from ratchet.evaluate.harness.data import copy_faults
from ratchet.evaluate.harness.requests import digest_fault
from ratchet.pipeline.step_folder import IDENTITY, SHOWN, masters_files
from ratchet.pipeline.step_inputs import KEY, begun_as
from ratchet.reference.models import of_whole_split
from ratchet.reference.pack import is_packed
from ratchet.reference.store import block_fault, block_paths, remove_block, unpack_blocks
from ratchet.serving.journal import parse_answer, parse_unit
from ratchet.store.append import damaged_lines, rewrite
from ratchet.store.files import read_sealed, write_sealed
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import holder_of
from ratchet.store.record import NAME, Record, examine_folder, faults, put_aside, read_record
from ratchet.train.checkpoint import read_checkpoint, set_aside


@dataclasses.dataclass(frozen=True)
class PartKind:
    """A kind of part: the paths below the root that match `pattern`; `look` says what one of them is."""

    name: str
    pattern: str
    look: Callable[[Path, Layout], Iterator[StorePart]]


def _whole(lease: str | None) -> Callable[[Path, Layout], Iterator[StorePart]]:
    """Return how a folder is looked at that appears by one rename, under the lease `<lease>-<its name>`."""

    def find(folder: Path, layout: Layout) -> Iterator[StorePart]:
        guard = None if lease is None else layout.lease(f"{lease}-{folder.name}")
        found = examine_folder(folder)
        if isinstance(found, Record):
            yield StorePart(folder, "ok")
        else:
            yield StorePart(folder, "damaged", some(found), guard, lambda: _aside(folder, layout))

    return find


def _logps(folder: Path, layout: Layout) -> Iterator[StorePart]:
    """Scores of references: only what is damaged goes, a block or the record."""
    try:
        record = read_record(folder)
        told = faults(folder, record.files) if record else []
    except CorruptError as error:
        record, told = None, [f"{NAME}: {error.what}"]
    packed = is_packed(record)
    bad = {} if packed else {path: fault for path in block_paths(folder) if (fault := block_fault(path))}
    told = told or [f"{path.name} {fault}" for path, fault in bad.items()]
    if not told:
        yield StorePart(folder, "ok" if record else "unfinished")
        for path in block_paths(folder) if packed else ():  # of a process that was killed before it could remove them
            guard = _logps_lease(folder, record, layout)
            yield StorePart(path, "leftover", "scores.arrow has it", guard, lambda one=path: _no_block(one))  # type: ignore[misc]
        return

    def mend() -> str:
        for path in bad:
            remove_block(path)
        given = unpack_blocks(folder)
        (folder / NAME).unlink(missing_ok=True)
        more = f", {given} of them unpacked" if given else ""
        return f"removed its record and {len(bad)} blocks; the other blocks stay{more}"

    yield StorePart(folder, "damaged", some(told), _logps_lease(folder, record, layout), mend)


def _no_block(path: Path) -> str:
    remove_block(path)
    return "removed"


def _logps_lease(folder: Path, record: Record | None, layout: Layout) -> Path:
    """A sample of a split has the lease of the whole split. Where it is unknown which, any that is held guards."""
    if record is not None:
        return layout.lease(f"{record.kind}-{fingerprint(of_whole_split(record.identity))}")
    held = (lease for lease in layout.lease("x").parent.glob("logps-*") if holder_of(lease) is not None)
    return next(held, layout.lease(f"logps-{folder.name}"))


def _step(folder: Path, layout: Layout) -> Iterator[StorePart]:
    """Steps: a damaged one goes aside as a whole, unless only pages read what is damaged."""
    if folder.is_symlink():  # into the store, where it is looked at
        return
    shared = folder.parent == layout.made_step("x").parent
    lease = layout.lease(f"step-{folder.name}") if shared else folder.parent.parent / "lease"
    yield from _checkpoints(folder, lease)

    def aside() -> str:
        return _aside_step(folder, layout, shared=shared)

    found = examine_folder(folder) if (folder / NAME).exists() else []
    if isinstance(found, Record):
        wrong = faults(folder, masters_files(folder, found))
        yield (StorePart(folder, "damaged", some(wrong), lease, aside) if wrong else StorePart(folder, "ok"))
    elif not found:
        yield from _documents(folder, lease)
        yield StorePart(folder, "unfinished")
    elif all(fault.partition(" ")[0] in SHOWN for fault in found):
        yield StorePart(folder, "damaged", f"{some(found)}: pages leave it out; only `--fresh` makes it again", lease)
    else:
        yield StorePart(folder, "damaged", some(found), lease, aside)


def _documents(folder: Path, lease: Path) -> Iterator[StorePart]:
    """Documents of an unfinished step, which carry their own digests."""
    for path in (folder / name for name in ("identity.json", "reference.json", "budget.json")):
        yield from (part for part in _document(path, lease) if part.wrong)


def _document(path: Path, lease: Path | None) -> Iterator[StorePart]:
    try:
        read_sealed(path)
    except CorruptError as error:
        mend = None if path.name in {"identity.json", "reference.json"} else lambda: _removed(path)
        more = "" if mend else ": run the plan with --fresh to make the step again"
        yield StorePart(path, "damaged", f"{error.what}{more}", lease, mend)
    else:
        yield StorePart(path, "ok")


def _order(path: Path, layout: Layout) -> Iterator[StorePart]:
    yield from _document(path, path.parent.parent / "lease")


def _kept_answer(path: Path, layout: Layout) -> Iterator[StorePart]:
    yield from _document(path, None)


def _trial(path: Path, layout: Layout) -> Iterator[StorePart]:
    """A trial's point and its end: without its end it runs again with the sweep."""
    lease = layout.lease(f"trial-{path.parts[-4]}-{path.parts[-2]}")
    for part in _document(path, lease):
        more = ": put it back from a copy, or delete the trial's folder"
        lost = part.wrong and path.name == "point.json"
        yield dataclasses.replace(part, what=f"{part.what}{more}", mend=None) if lost else part


def _checkpoints(step: Path, lease: Path) -> Iterator[StorePart]:
    for folder in sorted((step / "checkpoints").glob("*")):
        if folder.name.startswith("bad-"):
            yield StorePart(folder, "put aside")
        elif folder.name.startswith("step-"):
            saved = read_checkpoint(folder)
            named = {name: (entry["bytes"], entry["sha256"]) for name, entry in saved.files.items()} if saved else {}
            wrong = faults(folder, named) if saved else ["its manifest is not the one that was committed"]
            if wrong:
                yield StorePart(folder, "damaged", some(wrong), lease, lambda path=folder: _bad(path))  # type: ignore[misc]


def _bad(folder: Path) -> str:
    set_aside(folder)
    return "renamed to bad-…; training goes on from the previous one"


def _journal(lease: str, parse: Callable[[bytes], tuple[str, object]]) -> Callable[[Path, Layout], Iterator[StorePart]]:
    def find(path: Path, layout: Layout) -> Iterator[StorePart]:
        bad = damaged_lines(path, parse)
        if not bad:
            yield StorePart(path, "ok")
            return

        def mend() -> str:
            rewrite(path, without=bad)
            return f"removed {len(bad)} lines; what they held is asked again"

        told = some([f"line {number}: {fault}" for number, fault in bad.items()])
        yield StorePart(path, "damaged", told, layout.lease(f"{lease}-{path.stem}"), mend)

    return find


def _requests(path: Path, layout: Layout) -> Iterator[StorePart]:
    fault = digest_fault(path.read_bytes())
    yield StorePart(path, "damaged", fault, None, lambda: _removed(path)) if fault else StorePart(path, "ok")


def _copies(folder: Path, layout: Layout) -> Iterator[StorePart]:
    wrong = copy_faults(folder)
    lease = layout.lease("datasets")
    yield (
        StorePart(folder, "damaged", some(wrong), lease, lambda: _removed(folder)) if wrong else StorePart(folder, "ok")
    )


def _was_aside(path: Path, layout: Layout) -> Iterator[StorePart]:
    yield StorePart(path, "put aside")


def _aside(folder: Path, layout: Layout) -> str:
    return f"put aside as {put_aside(folder, layout.damaged)}; the next run makes it again"


def _aside_step(folder: Path, layout: Layout, *, shared: bool) -> str:
    """Put a step aside; say what was done."""
    begun, told = begun_as(folder), _aside(folder, layout)
    # One that began with float32 masters stays known as that, so that it begins with them again.
    if begun is not None and KEY in begun and not shared:
        folder.mkdir()
        write_sealed(folder / IDENTITY, begun)
    return told


def _removed(path: Path) -> str:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return "removed"


KINDS: Mapping[str, PartKind] = {
    kind.name: kind
    for kind in (
        PartKind("pairs", "store/pairs/*", _whole("pairs")),
        PartKind("tokens", "store/tokens/*", _whole("tokens")),
        PartKind("models", "store/models/*", _whole("models")),
        PartKind("rehearsals", "store/rehearsals/*", _whole("rehearsals")),
        PartKind("reference scores", "store/logps/*", _logps),
        PartKind("shared steps", "store/steps/*", _step),
        PartKind("answers", "store/answers/*.jsonl", _journal("answers", parse_unit)),
        PartKind("judgments", "store/judgments/*.jsonl", _journal("judgments", parse_answer)),
        PartKind("requests", "store/requests/*.requests", _requests),
        PartKind("copies of data sets", "store/datasets/*", _copies),
        PartKind("results", "store/scores/*", _whole(None)),
        PartKind("kept answers", "store/answered/*.json", _kept_answer),
        PartKind("steps", "runs/*/steps/*", _step),
        PartKind("orders", "runs/*/orders/*.json", _order),
        PartKind("trials", "sweeps/*/trials/*/point.json", _trial),
        PartKind("ends of trials", "sweeps/*/trials/*/trial.json", _trial),
        PartKind("put aside", "store/damaged/*", _was_aside),
    )
}
"""Every kind of part, in the order in which they are listed."""


State = Literal["ok", "damaged", "unfinished", "leftover", "put aside"]
"""`unfinished`: a run that is called again goes on with it. `leftover`: what a killed process was writing, which
is never read. `put aside`: it was damaged and was made again since; delete it once you have looked at it."""


@dataclasses.dataclass(frozen=True)
class StorePart:
    """A folder or file of a store. `what` says what is wrong with it.

    `mend` removes it or puts it aside, and returns in words what it did. It is None where nothing is to be done, or
    nothing can be. `lease` is that of the process that makes the part: it must be held while `mend` works. Without one,
    only what was not written to for an hour is a leftover.
    """

    path: Path
    state: State
    what: str = ""
    lease: Path | None = None
    mend: Callable[[], str] | None = None

    @property
    def wrong(self) -> bool:
        """Whether something is to be done about it."""
        return self.state in {"damaged", "leftover"}
