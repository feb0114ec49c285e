"""Pairs lost at tokenising: a warning with reason, share, length and remedy, and an end above a share."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raised import raises
from ratchet.pairs.left_out import LENGTH, REMEDIES, lost_of, tell_lost, tell_unbuilt
from ratchet.pairs.pair_table import SKIPPED_SCHEMA
from ratchet.pairs.refusals import RefusalReason
from ratchet.plan.data import Source
from ratchet.store.record import Record

PAIRS = {"read": 200, "heldout": 10, "skipped": {}}
LINES = [("prefs.jsonl", 17, "too long", "463 tokens, more than 128"), ("prefs.jsonl", 4, "template refuses", "System")]


def tokens(folder: Path, skipped: dict[str, int], longest: int | None = 463) -> Record:
    rows = [dict(zip(SKIPPED_SCHEMA.names, line, strict=True)) for line in LINES]
    pq.write_table(pa.Table.from_pylist(rows, schema=SKIPPED_SCHEMA), folder / "skipped.parquet")
    facts = {} if longest is None else {"longest_seen": longest}
    return Record(
        "tokens", "f", {"max_length": 128}, {"read": 200, "heldout": 9, "skipped": skipped}, "now", 1.0, facts=facts
    )


def source(**more: Any) -> Source:
    return Source(path="prefs.jsonl", **more)


def test_a_few_that_are_too_long_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tell_lost("prefs", source(), PAIRS, tokens(tmp_path, {"too long": 7, "answer too long": 3}), tmp_path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "10 of 200 pairs (5.0%) of prefs are left out at max_length 128: 7 too long, 3 answer too long; "
        "the longest has 463 tokens. "
        "raise max_length, or set overlong: trim_prompt; raise max_length: answers are never cut"
    )


def test_none_lost_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tell_lost("prefs", source(), PAIRS, tokens(tmp_path, {}), tmp_path)
    assert not caplog.records


@pytest.mark.parametrize(
    ("skipped", "key", "shown"),
    [
        ({"too long": 41}, "max_overlong_share", "463 tokens"),
        ({"template refuses": 11}, "max_bad_share", "set model.system_turns: fold"),
        ({"template refuses": 11, "too long": 1}, "max_bad_share", "prefs.jsonl:4: template refuses: System"),
        ({"answer too long": 100}, "max_overlong_share", "100 of 200 pairs (50.0%)"),
    ],
)
def test_above_a_share_the_run_ends_and_says_what_to_do(
    tmp_path: Path, skipped: dict[str, int], key: str, shown: str
) -> None:
    record = tokens(tmp_path, skipped)
    with raises("data.left-out") as caught:
        tell_lost("prefs", source(), PAIRS, record, tmp_path)
    assert shown in str(caught.value)
    assert caught.value.exit_code == 3 and f"data.prefs.{key}" in caught.value.fix
    tell_lost("prefs", source(**{key: 0.6}), PAIRS, record, tmp_path)


def test_a_share_is_reached_at_its_limit_and_not_before(tmp_path: Path) -> None:
    tell_lost("prefs", source(), PAIRS, tokens(tmp_path, {"too long": 40, "template refuses": 10}), tmp_path)
    with raises("data.left-out"):
        tell_lost("prefs", source(max_overlong_share=0.19), PAIRS, tokens(tmp_path, {"too long": 40}), tmp_path)


def test_bad_rows_and_pairs_that_cannot_be_written_count_together(tmp_path: Path) -> None:
    # 4 % of the rows are bad, and 3 % of what is left cannot be written: 1 - 0.96 * 0.97 is lost.
    pairs = {**PAIRS, "skipped": {"not JSON": 5, "empty text": 3, "duplicate": 90}}
    record = tokens(tmp_path, {"template refuses": 6, "too long": 30})
    tell_lost("prefs", source(max_bad_share=0.0689), pairs, record, tmp_path)
    with raises("data.left-out") as caught:
        tell_lost("prefs", source(), pairs, record, tmp_path)
    assert "6.9% of prefs is lost in all, the limit is 5.0%: 8 of 200 rows are bad" in caught.value.what
    assert "6 of 200 pairs cannot be written as tokens" in caught.value.what and "duplicate" not in caught.value.what
    assert "max_bad_share" in caught.value.fix


def test_held_out_pairs_that_are_all_left_out_stop_the_run(tmp_path: Path) -> None:
    record = tokens(tmp_path, {"too long": 12})
    none = dataclasses.replace(record, counts={**record.counts, "heldout": 0})
    with raises("data.left-out") as caught:
        tell_lost("prefs", source(), PAIRS, none, tmp_path)
    assert "none of the 10 held-out pairs is left: 12 too long" in caught.value.what
    assert "raise max_length" in caught.value.fix
    tell_lost("prefs", source(), {**PAIRS, "heldout": 0}, none, tmp_path)


def test_tokens_that_were_made_before_lengths_were_kept_are_told_without(tmp_path: Path) -> None:
    assert "longest" not in str(lost_of("prefs", tokens(tmp_path, {"too long": 9}, longest=None)))


def test_every_reason_has_its_remedy() -> None:
    assert REMEDIES.keys() == set(RefusalReason) and set(RefusalReason) >= LENGTH


def test_rows_that_a_builder_makes_nothing_of_are_told_where_they_are_many(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tell_unbuilt("sums", {"read": 7473, "skipped": {"no intermediate calculation": 1}})
        tell_unbuilt("words", {"read": 613, "skipped": {"no intermediate calculation": 496, "duplicate": 3}})
    (line,) = caplog.messages
    assert line.startswith("data.words: no pair is made of 496 of 613 rows (81%): no intermediate calculation")
