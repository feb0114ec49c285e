"""Tables of pairs and skipped rows, written as a pairs folder: exact, and in flat memory.

The first of equal pairs is kept however many there are. The same items in the same order give the same folder, however
they are divided into tables.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.errors import CorruptError
from ratchet.pairs.checks import Reason
from ratchet.pairs.ids import Lowest, contradictions_in
from ratchet.pairs.pair import PreferencePair, Skipped
from ratchet.pairs.pair_table import ITEM_SCHEMA, PAIR_SCHEMA, ROWS, SIDES, SKIPPED_SCHEMA, tables_of
from ratchet.pairs.unique import UniqueIds, digests_of, unique_ids
from ratchet.plan.data import Source, held_out_source
from ratchet.store.record import checked

_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a pairs folder holds. `read` counts the pairs that were built plus the rows that gave none.

    A row from which a builder makes three pairs counts three times, and so does a dialogue of three
    demonstrations: read = kept + skipped always, and kept = train + heldout. `contradictions` are
    comparisons kept with both sides as the winner, and `dialogues` those of several demonstrations, any kept.
    """

    read: int
    kept: int
    train: int
    heldout: int
    skipped: dict[str, int]
    contradictions: int = 0
    dialogues: int = 0


def assemble(items: Iterable[PreferencePair | Skipped], folder: Path, source: Source) -> Counts:
    """Do what `assemble_tables` does with pairs and skipped rows that are no tables yet."""
    return assemble_tables(tables_of(items, source), folder, source)


def assemble_tables(tables: Iterable[pa.Table], folder: Path, source: Source) -> Counts:
    """Write `train.parquet`, `heldout.parquet` and `skipped.parquet` into `folder`, from tables of `ITEM_SCHEMA`.

    Equal pairs are kept once, the first of them; `max_rows` of them by the lowest seeded hash; prompts divide by the
    seeded hash of their key. Where the source holds out rows of their own, these come first, and no later pair with a
    prompt of theirs is kept. Raises CorruptError where the files do not hold what was counted.
    """
    read, aside = 0, folder / "all.parquet"
    lowest = Lowest(source.max_rows) if source.max_rows else None
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(_files(folder))
        unique = stack.enter_context(unique_ids(folder / "ids"))
        aside_keys = stack.enter_context(unique_ids(folder / "keys")) if held_out_source(source) else None
        # A sample can be drawn only once all ids are known. So pairs wait in a file, not in memory.
        every = stack.enter_context(_file(aside, ITEM_SCHEMA, files.pool)) if lowest else None
        for part in itertools.chain.from_iterable(map(_parts, tables)):
            read += len(part)
            mine = part if aside_keys is None else _not_held_out(part, aside_keys, files)
            fresh, dropped = _first_of_equal(mine, unique)
            files.drop(dropped)
            if every is None or lowest is None:
                files.keep(fresh)
            else:
                drawn = pc.is_valid(fresh.column("draw"))  # rows that are held out by themselves have none
                files.keep(fresh.filter(pc.invert(drawn)))
                every.add(fresh.filter(drawn))
                lowest.add(fresh.filter(drawn).column("draw"))
        if every is not None and lowest is not None:
            every.close()
            _draw(aside, lowest.last(), files)
            # Before the folder gets its name: it is not part of what was made.
            aside.unlink()
    skipped = files.reasons
    train, heldout = (side.rows for side in files.sides)
    found = contradictions_in(folder)
    counts = Counts(
        read, read - skipped.total(), train, heldout, dict(sorted(skipped.items())), found, files.dialogues.count
    )
    _prove(counts, folder)
    return counts


class _Dialogues:
    """How many dialogues there are; the demonstrations of one come one after the other."""

    def __init__(self) -> None:
        self.count = 0
        self._last: tuple[str, int] | None = None

    def add(self, part: pa.Table) -> None:
        """Count those of a table, which may go on with the last one."""
        named = part.filter(pc.is_valid(part.column("dialogue")))
        for place in zip(named.column("file").to_pylist(), named.column("row").to_pylist(), strict=True):
            self.count += place != self._last
            self._last = place


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    """Divide a table of any size into such as a file may hold in one piece."""
    if len(table) < 2 or (len(table) <= ROWS and table.nbytes <= _BYTES):
        yield table
        return
    half = len(table) // 2
    yield from _parts(table.slice(0, half))
    yield from _parts(table.slice(half))


def _not_held_out(part: pa.Table, keys: UniqueIds, files: _Files) -> pa.Table:
    """Return `part` without the pairs to train on whose prompt is held out; `keys` learns the prompts of those."""
    is_pair = pc.is_null(part.column("reason")).to_numpy()
    out = pc.fill_null(part.column("held_out"), False).to_numpy()
    ids = digests_of(part.column("prompt_key").drop_null())
    keys.add(ids[out[is_pair]])
    leaked = is_pair & ~out
    leaked[leaked] = keys.has(ids[~out[is_pair]])
    later = pc.is_valid(part.column("later_key")).to_numpy() & ~leaked & ~out
    later[later] = keys.has(digests_of(part.column("later_key").filter(pa.array(later))))
    for dropped, what in ((leaked, "asks the same"), (later, "asks what the last turn asks")):
        rows = part.filter(pa.array(dropped))
        detail = [f"a row that is held out {what}"] * len(rows)
        files.drop(_with_reason(rows, [Reason.HELD_OUT.value] * len(rows), detail))
    return part.filter(pa.array(~(leaked | later)))


def _first_of_equal(part: pa.Table, unique: UniqueIds) -> tuple[pa.Table, pa.Table]:
    """Return the pairs that are there for the first time, and all else of `part`, each row with its reason."""
    is_pair = pc.is_null(part.column("reason")).to_numpy()
    ids = part.column("pair_id")
    kept = is_pair.copy()
    kept[is_pair] = unique.add(digests_of(ids.drop_null()))
    if kept.all():
        return part, part.slice(0, 0)
    dropped = part.filter(pa.array(~kept))
    equal = pc.binary_join_element_wise("equal to an earlier pair, ", dropped.column("pair_id"), "")
    detail = pc.coalesce(dropped.column("detail"), equal)
    reason = pc.fill_null(dropped.column("reason"), Reason.DUPLICATE.value)
    return part.filter(pa.array(kept)), _with_reason(dropped, reason, detail)


def _with_reason(rows: pa.Table, reason: Any, detail: Any) -> pa.Table:
    return pa.table([rows.column("file"), rows.column("row"), reason, detail], schema=SKIPPED_SCHEMA)


def _draw(aside: Path, last: pa.Scalar | None, files: _Files) -> None:
    """Keep the pairs up to `last` in the order of their draws; all where that is None."""
    with pq.ParquetFile(aside, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            pairs = file.read_row_group(group)
            drawn = pc.less_equal(pairs.column("draw"), last) if last is not None else pa.array([True] * len(pairs))
            left = pairs.filter(pc.invert(drawn))
            files.keep(pairs.filter(drawn))
            files.drop(_with_reason(left, [Reason.SAMPLE.value] * len(left), [""] * len(left)))


@dataclasses.dataclass(frozen=True)
class _Files:
    """What a pairs folder holds, while it is written; `pool` has the one thread that packs and writes."""

    sides: tuple[_File, _File]
    skipped: _File
    pool: ThreadPoolExecutor
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    dialogues: _Dialogues = dataclasses.field(default_factory=_Dialogues)

    def keep(self, pairs: pa.Table) -> None:
        """Divide pairs by what `held_out` says of them."""
        self.dialogues.add(pairs)
        out = pairs.column("held_out")
        for side, mask in zip(self.sides, (pc.invert(out), out), strict=True):
            side.add(pairs.filter(mask))

    def drop(self, rows: pa.Table) -> None:
        """Write rows with the reasons why they are not kept."""
        self.reasons.update(rows.column("reason").to_pylist())
        self.skipped.add(rows)


@contextlib.contextmanager
def _files(folder: Path) -> Iterator[_Files]:
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        train, heldout = (stack.enter_context(_file(folder / f"{side}.parquet", PAIR_SCHEMA, pool)) for side in SIDES)
        skipped = stack.enter_context(_file(folder / "skipped.parquet", SKIPPED_SCHEMA, pool))
        yield _Files((train, heldout), skipped, pool)


class _File:
    """A Parquet file that grows by row groups of bounded size; a thread packs one while the next is gathered."""

    def __init__(self, writer: pq.ParquetWriter, pool: ThreadPoolExecutor) -> None:
        self._writer, self._pool = writer, pool
        self._waiting: list[pa.Table] = []
        self._held = self._bytes = 0
        self._writing: Future[None] | None = None
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Add rows that have the file's columns, and perhaps others."""
        if not len(table):
            return
        if self._held + len(table) > ROWS:
            self._flush()
        self._waiting.append(pa.table([table.column(name) for name in self._writer.schema.names], self._writer.schema))
        self._held += len(table)
        self._bytes += table.nbytes
        self.rows += len(table)
        if self._bytes >= _BYTES // 2:
            self._flush()

    def close(self) -> None:
        """Write what is left. Raises what writing raised."""
        self._flush()
        self._wait()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._wait()
            self._writing = self._pool.submit(self._writer.write_table, table, len(table))
            self._waiting, self._held, self._bytes = [], 0, 0

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None


@contextlib.contextmanager
def _file(path: Path, schema: pa.Schema, pool: ThreadPoolExecutor) -> Iterator[_File]:
    # Only what repeats is worth a dictionary: to look for equal texts takes time and finds none.
    often = [name for name in ("file", "reason", "prompt.list.element.role") if name.partition(".")[0] in schema.names]
    file = _File(pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=often), pool)
    try:
        yield file
    finally:
        file.close()


def places_of_pairs(files: Sequence[Path], pair_ids: Sequence[str]) -> list[str]:
    """Return each pair's `file:row`, as the tables of pairs in `files` name them; its id where none of them has it.

    Reads the files row group by row group, and those columns alone. Raises CorruptError where one is damaged.
    """
    wanted, found = pa.array(pair_ids, pa.string()), dict[str, str]()
    for path in files:
        if not path.exists():
            continue
        with pq.ParquetFile(checked(path)) as file:
            for batch in file.iter_batches(columns=["pair_id", "file", "row"]):
                rows = batch.filter(pc.is_in(batch.column("pair_id"), value_set=wanted))
                found |= {row["pair_id"]: f"{row['file']}:{row['row']}" for row in rows.to_pylist()}
    return [found.get(one, one) for one in pair_ids]


def _prove(counts: Counts, folder: Path) -> None:
    """Raise CorruptError unless the files hold the counted rows, and the counts add up."""
    # Read back from the disk: what was counted while writing would agree with itself.
    held = {name: pq.read_metadata(folder / f"{name}.parquet").num_rows for name in ("train", "heldout", "skipped")}
    counted = {"train": counts.train, "heldout": counts.heldout, "skipped": sum(counts.skipped.values())}
    if held != counted or counts.kept != counts.train + counts.heldout:
        raise CorruptError(f"the files hold {held}, and the counts are {counts}", where=str(folder), fix="run again")
