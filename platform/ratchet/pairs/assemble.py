"""Pairs and skipped rows, written as a pairs folder: exact, and in flat memory.

Ids live in a SQLite table beside the files, so that the first of equal pairs is kept however many
there are; the table is gone before the folder is published. The same items in the same order give
the same folder.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ratchet.errors import CorruptError
from ratchet.pairs.checks import Reason, characters_of
from ratchet.pairs.ids import contradictions_in, held_out, sample_key, unique_ids
from ratchet.pairs.lean import lean_arrow
from ratchet.pairs.pair import PreferencePair, Skipped, Turn
from ratchet.plan.data import Source
from ratchet.store.record import checked

lean_arrow()
# A reader holds a whole row group in memory, so it has a bound in rows and in characters.
_ROWS = 2048
_CHARACTERS = 4 << 20

SIDES = ("train", "heldout")
PROMPT_TYPE = pa.list_(pa.struct([(field.name, pa.string()) for field in dataclasses.fields(Turn)]))
_BESIDE_ANSWERS = ("reasoning", "tool_calls")
_ANSWERS = ("chosen", "rejected")
"""An answer's text has a column of its own, and so has each of what may stand beside it: `chosen_reasoning`."""
TEXTS = (
    pa.field("prompt", PROMPT_TYPE, nullable=False),
    pa.field("chosen", pa.string(), nullable=False),
    pa.field("rejected", pa.string()),
    *(pa.field(f"{side}_{key}", pa.string()) for side in _ANSWERS for key in _BESIDE_ANSWERS),
    pa.field("tools", pa.string()),
)
PAIR_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt_key", pa.string(), nullable=False),
        pa.field("contest", pa.string()),
        pa.field("first_won", pa.bool_()),
        *TEXTS,
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
    ]
)
SKIPPED_SCHEMA = pa.schema(
    [("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())],
)


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a pairs folder holds. `read` counts the pairs that were built plus the rows that gave none.

    A row from which a builder makes three pairs counts three times, so read = kept + skipped
    always, and kept = train + heldout. `contradictions` are comparisons kept with both sides as the winner.
    """

    read: int
    kept: int
    train: int
    heldout: int
    skipped: dict[str, int]
    contradictions: int = 0


def assemble(items: Iterable[PreferencePair | Skipped], folder: Path, source: Source) -> Counts:
    """Write `train.parquet`, `heldout.parquet` and `skipped.parquet` into `folder`.

    Equal pairs are kept once, the first of them; `max_rows` of them by the lowest seeded hash; prompts divide by the
    seeded hash of their key. Raises CorruptError where the files do not hold what was counted.
    """
    read, skipped = 0, collections.Counter[str]()
    with contextlib.ExitStack() as stack:
        unique = stack.enter_context(unique_ids(folder / "ids.sqlite"))
        sides = [stack.enter_context(_Table(folder / f"{side}.parquet", PAIR_SCHEMA, pair_row)) for side in SIDES]
        dropped = stack.enter_context(_Table(folder / "skipped.parquet", SKIPPED_SCHEMA, dataclasses.asdict))
        aside = folder / "all.parquet"
        # A sample can be drawn only once all ids are known. So pairs wait in a file, not in memory.
        every = stack.enter_context(_Table(aside, PAIR_SCHEMA, pair_row)) if source.max_rows else None

        def side_of(pair: PreferencePair) -> _Table:
            # By the prompt, so that none is on both sides.
            out = held_out(source.seed, source.held_out, pair.prompt_key)
            return sides[1] if out else sides[0]

        for item in items:
            read += 1
            if isinstance(item, Skipped):
                dropped.add(item, len(item.detail))
                skipped[item.reason] += 1
            elif not unique.add(item.pair_id, sample_key(source.seed, item.pair_id) if source.max_rows else None):
                dropped.add(
                    Skipped(item.file, item.row, Reason.DUPLICATE.value, f"equal to an earlier pair, {item.pair_id}")
                )
                skipped[Reason.DUPLICATE.value] += 1
            else:
                (every or side_of(item)).add(item, characters_of(item))
        if every is not None:
            every.close()
            last = unique.sampled_up_to(source.max_rows or 0)
            for pair in read_pairs(aside):
                if (sample_key(source.seed, pair.pair_id), bytes.fromhex(pair.pair_id)) <= last:
                    side_of(pair).add(pair, characters_of(pair))
                else:
                    dropped.add(Skipped(pair.file, pair.row, Reason.SAMPLE.value, ""))
                    skipped[Reason.SAMPLE.value] += 1
            # Before the folder gets its name: it is not part of what was made.
            aside.unlink()
    train, heldout = (side.rows for side in sides)
    found = contradictions_in(folder)
    counts = Counts(read, read - skipped.total(), train, heldout, dict(sorted(skipped.items())), found)
    _prove(counts, folder)
    return counts


def read_pairs(path: Path) -> Iterator[PreferencePair]:
    """Yield the pairs of a Parquet file of a pairs folder, in flat memory."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for group in range(file.num_row_groups):  # each of bounded size, by `_Table`
            table = file.read_row_group(group)
            for batch in table.to_batches(max_chunksize=_ROWS // 32):
                yield from map(pair_of_row, batch.to_pylist())


def pair_row(pair: PreferencePair) -> dict[str, Any]:
    """Return a pair as a row of `PAIR_SCHEMA`."""
    ids = {"pair_id": pair.pair_id, "prompt_id": pair.prompt_id, "prompt_key": pair.prompt_key}
    contest = pair.contest
    verdict = {"contest": contest and contest.key, "first_won": contest and contest.first_won}
    return {**ids, **verdict, **text_row(pair), "file": pair.file, "row": pair.row}


def text_row(pair: PreferencePair) -> dict[str, Any]:
    """Return a pair's texts as `TEXTS` has them."""
    row: dict[str, Any] = {"prompt": [vars(turn) for turn in pair.prompt], "tools": pair.tools}
    for side, turn in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        row[side] = turn.content if turn else None
        row |= {f"{side}_{key}": getattr(turn, key, None) for key in _BESIDE_ANSWERS}
    return row


def pair_of_row(row: Mapping[str, Any]) -> PreferencePair:
    """Return the pair of a row with the columns `TEXTS`, `file` and `row`."""
    prompt = tuple(Turn(**turn) for turn in row["prompt"])
    chosen, rejected = (
        Turn("assistant", row[side], *(row[f"{side}_{key}"] for key in _BESIDE_ANSWERS))
        if row[side] is not None
        else None
        for side in _ANSWERS
    )
    return PreferencePair(prompt, cast(Turn, chosen), rejected, row["file"], row["row"], row["tools"])


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


class _Table:
    """A Parquet file that grows by row groups of bounded size."""

    def __init__(self, path: Path, schema: pa.Schema, row: Callable[[Any], dict[str, Any]]) -> None:
        self._schema, self._row = schema, row
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[dict[str, Any]] = []
        self._characters = 0
        self.rows = 0

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, item: Any, characters: int = 0) -> None:
        self._waiting.append(self._row(item))
        self._characters += characters
        self.rows += 1
        if len(self._waiting) >= _ROWS or self._characters >= _CHARACTERS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
            self._waiting, self._characters = [], 0
