"""The Parquet files of a pairs folder while they are written, in row groups of bounded size."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.pairs.pair_table import PAIR_SCHEMA, ROWS, SIDES, SKIPPED_SCHEMA

GROUP_BYTES = 8 << 20


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


@dataclasses.dataclass(frozen=True)
class PairFiles:
    """What a pairs folder holds, while it is written; `pool` has the one thread that packs and writes."""

    sides: tuple[ItemFile, ItemFile]
    skipped: ItemFile
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
def pair_files(folder: Path) -> Iterator[PairFiles]:
    """Write the files of a pairs folder."""
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        train, heldout = (
            stack.enter_context(item_file(folder / f"{side}.parquet", PAIR_SCHEMA, pool)) for side in SIDES
        )
        skipped = stack.enter_context(item_file(folder / "skipped.parquet", SKIPPED_SCHEMA, pool))
        yield PairFiles((train, heldout), skipped, pool)


class ItemFile:
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
        if self._bytes >= GROUP_BYTES // 2:
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
def item_file(path: Path, schema: pa.Schema, pool: ThreadPoolExecutor, packed: str = "zstd") -> Iterator[ItemFile]:
    """Write a Parquet file of some columns, `packed` by one of Parquet's ways."""
    # Only what repeats is worth a dictionary: to look for equal texts takes time and finds none.
    often = [name for name in ("file", "reason", "prompt.list.element.role") if name.partition(".")[0] in schema.names]
    file = ItemFile(pq.ParquetWriter(path, schema, compression=packed, use_dictionary=often), pool)
    try:
        yield file
    finally:
        file.close()
