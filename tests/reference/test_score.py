"""Reference scores: one row a pair, joined by id, resumable by block; chunks ordered by difficulty."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from raised import raises
from ratchet.evaluate.preference import mean_gamma, reward_scores
from ratchet.reference.models import ScoredPairs
from ratchet.reference.partition import difficulty, log_ratio, order_chunks, split_rows
from ratchet.reference.store import (
    BLOCK,
    Logps,
    block_path,
    blocks,
    finished_files,
    missing_blocks,
    prove,
    read_logps,
    sample_rows,
    write_block,
)  # fmt: skip
from ratchet.store.fingerprint import fingerprint
from ratchet.store.record import Record, sound_record, write_record
from ratchet.train.data import join_reference

ROWS = 2 * BLOCK + 7


def logps(rows: int, seed: int = 0) -> Logps:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, (2, rows)).astype(np.int32)
    return Logps(-rng.exponential(20, rows), -rng.exponential(20, rows), counts[0], counts[1])


def part(scores: Logps, start: int, end: int) -> Logps:
    return Logps(
        *(
            column[start:end]
            for column in (scores.chosen, scores.rejected, scores.chosen_tokens, scores.rejected_tokens)
        )
    )


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, list[str], Logps]:
    ids, scores = [f"{row:032x}" for row in range(ROWS)], logps(ROWS)
    for number, start, end in blocks(ROWS):
        write_block(tmp_path, number, ids[start:end], part(scores, start, end))
    return tmp_path, ids, scores


def test_scores_come_back_bit_for_bit_in_any_order_asked_for(folder: tuple[Path, list[str], Logps]) -> None:
    path, ids, scores = folder
    order = np.random.default_rng(1).permutation(ROWS)[:300]
    found = read_logps([path], [ids[row] for row in order])
    assert np.array_equal(found.chosen, scores.chosen[order])
    assert np.array_equal(found.rejected_tokens, scores.rejected_tokens[order])
    assert prove(path, ids)["pairs"] == ROWS


def test_only_missing_and_unreadable_blocks_are_scored_again(folder: tuple[Path, list[str], Logps]) -> None:
    path, _, _ = folder
    assert missing_blocks(path, ROWS) == []
    block_path(path, 1).write_bytes(b"PAR1 cut short")
    assert missing_blocks(path, ROWS) == [(1, BLOCK, 2 * BLOCK)]
    assert not block_path(path, 1).exists()
    block_path(path, 2).unlink()
    assert [number for number, _, _ in missing_blocks(path, ROWS)] == [1, 2]
    assert [number for number, _, _ in missing_blocks(path, ROWS + BLOCK)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("fault", "count"),
    [
        ("absent", "1 absent"),
        ("foreign", "1 foreign"),
        ("doubled", "1 doubled"),
        ("nan", "1 not finite"),
        ("above", "1 not finite"),
    ],
)
def test_rows_that_do_not_match_stop_with_counts(tmp_path: Path, fault: str, count: str) -> None:
    ids, scores = [f"{row:032x}" for row in range(10)], logps(10)
    wanted = list(ids)
    if fault == "absent":
        wanted.append("f" * 32)
    elif fault == "foreign":
        wanted.pop()
    elif fault == "doubled":
        ids[3] = ids[2]
        wanted = sorted(set(ids))
    else:
        scores.chosen[4] = np.nan if fault == "nan" else 0.5
    write_block(tmp_path, 0, ids, scores)
    with raises("data.other-pairs", count):
        prove(tmp_path, wanted)


def test_an_absent_or_broken_score_is_named(folder: tuple[Path, list[str], Logps]) -> None:
    path, ids, _ = folder
    with raises("data.no-score", "1 of 2", "eeee"):
        read_logps([path], [ids[0], "e" * 32])
    block_path(path, 0).write_bytes(b"junk")
    with raises("corrupt.scores"):
        read_logps([path], ids)


@pytest.mark.parametrize("key", ["tokens", "split", "rows", "weights", "dtype", "quantise", "engine"])
def test_whatever_decides_the_numbers_is_in_the_identity(key: str) -> None:
    base = {
        "tokens": "t",
        "split": "train",
        "rows": None,
        "weights": "w",
        "dtype": "float32",
        "quantise": None,
        "engine": "trainer",
    }
    other = base | {key: (1, 2) if key == "rows" else "other"}
    one, two = ScoredPairs(**base), ScoredPairs(**other)  # type: ignore[arg-type]
    assert fingerprint(one.identity) != fingerprint(two.identity)


def test_a_sample_is_fixed_sorted_and_within() -> None:
    assert sample_rows(10, 10) is None
    sample = sample_rows(1000, 64)
    assert sample == sample_rows(1000, 64)
    assert sample is not None
    assert len(set(sample)) == 64
    assert list(sample) == sorted(sample)


def test_difficulty_is_the_share_of_pairs_the_right_way_round() -> None:
    scores = Logps(
        np.array([-1.0, -2, -3, -4]),
        np.array([-2.0, -1, -9, -5]),
        np.full(4, 2, np.int32),
        np.array([8, 1, 2, 1], np.int32),
    )
    found = difficulty("helpful", log_ratio(scores))
    assert (found.accuracy, found.pairs) == (0.75, 4)
    assert found.standard_error == pytest.approx(np.std([1, 1, 1, 0], ddof=1) / 2)
    errors = [difficulty("helpful", np.ones(pairs)).standard_error for pairs in (0, 1, 2)]
    assert errors == [None, None, None], "pairs that all agree tell no error"
    assert log_ratio(scores, length_normalised=True) == pytest.approx([-0.5 + 0.25, -1 + 1, -1.5 + 4.5, -2 + 5])
    assert log_ratio(scores, base=scores) == pytest.approx(np.zeros(4))


def test_chunks_are_ordered_by_accuracy_with_ties_as_listed() -> None:
    accuracy = {"a": 0.5, "b": 0.9, "c": 0.5}
    assert order_chunks("easy_to_hard", ["a", "b", "c"], accuracy, 0) == ["b", "a", "c"]
    assert order_chunks("hard_to_easy", ["a", "b", "c"], accuracy, 0) == ["a", "c", "b"]
    assert order_chunks("listed", ["c", "b", "a"], {}, 0) == ["c", "b", "a"]
    assert {tuple(order_chunks("random", ["a", "b", "c"], {}, seed)) for seed in range(40)}.__len__() == 6


@pytest.mark.parametrize("order", ["easy_to_hard", "hard_to_easy", "random", "listed"])
def test_a_cut_union_holds_each_row_once(order: str) -> None:
    ratios = np.random.default_rng(0).normal(size=101)
    chunks = split_rows(order, 101, 4, ratios, 3)
    assert np.array_equal(np.sort(np.concatenate(chunks)), np.arange(101))
    assert {len(chunk) for chunk in chunks} == {25, 26}
    if order == "easy_to_hard":
        assert all(ratios[a].min() >= ratios[b].max() for a, b in itertools.pairwise(chunks))


def test_reward_scores_and_gamma_against_plain_arithmetic() -> None:
    policy, reference = logps(50, 1), logps(50, 2)
    found = reward_scores(policy, reference)
    margin = [
        pc - rc - (pr - rr)
        for pc, rc, pr, rr in zip(policy.chosen, reference.chosen, policy.rejected, reference.rejected, strict=True)
    ]
    mean = sum(margin) / 50
    assert found.margin.mean == pytest.approx(mean)
    assert found.margin.standard_error == pytest.approx((sum((m - mean) ** 2 for m in margin) / 49 / 50) ** 0.5)
    assert found.accuracy.mean == sum(m > 0 for m in margin) / 50
    assert found.margin.mean == pytest.approx(found.chosen_delta.mean - found.rejected_delta.mean)
    assert mean_gamma(policy).mean == pytest.approx(sum(policy.chosen - policy.rejected) / 50)


def test_blocks_that_changed_or_went_are_scored_again_and_no_others(
    folder: tuple[Path, list[str], Logps], caplog: pytest.LogCaptureFixture
) -> None:
    path, ids, scores = folder
    record = Record("logps", "f" * 20, {}, {"pairs": ROWS}, "2026-01-01T00:00:00Z", 1.5)
    write_record(path, record, finished_files(path))
    assert missing_blocks(path, ROWS) == [] and sound_record(path) is not None and not caplog.records
    whole = block_path(path, 1).read_bytes()
    block_path(path, 1).write_bytes(bytes([*whole[:900], whole[900] ^ 4, *whole[901:]]))
    block_path(path, 2).unlink()
    for read in (lambda: read_logps([path], ids[:3]), lambda: prove(path, ids), lambda: join_reference(ids, [path])):
        with raises("corrupt.scores", "block-000001"):
            read()
    assert sound_record(path) is None
    assert [number for number, _, _ in missing_blocks(path, ROWS)] == [1, 2] and block_path(path, 0).exists()
    assert len(caplog.records) == 1 and "2 of its blocks are scored again" in caplog.text
    for number, start, end in blocks(ROWS):
        if number:
            write_block(path, number, ids[start:end], part(scores, start, end))
    assert sound_record(path) is not None and np.array_equal(read_logps([path], ids).chosen, scores.chosen)
    (path / "record.json").write_text("{}")
    assert missing_blocks(path, ROWS) == [] and "record.json" in caplog.text


def test_a_block_of_a_pass_that_was_cut_short_is_held_against_its_digest(
    folder: tuple[Path, list[str], Logps], caplog: pytest.LogCaptureFixture
) -> None:
    path, _, _ = folder
    whole = block_path(path, 0).read_bytes()
    block_path(path, 0).write_bytes(bytes([*whole[:900], whole[900] ^ 4, *whole[901:]]))
    block_path(path, 1).with_suffix(".sha256").unlink()
    assert [number for number, _, _ in missing_blocks(path, ROWS)] == [0, 1]
    assert "block-000001.parquet has no digest" in caplog.text
