"""What a folder of pairs holds, against plain sets and sorted lists: whatever the tables that the items come in."""

from __future__ import annotations

import hashlib
import itertools
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightly import examples
from ratchet.pairs.assemble import Counts, assemble_tables
from ratchet.pairs.pair import PreferencePair, Skipped, Turn, answer_turn
from ratchet.pairs.pair_table import items_table, tables_of
from ratchet.plan.data import Source

Item = PreferencePair | Skipped
NO_TURN: Any = Turn("assistant", cast(str, None))
TABLES = ("train", "heldout", "skipped")


def lowest_eight_bytes(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)


def row_of(pair: PreferencePair) -> dict[str, Any]:
    contest, rejected = pair.contest, pair.rejected or NO_TURN
    return {
        "pair_id": pair.pair_id,
        "prompt_id": pair.prompt_id,
        "prompt_key": pair.prompt_key,
        "contest": None if contest is None else contest.key,
        "first_won": None if contest is None else contest.first_won,
        "prompt": [vars(turn) for turn in pair.prompt],
        "chosen": pair.chosen.content,
        "rejected": rejected.content,
        "chosen_reasoning": pair.chosen.reasoning,
        "rejected_reasoning": rejected.reasoning,
        "chosen_tool_calls": pair.chosen.tool_calls,
        "rejected_tool_calls": rejected.tool_calls,
        "tools": pair.tools,
        "asked": pair.asked,
        "dialogue": pair.dialogue,
        "file": pair.file,
        "row": pair.row,
    }


def plainly(items: list[Item], source: Source) -> tuple[Counts, dict[str, list[dict[str, Any]]]]:
    """What a reader of the documentation would write: sets, sorted lists and one row at a time."""
    first: dict[str, PreferencePair] = {}
    skipped: list[Skipped] = []
    for item in items:
        if isinstance(item, Skipped):
            skipped.append(item)
        elif item.pair_id in first:
            skipped.append(Skipped(item.file, item.row, "duplicate", f"equal to an earlier pair, {item.pair_id}"))
        else:
            first[item.pair_id] = item
    drawn = sorted(first, key=lambda one: (lowest_eight_bytes(f"sample:{source.seed}:{one}"), one))[: source.max_rows]
    skipped += [Skipped(pair.file, pair.row, "sample", "") for one, pair in first.items() if one not in {*drawn}]
    sides: dict[str, list[PreferencePair]] = {"train": [], "heldout": []}
    for one, pair in first.items():
        if one in {*drawn}:
            out = lowest_eight_bytes(f"split:{source.seed}:{pair.prompt_key}") < source.held_out * 2**64
            sides["heldout" if out else "train"].append(pair)
    kept = [pair for side in sides.values() for pair in side]
    verdicts = {(pair.contest.key, pair.contest.first_won) for pair in kept if pair.contest}
    counts = Counts(
        len(items),
        len(kept),
        *(len(side) for side in sides.values()),
        dict(sorted(Counter(item.reason for item in skipped).items())),
        len(verdicts) - len({key for key, _ in verdicts}),
    )
    rows: dict[str, list[dict[str, Any]]] = {side: [row_of(pair) for pair in held] for side, held in sides.items()}
    return counts, rows | {"skipped": [dict(vars(item)) for item in skipped]}


def made(draw: random.Random, count: int) -> list[Item]:
    """Return pairs of few texts, so that many are equal, and some that were skipped."""

    def some(*values: Any) -> Any:
        return draw.choice(values)

    def answer() -> Turn:
        more = (some("[1]", "[]") if draw.random() < 0.2 else None for _ in range(2))
        return Turn("assistant", some("a", "b", " B ", "ü\n", "x" * 300), *more)

    def item(row: int) -> Item:
        if draw.random() < 0.2:
            return Skipped("g", row, some("not JSON", "tie"), some("", "why"))
        system = [Turn("system", "be brief")] * some(0, 0, 1)
        asked = Turn("user", some("q", "Q?", "r", "s 1", "s 2", ""))
        return PreferencePair((*system, asked), answer(), some(answer(), answer(), None), "f", row, some(None, "[2]"))

    return [item(row) for row in range(1, count + 1)]


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 1 << 32),
    st.integers(0, 80),
    st.lists(st.integers(0, 30), max_size=6),
    st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    st.one_of(st.none(), st.integers(1, 30)),
    st.integers(0, 3),
)
def test_the_files_hold_what_sets_and_sorted_lists_give_whatever_the_tables(
    drawn: int, count: int, cuts: list[int], share: float, max_rows: int | None, seed: int
) -> None:
    items = made(random.Random(drawn), count)
    source = Source(path="f", held_out=share, max_rows=max_rows, seed=seed)
    ends = sorted({0, len(items), *(cut for cut in cuts if cut < len(items))})
    tables = [items_table(items[start:stop], source) for start, stop in itertools.pairwise(ends)]
    if len(cuts) % 2 and tables:
        tables = [pa.concat_tables(tables)]  # one table in several pieces, as a store of objects hands it on
    with tempfile.TemporaryDirectory() as name:
        counts = assemble_tables(tables, Path(name), source)
        assert sorted(path.name for path in Path(name).iterdir()) == sorted(f"{table}.parquet" for table in TABLES)
        found = {table: pq.read_table(Path(name) / f"{table}.parquet").to_pylist() for table in TABLES}
    assert (counts, found) == plainly(items, source)


def test_tables_are_bounded_in_rows_and_in_characters(tmp_path: Path) -> None:
    def pair(at: int, size: int) -> PreferencePair:
        return PreferencePair((Turn("user", f"q{at}"),), answer_turn("a" * size), answer_turn("b"), "f", at)

    source = Source(path="f", held_out=0.0)
    short = [pair(at, 1) for at in range(2500)]
    assert [len(table) for table in tables_of(short, source)] == [2048, 452]
    long = [pair(at, 100_000) for at in range(200)]
    assert [len(table) for table in tables_of(long, source)] == [64, 64, 64, 8]
    # However large the tables that come in are, a reader of the file holds a bounded part of it.
    for items in (short, long):
        assemble_tables([items_table(items, source)], tmp_path, source)
        with pq.ParquetFile(tmp_path / "train.parquet") as file:
            groups = [file.metadata.row_group(at) for at in range(file.num_row_groups)]
        assert sum(group.num_rows for group in groups) == len(items)
        assert max(group.num_rows for group in groups) <= 2048
        assert max(group.total_byte_size for group in groups) < 9 << 20
