"""The benchmark of reading: the same rows in any form, the same pairs on both sides, and a line through memory."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import reading


@pytest.mark.parametrize("kind", sorted(reading.KINDS))
def test_rows_are_the_same_in_both_forms_and_however_many_there_are(kind: str, tmp_path: Path) -> None:
    lines, table, more = (tmp_path / name for name in ("rows.jsonl", "rows.parquet", "more.jsonl"))
    reading.write_rows(lines, kind, 30)
    reading.write_rows(table, kind, 30)
    reading.write_rows(more, kind, 1001)
    rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert pq.read_table(table).to_pylist() == rows
    assert more.read_text(encoding="utf-8").splitlines()[:30] == lines.read_text(encoding="utf-8").splitlines()
    assert len({json.dumps(row["prompt"]) for row in rows}) == 30


def test_memory_that_grows_by_three_bytes_a_row_is_said_to() -> None:
    assert reading.slope([100, 200, 400], [1300, 1600, 2200]) == pytest.approx(3.0)


def test_other_pairs_and_another_order_are_refused() -> None:
    good = {"content": "a", "in order": True}
    reading.check_same("rows", {"old": [good], "new": [good], "datasets": [{}]})
    with pytest.raises(ValueError, match="read other pairs"):
        reading.check_same("rows", {"old": [{**good, "content": "b"}], "new": [good]})
    with pytest.raises(ValueError, match="not in the order"):
        reading.check_same("rows", {"new": [{**good, "in order": False}]})


@pytest.mark.heavy
def test_it_reads_both_forms_and_compares_a_checkout_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    root = str(Path(reading.__file__).parents[1])
    reading.main(["--old", root, "--rows", "120", "--rounds", "1", "--here", "--kind", "short", "--grow", "60", "120"])
    lines = capsys.readouterr().out.splitlines()
    sides = [line.split(" | ")[:2] for line in lines if line.startswith("| short")]
    assert sides == [[f"| short, {form}", side] for form in ("jsonl", "parquet") for side in ("old", "new", "datasets")]
    assert [line.split(" ")[0] for line in lines[-4:]] == ["60", "120", "driver:", "worker:"]
