"""Token tables: rows, shares, duplicates, and faults."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raised import raises
from ratchet.pairs.table import SCHEMA, open_table

Row = tuple[str, list[int], list[int], list[int]]


def write(path: Path, rows: list[Row], batch: int = 3) -> Path:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for at in range(0, len(rows), batch):
            part = rows[at : at + batch]
            columns = [[row[0] for row in part], [f"p{row[0]}" for row in part]]
            columns += [[row[k] for row in part] for k in (1, 2, 3)]
            writer.write_batch(pa.record_batch([*columns, [0.5] * len(part), [None] * len(part)], schema=SCHEMA))
    return path


def make_rows(count: int, seed: int = 0) -> list[Row]:
    random = np.random.default_rng(seed)
    ids = lambda: random.integers(3, 99, random.integers(1, 9)).tolist()  # noqa: E731
    return [(f"{seed:016x}{i:016x}", ids(), ids(), ids()) for i in range(count)]


def test_rows_come_back_in_order_with_their_lengths(tmp_path: Path) -> None:
    first, second = make_rows(8), make_rows(5, seed=1)
    table = open_table([write(tmp_path / "a", first), write(tmp_path / "b", second)], [1.0, 1.0], seed=0)
    rows = first + second
    assert len(table) == 13 and table.pair_ids().to_pylist() == [row[0] for row in rows]
    assert table.file_of_N.tolist() == [0] * 8 + [1] * 5
    for i, pair in enumerate(table):
        assert (pair.pair_id, pair.prompt.tolist(), pair.chosen.tolist(), pair.rejected.tolist()) == rows[i]
        assert pair.prompt.dtype == np.int32
        assert table.lengths_N3[i].tolist() == [len(side) for side in rows[i][1:]]
    assert not table.demonstrations and table.duplicates == 0
    with pytest.raises(IndexError):
        table[13]


def test_subset_and_pickle_keep_rows(tmp_path: Path) -> None:
    rows = make_rows(9)
    table = open_table([write(tmp_path / "a", rows)], [1.0], seed=0).subset([7, 2, 5])
    again = pickle.loads(pickle.dumps(table))  # noqa: S301
    for copy in (table, again):
        assert [pair.pair_id for pair in copy] == [rows[i][0] for i in (7, 2, 5)]
        assert copy[1].chosen.tolist() == rows[2][2]
        assert copy.lengths_N3.tolist() == [[len(side) for side in rows[i][1:]] for i in (7, 2, 5)]
    assert len(table.subset([])) == 0


def test_a_pair_in_two_files_is_kept_once_where_it_stands_first(tmp_path: Path) -> None:
    first, second = make_rows(6), make_rows(4, seed=1)
    files = [write(tmp_path / "a", first), write(tmp_path / "b", [second[0], first[3], second[1], first[0]])]
    table = open_table(files, [1.0, 1.0], seed=0)
    assert table.duplicates == 2
    assert table.pair_ids().to_pylist() == [row[0] for row in [*first, second[0], second[1]]]
    assert open_table(files[::-1], [1.0, 1.0], seed=0).pair_ids().to_pylist()[:4] == [
        row[0] for row in [second[0], first[3], second[1], first[0]]
    ]


def test_shares_are_nested_seeded_and_exact(tmp_path: Path) -> None:
    file = write(tmp_path / "a", make_rows(2000), batch=500)
    half, tenth = (set(open_table([file], [share], seed=4).pair_ids().to_pylist()) for share in (0.5, 0.1))
    assert tenth < half and len(half) == 1000 and len(tenth) == 200
    assert len(open_table([file], [0.33333], seed=4)) == 667
    assert half != set(open_table([file], [0.5], seed=5).pair_ids().to_pylist())
    reverse = write(tmp_path / "b", make_rows(2000)[::-1], batch=700)
    assert half == set(open_table([reverse], [0.5], seed=4).pair_ids().to_pylist())


@pytest.mark.parametrize(
    ("share", "whole", "more"), [(1.5, 1, 10), (3.0, 3, 0), (2.25, 2, 5), (1.0, 1, 0), (0.5, 0, 10)]
)
def test_a_share_above_one_has_copies_and_a_seeded_part_once_more(
    share: float, whole: int, more: int, tmp_path: Path
) -> None:
    rows = make_rows(20)
    table = open_table([write(tmp_path / "a", rows)], [share], seed=3)
    times = Counter(table.pair_ids().to_pylist())
    part = set(open_table([tmp_path / "a"], [share % 1], seed=3).pair_ids().to_pylist()) if more else set()
    assert times == Counter({row[0]: whole + (row[0] in part) for row in rows})
    assert len(part) == more and table.duplicates == 0
    chosen = {row[0]: row[2] for row in rows}
    assert all(pair.chosen.tolist() == chosen[pair.pair_id] for pair in table)


def test_a_pair_of_two_files_comes_as_often_as_the_first_has_it(tmp_path: Path) -> None:
    first, second = make_rows(4), make_rows(3, seed=1)
    files = [write(tmp_path / "a", first), write(tmp_path / "b", [first[2], *second])]
    table = open_table(files, [2.0, 3.0], seed=0)
    assert Counter(table.pair_ids().to_pylist()) == {**{row[0]: 2 for row in first}, **{row[0]: 3 for row in second}}
    assert table.duplicates == 3
    assert table.file_of_N.tolist() == [0] * 8 + [1] * 9


def test_a_table_says_which_rows_are_copies(tmp_path: Path) -> None:
    files = [write(tmp_path / "a", make_rows(3)), write(tmp_path / "b", make_rows(2, seed=1))]
    assert open_table(files, [1.0, 0.5], seed=0).repeats is None
    table = open_table(files, [2.0, 1.0], seed=0)
    found = table.repeats
    assert found is not None
    assert found.count_N.tolist() == [2, 2, 2, 2, 2, 2, 1, 1]
    assert found.number_N.tolist() == [0, 1, 0, 1, 0, 1, 0, 0]
    ids = table.pair_ids().to_pylist()
    assert {(of, ids[at]) for at, of in enumerate(found.of_N.tolist())} == set(enumerate(sorted(set(ids))))
    part = table.subset([0, 2, 3]).repeats
    assert part is not None and part.count_N.tolist() == [1, 2, 2]


def test_demonstrations_and_empty_files(tmp_path: Path) -> None:
    demonstration = [(row[0], row[1], row[2], []) for row in make_rows(3)]
    assert open_table([write(tmp_path / "a", demonstration)], [1.0], seed=0).demonstrations
    empty = open_table([write(tmp_path / "b", [])], [1.0], seed=0)
    assert len(empty) == 0 and empty.lengths_N3.shape == (0, 3) and not empty.demonstrations


def test_faults_name_the_file(tmp_path: Path) -> None:
    with raises("data.no-file"):
        open_table([tmp_path / "none"], [1.0], seed=0)
    (tmp_path / "bad").write_bytes(b"ARROW1 but not really" * 40)
    with raises("corrupt.table") as caught:
        open_table([tmp_path / "bad"], [1.0], seed=0)
    assert caught.value.where == str(tmp_path / "bad")
    whole = write(tmp_path / "cut", make_rows(50))
    whole.write_bytes(whole.read_bytes()[:-200])
    with raises("corrupt.table"):
        open_table([whole], [1.0], seed=0)
