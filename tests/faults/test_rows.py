"""Ten thousand rows of which one in twenty cannot be kept: each is named with its reason, and no other row is lost."""

from __future__ import annotations

import collections
import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raised import raises
from ratchet.pairs.assemble import assemble
from ratchet.pairs.left_out import check_share
from ratchet.pairs.source import read_source
from ratchet.plan.data import Source
from tests.pairs.test_assemble import KINDS, REASONS, poison

ROWS, BAD = 10_000, 500
POISON = [kind for kind in KINDS if kind not in ("good", "duplicate", "where")]
EXTRA = {"a megabyte of text": "too long", "another schema": "missing field"}


def lines_and_faults(seed: int) -> tuple[list[bytes], dict[int, str]]:
    """The corpus, and the reason for which each of its bad rows must be skipped, by row number from 1."""
    draw = random.Random(seed)
    kinds = [*POISON, *EXTRA]
    lines = [
        json.dumps({"prompt": f"p{at}", "chosen": f"c{at}", "rejected": f"r{at}", "ok": True}).encode()
        for at in range(1, ROWS + 1)
    ]
    faults: dict[int, str] = {}
    for number, at in enumerate(sorted(draw.sample(range(1, ROWS + 1), BAD))):
        kind = kinds[number % len(kinds)]
        if kind == "a megabyte of text":
            lines[at - 1] = json.dumps({"prompt": "p", "chosen": "x" * 1_000_000, "rejected": "r"}).encode()
        elif kind == "another schema":
            lines[at - 1] = json.dumps({"question": "q", "answers": ["a", "b"], "label": 1}).encode()
        else:
            lines[at - 1] = poison(kind, at)
        faults[at] = EXTRA.get(kind) or REASONS.get(kind, kind)
    return lines, faults


@pytest.mark.heavy
def test_of_ten_thousand_rows_each_bad_one_is_named_and_every_other_is_kept(tmp_path: Path) -> None:
    lines, faults = lines_and_faults(3)
    assert len(POISON) + len(EXTRA) >= 12
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    source = Source(path=str(tmp_path / "x.jsonl"), layout="pair", max_characters=1000, max_bad_share=BAD / ROWS)
    out = tmp_path / "out"
    out.mkdir()
    counts = assemble(read_source(source, span_bytes=64 << 10), out, source)
    kept = [row for part in ("train", "heldout") for row in pq.read_table(out / f"{part}.parquet")["row"].to_pylist()]
    skipped = pq.read_table(out / "skipped.parquet").to_pylist()
    assert {row["row"]: row["reason"] for row in skipped} == faults and len(skipped) == BAD
    assert sorted(kept) == sorted({*range(1, ROWS + 1)} - {*faults})
    assert (counts.read, counts.kept) == (ROWS, ROWS - BAD)
    assert counts.skipped == collections.Counter(faults.values())

    check_share("mine", vars(counts), source.max_bad_share, out)
    with raises("data.bad-rows") as caught:
        check_share("mine", vars(counts), (BAD - 1) / ROWS, out)
    assert "500 of 10000 rows are bad (5.0%" in caught.value.what
    first = min(faults)
    assert f"x.jsonl:{first}: {faults[first]}" in str(caught.value)
