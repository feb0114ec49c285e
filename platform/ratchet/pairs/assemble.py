"""Tables of pairs and skipped rows, written as a pairs folder: exact, and in flat memory.

The first of equal pairs is kept however many there are. The same items in the same order give the same folder, however
they are divided into tables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.errors import CorruptError
from ratchet.pairs.checks import Reason
from ratchet.pairs.groups import PromptGroups, PromptSides, prompt_groups
from ratchet.pairs.ids import Lowest, contradictions_in
from ratchet.pairs.pair import PreferencePair, Skipped
from ratchet.pairs.pair_files import GROUP_BYTES, ItemFile, PairFiles, item_file, pair_files
from ratchet.pairs.pair_table import ITEM_SCHEMA, ROWS, SKIPPED_SCHEMA, tables_of
from ratchet.pairs.unique import UniqueIds, digests_of, unique_ids
from ratchet.plan.data import Source, held_out_source
from ratchet.store.record import checked

_WAITING = pa.schema([field for field in ITEM_SCHEMA if field.name not in {"last_key", "sketch", "last_sketch"}])


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a pairs folder holds. `read` counts the pairs that were built plus the rows that gave none.

    A row from which a builder makes three pairs counts three times, and so does a dialogue of three
    demonstrations: read = kept + skipped always, and kept = train + heldout. `contradictions` are
    comparisons kept with both sides as the winner, and `dialogues` those of several demonstrations, any kept.
    Of prompts, `together` share a side with one that is worded otherwise, and `divided` do not, as they are too many.
    """

    read: int
    kept: int
    train: int
    heldout: int
    skipped: dict[str, int]
    contradictions: int = 0
    dialogues: int = 0
    together: int = 0
    divided: int = 0


def assemble(items: Iterable[PreferencePair | Skipped], folder: Path, source: Source) -> Counts:
    """Do what `assemble_tables` does with pairs and skipped rows that are no tables yet."""
    return assemble_tables(tables_of(items, source), folder, source)


def assemble_tables(
    tables: Iterable[pa.Table], folder: Path, source: Source, shown: frozenset[str] = frozenset()
) -> Counts:
    """Write `train.parquet`, `heldout.parquet` and `skipped.parquet` into `folder`, from tables of `ITEM_SCHEMA`.

    Equal pairs are kept once, the first of them; `max_rows` of them by the lowest seeded hash. Prompts divide by the
    seeded hash of their group, so what is near each other stays together; those whose keys are `shown`, as examples
    above other questions, are trained on. Where the source holds out rows of their own, these come first, and no later
    pair with a prompt of theirs is kept. Raises CorruptError where the files do not hold what was counted.
    """
    read = 0
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(pair_files(folder))
        unique = stack.enter_context(unique_ids(folder / "ids"))
        aside_keys = stack.enter_context(unique_ids(folder / "keys")) if held_out_source(source) else None
        waiting = stack.enter_context(_waiting(folder, source, files))
        for part in itertools.chain.from_iterable(map(_parts, tables)):
            read += len(part)
            mine = part if aside_keys is None else _not_held_out(part, aside_keys, files)
            fresh, dropped = _first_of_equal(mine, unique)
            files.drop(dropped)
            waiting.add(fresh)
        sides = waiting.divide(shown)
    skipped = files.reasons
    train, heldout = (side.rows for side in files.sides)
    counts = Counts(
        read,
        read - skipped.total(),
        train,
        heldout,
        dict(sorted(skipped.items())),
        contradictions_in(folder),
        files.dialogues.count,
        *((sides.together, sides.divided) if sides else ()),
    )
    _prove(counts, folder)
    return counts


class _Waiting:
    """Pairs that wait in a file, not in memory, until all ids and prompts are known; others are kept at once.

    A sample can be drawn only then, and only then it is known which prompts belong together.
    """

    def __init__(self, source: Source, files: PairFiles, aside: ItemFile, path: Path, groups: PromptGroups) -> None:
        self._source, self._files, self._aside, self._path, self._groups = source, files, aside, path, groups
        self._lowest = Lowest(source.max_rows) if source.max_rows else None
        self._divides = 0 < source.held_out_share < 1

    def add(self, pairs: pa.Table) -> None:
        """Keep pairs, or let them wait."""
        if self._divides:
            self._groups.add(pairs)
        if self._lowest is not None:
            drawn = pc.is_valid(pairs.column("draw"))  # rows that are held out by themselves have none
            self._files.keep(pairs.filter(pc.invert(drawn)))
            pairs = pairs.filter(drawn)
            self._lowest.add(pairs.column("draw"))
        elif not self._divides:
            self._files.keep(pairs)
            return
        self._aside.add(pairs)

    def divide(self, shown: frozenset[str]) -> PromptSides | None:
        """Keep what is drawn, each pair on its side. Return the sides; None where the source has no share for them."""
        self._aside.close()
        last = self._lowest.last() if self._lowest else None
        sides = self._groups.sides(self._source.seed, self._source.held_out_share, shown) if self._divides else None
        with unique_ids(self._path.with_suffix(".held")) as held:
            if sides is not None:
                held.add(sides.held_out_M2)
            for pairs in _row_groups(self._path):
                self._draw(pairs if sides is None else _divided(pairs, held), last)
        return sides

    def _draw(self, pairs: pa.Table, last: pa.Scalar | None) -> None:
        if last is not None:
            drawn = pc.less_equal(pairs.column("draw"), last)
            left = pairs.filter(pc.invert(drawn))
            self._files.drop(_with_reason(left, [Reason.SAMPLE.value] * len(left), [""] * len(left)))
            pairs = pairs.filter(drawn)
        self._files.keep(pairs)


@contextlib.contextmanager
def _waiting(folder: Path, source: Source, files: PairFiles) -> Iterator[_Waiting]:
    path = folder / "all.parquet"
    # It is read once and gone before the folder gets its name, so it is packed quickly.
    with prompt_groups(folder) as groups, item_file(path, _WAITING, files.pool, "lz4") as aside:
        yield _Waiting(source, files, aside, path, groups)
    path.unlink()


def _divided(pairs: pa.Table, held: UniqueIds) -> pa.Table:
    """Return pairs with the side that their group falls on."""
    out = pa.array(held.has(digests_of(pairs.column("prompt_key"))))
    return pairs.set_column(pairs.schema.get_field_index("held_out"), "held_out", out)


def _row_groups(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    """Divide a table of any size into such as a file may hold in one piece."""
    if len(table) < 2 or (len(table) <= ROWS and table.nbytes <= GROUP_BYTES):
        yield table
        return
    half = len(table) // 2
    yield from _parts(table.slice(0, half))
    yield from _parts(table.slice(half))


def _not_held_out(part: pa.Table, keys: UniqueIds, files: PairFiles) -> pa.Table:
    """Return `part` without the pairs to train on whose prompt is held out; `keys` learns the prompts of those."""
    is_pair = pc.is_null(part.column("reason")).to_numpy()
    out = pc.fill_null(part.column("held_out"), False).to_numpy()
    ids = digests_of(part.column("prompt_key").drop_null())
    keys.add(ids[out[is_pair]])
    leaked = is_pair & ~out
    leaked[leaked] = keys.has(ids[~out[is_pair]])
    later = pc.is_valid(part.column("last_key")).to_numpy() & ~leaked & ~out
    later[later] = keys.has(digests_of(part.column("last_key").filter(pa.array(later))))
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
