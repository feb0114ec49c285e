"""From items to a pairs folder: every row accounted for, no prompt on both sides, the same whatever the order."""

from __future__ import annotations

import collections
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightly import examples
from raised import raises
from ratchet.documents.sources import SourceOverlap
from ratchet.pairs.assemble import Counts, assemble
from ratchet.pairs.checks import POLICY, Reason
from ratchet.pairs.ids import overlaps_of
from ratchet.pairs.left_out import check_kept, check_share
from ratchet.pairs.pair import PreferencePair, Skipped, Turn, answer_turn
from ratchet.pairs.pair_table import read_pairs
from ratchet.pairs.source import read_source
from ratchet.plan.data import Source


def make(prompt: str, chosen: str = "a", rejected: str | None = "b", row: int = 1) -> PreferencePair:
    worse = None if rejected is None else answer_turn(rejected)
    return PreferencePair((Turn("user", prompt),), answer_turn(chosen), worse, "f", row)


def assembled(items: list[PreferencePair | Skipped], folder: Path, **source: Any) -> tuple[Counts, Any, Any, Any]:
    folder.mkdir(exist_ok=True, parents=True)
    counts = assemble(items, folder, Source(path="f", **source))
    assert sorted(path.name for path in folder.iterdir()) == ["heldout.parquet", "skipped.parquet", "train.parquet"]
    return counts, *(pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("train", "heldout", "skipped"))


def poison(kind: str, at: int) -> bytes:
    """Return one line that may not be kept, without its line break."""
    good = {"prompt": f"p{at}", "chosen": f"c{at}", "rejected": f"r{at}", "ok": True}
    lines: dict[str, Any] = {
        "not JSON": b'{"prompt": "p", "chosen": ',
        "not UTF-8": b'{"prompt": "p", "chosen": "\xff", "rejected": "b", "ok": true}',
        "lone surrogate": b'{"prompt": "p", "chosen": "\\ud800", "rejected": "b", "ok": true}',
        "NUL character": {**good, "rejected": "x\0y"},
        "no object": [good],
        "wrong type": {**good, "chosen": 5},
        "missing field": {key: value for key, value in good.items() if key != "chosen"},
        "null": {**good, "rejected": None},
        "empty text": {**good, "chosen": " \n\t"},
        "chosen = rejected": {**good, "rejected": f"c{at}"},
        "too long": {**good, "chosen": "x" * 1001},
        "bad messages": {**good, "chosen": [{"role": "user", "content": "q"}]},
        "where": {**good, "ok": False},
    }
    value = lines[kind]
    return value if isinstance(value, bytes) else json.dumps(value).encode()


REASONS = {"lone surrogate": "not UTF-8", "no object": "wrong type", "null": "missing field"}
KINDS = [
    "not JSON",
    "not UTF-8",
    "lone surrogate",
    "NUL character",
    "no object",
    "wrong type",
    "missing field",
    "null",
    "empty text",
    "chosen = rejected",
    "too long",
    "bad messages",
    "where",
    "duplicate",
    "good",
]


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(KINDS), max_size=60), st.integers(20, 400), st.sampled_from([None, 3]))
def test_every_poisoned_row_is_named(kinds: list[str], span_bytes: int, max_rows: int | None) -> None:
    first = {"prompt": "first", "chosen": "c", "rejected": "r", "ok": True}
    lines, expected = [json.dumps(first).encode()], {}
    for at, kind in enumerate(kinds, 2):
        if kind == "good":
            lines.append(json.dumps({**first, "prompt": f"p{at}"}).encode())
        elif kind == "duplicate":
            lines.append(json.dumps({**first, "extra": at}).encode())
            expected[at] = "duplicate"
        else:
            lines.append(poison(kind, at))
            expected[at] = REASONS.get(kind, kind)
    good = {*range(1, len(lines) + 1)} - {*expected}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "x.jsonl").write_bytes(b"\n".join(lines))
        source = Source(
            path=str(folder / "x.jsonl"), layout="pair", where=("ok == true",), max_characters=1000, max_rows=max_rows
        )
        items = list(read_source(source, span_bytes=span_bytes))
        out = folder / "out"
        out.mkdir()
        counts = assemble(items, out, source)
        train, held, skipped = (
            pq.read_table(out / f"{part}.parquet").to_pylist() for part in ("train", "heldout", "skipped")
        )
    named = {row["row"]: row["reason"] for row in skipped}
    assert counts.read == len(lines) == counts.kept + sum(counts.skipped.values())
    assert counts.skipped == collections.Counter(named.values())
    assert len(named) == len(skipped)
    kept = [row["row"] for row in train + held]
    assert {*kept} | {row for row, reason in named.items() if reason == "sample"} == good
    assert {row: reason for row, reason in named.items() if reason != "sample"} == expected
    assert len(kept) == len({*kept}) == (min(len(good), max_rows) if max_rows else len(good))
    assert all(row["file"] == "x.jsonl" for row in train + held + skipped)


MINE = Source(path="f.jsonl")
PROMPTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=120)


@settings(max_examples=examples(10), deadline=None)
@given(PROMPTS, st.floats(0, 0.9), st.integers(0, 3), st.one_of(st.none(), st.integers(1, 40)))
def test_no_prompt_on_both_sides_and_every_pair_once(
    rows: list[tuple[int, int]], share: float, seed: int, max_rows: int | None
) -> None:
    items = [make(f"p{prompt}", f"a{answer}", "b", at) for at, (prompt, answer) in enumerate(rows, 1)]
    with tempfile.TemporaryDirectory() as name:
        counts, train, held, skipped = assembled(
            list(items), Path(name) / "o", held_out=share, seed=seed, max_rows=max_rows
        )
        again = assembled(list(items), Path(name) / "p", held_out=share, seed=seed, max_rows=max_rows)
        shuffled = random.Random(1).sample(items, len(items))
        other = assembled(list(shuffled), Path(name) / "q", held_out=share, seed=seed, max_rows=max_rows)
    assert (counts, train, held, skipped) == again
    assert not {row["prompt_id"] for row in train} & {row["prompt_id"] for row in held}
    kept = [row["pair_id"] for row in train + held]
    unique = {item.pair_id for item in items}
    assert len({*kept}) == len(kept) == min(len(unique), max_rows or len(unique))
    assert {*kept} <= unique
    assert counts.skipped.get("duplicate", 0) == len(items) - len(unique)
    for mine, theirs in ((train, other[1]), (held, other[2])):
        assert {row["pair_id"] for row in mine} == {row["pair_id"] for row in theirs}
    first = {item.pair_id: item.row for item in reversed(items)}
    assert all(row["row"] == first[row["pair_id"]] for row in train + held)
    assert [row["row"] for row in train] == sorted(row["row"] for row in train)


@pytest.mark.heavy
def test_shares_and_samples_are_as_large_as_asked(tmp_path: Path) -> None:
    items: list[PreferencePair | Skipped] = [make(f"p{at}", row=at) for at in range(6000)]
    counts, train, held, _ = assembled(items, tmp_path / "a", held_out=0.2, seed=1)
    assert abs(counts.heldout / 6000 - 0.2) < 4 * (0.2 * 0.8 / 6000) ** 0.5
    _, _, more, _ = assembled(items, tmp_path / "b", held_out=0.4, seed=1)
    assert {row["prompt_id"] for row in held} < {row["prompt_id"] for row in more}
    counts, small, _, _ = assembled(items, tmp_path / "c", held_out=0.0, max_rows=1000, seed=1)
    assert (counts.read, counts.kept, counts.skipped) == (6000, 1000, {"sample": 5000})
    _, _, elsewhere, _ = assembled(items, tmp_path / "e", held_out=0.2, seed=2)
    assert 150 < len({row["row"] for row in held} & {row["row"] for row in elsewhere}) < 330, "a fifth of a fifth"
    _, other, _, _ = assembled(items, tmp_path / "d", held_out=0.0, max_rows=1000, seed=2)
    both = {row["row"] for row in small} & {row["row"] for row in other}
    assert 100 < len(both) < 240, "two seeds share about a sixth"
    assert len(train) == counts.read - len(held)


def test_the_folder_keeps_the_pairs_and_the_schema(tmp_path: Path) -> None:
    pair = PreferencePair((Turn("system", "s ✓"), Turn("user", "q")), answer_turn("a"), None, "dir/f", 3)
    rich = PreferencePair(
        (Turn("user", "q"), Turn("assistant", "", tool_calls="[1]"), Turn("tool", "r", tool_call_id="7", name="f")),
        Turn("assistant", "a", reasoning="t"),
        Turn("assistant", "", tool_calls="[2]"),
        "f",
        4,
        tools="[3]",
        asked="q",
    )
    assembled([pair, rich, Skipped("f", 4, "not JSON", "why")], tmp_path / "o", held_out=0.0)
    assert list(read_pairs(tmp_path / "o/train.parquet")) == [pair, rich]
    row, _ = pq.read_table(tmp_path / "o/train.parquet").to_pylist()
    assert (row["pair_id"], row["prompt_id"]) == (pair.pair_id, pair.prompt_id)
    assert pq.read_schema(tmp_path / "o/heldout.parquet").field("prompt").type == pa.list_(
        pa.struct([(name, pa.string()) for name in vars(pair.prompt[0])])
    )
    assert pq.read_table(tmp_path / "o/skipped.parquet").to_pylist() == [
        {"file": "f", "row": 4, "reason": "not JSON", "detail": "why"}
    ]


def test_too_many_bad_rows_stop_the_run_with_counts_and_rows(tmp_path: Path) -> None:
    bad = [Skipped("f", at, "empty text", "chosen") for at in (3, 9)] + [Skipped("g", 2, "not JSON", "x")]
    fine: list[PreferencePair | Skipped] = [make(f"p{at}") for at in range(57)]
    policy = [Skipped("f", at, reason.value, "") for at, reason in enumerate(POLICY)]
    counts, *_ = assembled([*policy, *fine[:30], *bad, *fine[30:]], tmp_path / "o")
    assert counts.read == 60 + len(POLICY)
    check_share("mine", vars(counts), 3 / counts.read, tmp_path / "o")
    with raises("data.bad-rows") as caught:
        check_share("mine", vars(counts), 2.9 / counts.read, tmp_path / "o")
    assert caught.value.where == "data.mine"
    assert caught.value.what == (
        "3 of 67 rows are bad (4.5%, the limit is 4.3%): 2 empty text, 1 not JSON\n"
        "  f:3: empty text: chosen\n  f:9: empty text: chosen\n  g:2: not JSON: x"
    )


def test_a_source_of_which_nothing_is_left_stops_the_run(tmp_path: Path) -> None:
    counts, *_ = assembled([Skipped("f", 1, Reason.WHERE.value, "x == 1: no field x")], tmp_path / "o")
    with raises("data.nothing-left") as caught:
        check_kept("mine", MINE, vars(counts), tmp_path / "o")
    assert caught.value.what == "no pair is left of 1 rows: 1 where\n  f:1: where: x == 1: no field x"
    with raises("data.nothing-left") as caught:
        check_kept("mine", MINE, {"read": 3, "kept": 3, "train": 0, "skipped": {}}, tmp_path / "o")
    assert "held_out" in caught.value.fix


@settings(max_examples=examples(30), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 12), st.integers(0, 2)), max_size=60))
def test_overlap_agrees_with_sets(rows: list[tuple[int, bool, int, int]]) -> None:
    places: dict[tuple[str, str], list[PreferencePair]] = {}
    for source, held, prompt, answer in rows:
        part = "heldout" if held else "train"
        places.setdefault((f"s{source}", part), []).append(make(f"p{prompt}", f"a{answer}"))
    names = [f"s{source}" for source in range(3)]
    with tempfile.TemporaryDirectory() as root:
        folders = {name: Path(root) / name for name in names}
        for name, folder in folders.items():
            folder.mkdir()
            for part in ("train", "heldout"):
                found = places.get((name, part), [])
                columns = {
                    key: pa.array([getattr(item, key) for item in found], pa.string())
                    for key in ("pair_id", "prompt_key")
                }
                pq.write_table(pa.table(columns), folder / f"{part}.parquet")
        result = overlaps_of(folders)
    expected = set()
    for left in names:
        for right in names:
            for part in ("train", "heldout"):
                if left == right or (part == "train" and left > right):
                    continue
                one, two = places.get((left, "train"), []), places.get((right, part), [])
                pairs = {item.pair_id for item in one} & {item.pair_id for item in two}
                prompts = {item.prompt_id for item in one} & {item.prompt_id for item in two}
                if prompts:
                    expected.add(SourceOverlap(left, right, len(pairs), len(prompts), part == "heldout"))
    assert len(result) == len(expected)
    assert {*result} == expected
