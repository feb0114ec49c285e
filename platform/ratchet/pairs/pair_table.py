"""Pairs and skipped rows as tables: what a pairs folder holds, and what a task that reads hands on.

`items_table` works out all that is decided by one pair alone: ids, side of the split, sample key. What gathers the
tables of many tasks compares ids and moves columns, and never sees a row.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ratchet.pairs.checks import characters_of
from ratchet.pairs.digests import ids_of_columns, short_digest
from ratchet.pairs.ids import sample_key
from ratchet.pairs.lean import lean_arrow
from ratchet.pairs.normal_form import wordings
from ratchet.pairs.pair import PreferencePair, Skipped, Turn
from ratchet.pairs.sketches import BINS, has_sketch, sketches_of
from ratchet.plan.data import Source, held_out_source

lean_arrow()
# A reader of a file of pairs holds a whole row group in memory, so it has a bound in rows and in characters.
ROWS = 2048
CHARACTERS = 4 << 20
# Rows differ by a factor of thousands, so a number of rows alone bounds no memory: characters are counted this often.
_AT_ONCE = 64
_AS_OBJECTS = 64

SIDES = ("train", "heldout")
_TURN = pa.struct([(field.name, pa.string()) for field in dataclasses.fields(Turn)])
PROMPT_TYPE = pa.list_(_TURN)
_ANSWERS = ("chosen", "rejected")
_BESIDE_ANSWERS = ("reasoning", "tool_calls")
"""An answer's text has a column of its own, and so has each of what may stand beside it: `chosen_reasoning`."""
PAIR_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("prompt_key", pa.string(), nullable=False),
        pa.field("contest", pa.string()),
        pa.field("first_won", pa.bool_()),
        pa.field("prompt", PROMPT_TYPE, nullable=False),
        pa.field("chosen", pa.string(), nullable=False),
        pa.field("rejected", pa.string()),
        *(pa.field(f"{side}_{key}", pa.string()) for side in _ANSWERS for key in _BESIDE_ANSWERS),
        pa.field("tools", pa.string()),
        pa.field("asked", pa.string()),
        pa.field("dialogue", pa.string()),
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
    ]
)
SKIPPED_SCHEMA = pa.schema(
    [("file", pa.string()), ("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())],
)
_DRAW = pa.binary(24)
"""A sample key and the pair's id: its order is the order in which pairs are drawn."""
_SKETCH = pa.binary(BINS)
ITEM_SCHEMA = pa.schema(
    [
        *(field.with_nullable(True) for field in PAIR_SCHEMA),
        *(field for field in SKIPPED_SCHEMA if field.name in {"reason", "detail"}),
        pa.field("held_out", pa.bool_()),
        pa.field("draw", _DRAW),
        pa.field("last_key", pa.string()),
        pa.field("sketch", _SKETCH),
        pa.field("last_sketch", _SKETCH),
    ]
)
"""A pair, or a skipped row: then it has a reason, and of the pair's columns `file` and `row` alone.

`held_out` says whether all rows of the source are held out: of others the side is known once all prompts are. `draw`
is null where the source has no `max_rows`, and `last_key` where nothing is held out. Of a prompt that a table has
already there is no sketch, nor of a short one.
"""


def pairs_table(pairs: Sequence[PreferencePair]) -> pa.Table:
    """Return pairs as a table of `PAIR_SCHEMA`."""
    contests = [pair.contest for pair in pairs]
    columns: dict[str, Any] = {
        "contest": [contest and contest.key for contest in contests],
        "first_won": [contest and contest.first_won for contest in contests],
        "prompt": _prompts(pairs),
    }
    for side in _ANSWERS:
        turns = [getattr(pair, side) for pair in pairs]
        columns[side] = [turn and turn.content for turn in turns]
        columns |= {f"{side}_{key}": [turn and getattr(turn, key) for turn in turns] for key in _BESIDE_ANSWERS}
    rest = [name for name in PAIR_SCHEMA.names if name not in columns]
    columns |= {name: list(map(operator.attrgetter(name), pairs)) for name in rest}
    return pa.table(columns, schema=PAIR_SCHEMA)


def _prompts(pairs: Sequence[PreferencePair]) -> pa.Array:
    turns = [turn for pair in pairs for turn in pair.prompt]
    fields = [pa.array(list(map(operator.attrgetter(field.name), turns)), field.type) for field in _TURN]
    ends = itertools.accumulate((len(pair.prompt) for pair in pairs), initial=0)
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.StructArray.from_arrays(fields, fields=list(_TURN)))


def items_table(items: Sequence[PreferencePair | Skipped], source: Source) -> pa.Table:
    """Return items as a table of `ITEM_SCHEMA`, in order."""
    pairs = [item for item in items if isinstance(item, PreferencePair)]
    divides = _divides(source)
    last = [pair.last_key if divides or held_out_source(source) else None for pair in pairs]
    columns = _decided(pairs_table(pairs), source, [pair.drawn_by for pair in pairs] if source.max_rows else [], last)
    keys = [pair.prompt_key if divides else None for pair in pairs]
    columns["sketch"] = _sketches(keys, lambda at: pairs[at].opening())
    columns["last_sketch"] = _sketches(last if divides else [None] * len(pairs), lambda at: pairs[at].ending())
    if len(pairs) < len(items):
        at = iter(range(len(pairs)))
        rows = pa.array([next(at) if isinstance(item, PreferencePair) else None for item in items], pa.int64())
        columns = {name: column.take(rows) for name, column in columns.items()}
        columns |= {key: pa.array([getattr(item, key) for item in items]) for key in ("file", "row")}
    for key in ("reason", "detail"):
        columns[key] = pa.array([getattr(item, key, None) for item in items], pa.string())
    return pa.table(columns, schema=ITEM_SCHEMA)


def _sketches(keys: Sequence[str | None], wording_at: Callable[[int], str]) -> pa.Array:
    """Return the sketch of the wording of each prompt's key; null where it has none, or a key stands above it."""
    known: set[str | None] = {None}
    sketched: list[str] = []
    rows: list[int | None] = []
    for at, key in enumerate(keys):
        text = "" if key in known else wording_at(at)
        known.add(key)
        rows.append(len(sketched) if has_sketch(text) else None)
        if rows[-1] is not None:
            sketched.append(text)
    sketches = sketches_of(sketched)
    held = pa.Array.from_buffers(_SKETCH, len(sketches), [None, pa.py_buffer(sketches)])
    return held.take(pa.array(rows, pa.int64()))


def _divides(source: Source) -> bool:
    return 0 < source.held_out_share < 1


def _decided(table: pa.Table, source: Source, drawn_by: Sequence[str], last: Sequence[str | None]) -> dict[str, Any]:
    """Return the columns of pairs, with whether all are held out, the draw where there is one, and the last keys."""
    columns = {name: table.column(name) for name in table.column_names}
    columns["held_out"] = pa.array([source.held_out_share == 1] * len(table), pa.bool_())
    draws = [
        sample_key(source.seed, by) + bytes.fromhex(one)
        for by, one in zip(drawn_by, columns["pair_id"].to_pylist() if drawn_by else (), strict=True)
    ]
    columns["draw"] = pa.array(draws, _DRAW) if drawn_by else pa.nulls(len(table), _DRAW)
    columns["last_key"] = pa.array(last, pa.string()) if last else pa.nulls(len(table), pa.string())
    return columns


def plain_table(
    roles: Sequence[str],
    prompt: Sequence[Sequence[str]],
    chosen: Sequence[str],
    rejected: Sequence[str] | None,
    places: Sequence[tuple[str, int]],
    source: Source,
) -> pa.Table:
    """Return pairs of texts alone as a table of `ITEM_SCHEMA`: what `items_table` makes of them.

    All prompts have the same roles, `prompt` has each turn's contents, and `places` are the files and rows.
    """
    count = len(chosen)
    worded = list(map(wordings, prompt))
    ids = ids_of_columns(roles, prompt, worded, chosen, rejected)
    columns: dict[str, Any] = {
        **ids,
        "prompt": _plain_prompts(roles, prompt, count),
        "chosen": chosen,
        "rejected": pa.nulls(count, pa.string()) if rejected is None else rejected,
        "file": [file for file, _ in places],
        "row": [row for _, row in places],
    }
    nulls = {name: pa.nulls(count, PAIR_SCHEMA.field(name).type) for name in PAIR_SCHEMA.names if name not in columns}
    table = pa.table({**columns, **nulls}, schema=PAIR_SCHEMA)
    asked = [texts for role, texts in zip(roles, worded, strict=True) if role == "user"]
    last = list(map(short_digest, asked[-1])) if _divides(source) and len(asked) > 1 else []
    found = _decided(table, source, ids["pair_id"] if source.max_rows else [], last)
    found["sketch"] = _sketches(ids["prompt_key"] if _divides(source) else [None] * count, asked[0].__getitem__)
    found["last_sketch"] = _sketches(last or [None] * count, asked[-1].__getitem__)
    found |= {key: pa.nulls(count, pa.string()) for key in ("reason", "detail")}
    return pa.table(found, schema=ITEM_SCHEMA)


def _plain_prompts(roles: Sequence[str], prompt: Sequence[Sequence[str]], count: int) -> pa.Array:
    fields = {
        "role": pa.array(list(roles) * count, pa.string()),
        "content": pa.array(itertools.chain.from_iterable(zip(*prompt, strict=True)), pa.string()),
    }
    held = [fields.get(field.name, pa.nulls(len(roles) * count, field.type)) for field in _TURN]
    ends = pa.array(range(0, len(roles) * count + 1, len(roles)), pa.int32())
    return pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(held, fields=list(_TURN)))


def tables_of(items: Iterable[PreferencePair | Skipped], source: Source) -> Iterator[pa.Table]:
    """Yield items as tables of `ITEM_SCHEMA`, each of bounded size."""
    waiting: list[PreferencePair | Skipped] = []
    characters, rest = 0, iter(items)
    while part := list(itertools.islice(rest, _AT_ONCE)):
        waiting += part
        characters += sum(characters_of(item) for item in part if isinstance(item, PreferencePair))
        if len(waiting) >= ROWS or characters >= CHARACTERS:
            yield items_table(waiting, source)
            waiting, characters = [], 0
    if waiting:
        yield items_table(waiting, source)


def read_pairs(path: Path) -> Iterator[PreferencePair]:
    """Yield the pairs of a Parquet file of a pairs folder, in flat memory."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for group in range(file.num_row_groups):  # each of bounded size
            for batch in file.read_row_group(group).to_batches(max_chunksize=_AS_OBJECTS):
                yield from map(pair_of_row, batch.to_pylist())


def pair_of_row(row: Mapping[str, Any]) -> PreferencePair:
    """Return the pair of a row that has the columns of `PAIR_SCHEMA`."""
    prompt = tuple(Turn(**turn) for turn in row["prompt"])
    chosen, rejected = (
        Turn("assistant", row[side], *(row[f"{side}_{key}"] for key in _BESIDE_ANSWERS))
        if row[side] is not None
        else None
        for side in _ANSWERS
    )
    beside = (row[key] for key in ("tools", "asked", "dialogue"))
    return PreferencePair(prompt, cast(Turn, chosen), rejected, row["file"], row["row"], *beside)
