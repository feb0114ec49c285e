"""The texts that a scratch model's tokenizer is trained on: all of them, and few at a time."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pyarrow as pa

from ratchet.pairs.assemble import assemble
from ratchet.pairs.pair import PreferencePair, Turn, answer_turn
from ratchet.pipeline.prepare import scratch_texts
from ratchet.plan.data import Source


def test_every_text_to_train_on_is_given_in_memory_that_does_not_grow(tmp_path: Path) -> None:
    rows, long = 4_000, "some words " * 100
    texts = {row: (f"ask {row}", f"{long} good {row}", f"{long} bad {row}") for row in range(rows)}
    pairs = (
        PreferencePair((Turn("user", asked),), answer_turn(good), answer_turn(bad), "f", row)
        for row, (asked, good, bad) in texts.items()
    )
    assemble(pairs, tmp_path, Source(path="f.jsonl", held_out=0))
    given, before = set[int](), pa.total_allocated_bytes()
    most_in_tables = 0
    tracemalloc.start()
    for text in scratch_texts([tmp_path]):
        given.add(hash(text))
        most_in_tables = max(most_in_tables, pa.total_allocated_bytes() - before)
    _, most_in_objects = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert given == {hash(text) for three in texts.values() for text in three}
    # All answers are 8.8 MB; 256 pairs of them are 0.6 MB, and the numbers that this test keeps 0.9 MB.
    assert most_in_objects < 3e6 and most_in_tables < 3e6, (most_in_objects, most_in_tables)
