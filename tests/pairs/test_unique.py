"""Ids in flat memory against a Python set: the same answers for any batches, in memory or in a file."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from nightly import examples
from ratchet.pairs.ids import Lowest
from ratchet.pairs.unique import digests_of, unique_ids

BATCHES = st.lists(st.lists(st.integers(0, 400), max_size=300), max_size=30)


def hexed(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


@settings(max_examples=examples(30), deadline=None)
@given(BATCHES, st.integers(0, 3))
def test_an_id_is_new_where_a_set_does_not_have_it(batches: list[list[int]], shared: int) -> None:
    # Ids that begin alike want the same slot, so the same eight digits stand at the head of many.
    batches_of_ids = [["0" * 8 * shared + hexed(number)[8 * shared :] for number in batch] for batch in batches]
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as folder, unique_ids(Path(folder) / "ids") as ids:
        for batch in batches_of_ids:
            expected = [one not in seen and one not in batch[:at] for at, one in enumerate(batch)]
            seen |= {*batch}
            assert ids.add(digests_of(pa.chunked_array([pa.array(batch, pa.string())]))).tolist() == expected
        assert len(ids) == len(seen)


def test_a_table_that_outgrows_its_bound_goes_on_in_a_file_that_is_gone_afterwards(tmp_path: Path) -> None:
    numbers = np.arange(40_000, dtype=np.uint64) % np.uint64(25_000)
    # Multiplied by an odd number: spread over all slots, and no two numbers become one.
    ids = np.stack([numbers * np.uint64(0x9E3779B97F4A7C15), numbers + np.uint64(1)], axis=1)
    sizes = []
    with unique_ids(tmp_path / "ids", in_memory=1 << 13) as held:
        for start in range(0, len(ids), 1000):
            found = held.add(ids[start : start + 1000])
            assert found.tolist() == [at < 25_000 for at in range(start, start + 1000)]
            sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert [*dict.fromkeys(sizes)] == [0, 16 << 14, 16 << 15, 16 << 16]
    assert [*tmp_path.iterdir()] == []


def test_ids_are_the_bytes_that_their_digits_mean() -> None:
    texts = [hexed(number) for number in range(50)]
    column = pa.chunked_array([pa.array(["f" * 32, *texts[:20]])[1:], pa.array(texts[20:])])
    assert digests_of(column).tobytes() == b"".join(bytes.fromhex(text) for text in texts)


@settings(max_examples=examples(20), deadline=None)
@given(st.integers(1, 9000), st.lists(st.integers(0, 9000), min_size=1, max_size=8))
def test_the_lowest_of_many_keys_are_those_of_a_sorted_list(count: int, sizes: list[int]) -> None:
    keys = [bytes.fromhex(hexed(number)) for number in range(sum(sizes))]
    lowest, rest = Lowest(count), iter(keys)
    for size in sizes:
        lowest.add(pa.chunked_array([pa.array(itertools.islice(rest, size), pa.binary(16))]))
    last = lowest.last()
    assert (None if last is None else last.as_py()) == (sorted(keys)[count - 1] if len(keys) > count else None)
