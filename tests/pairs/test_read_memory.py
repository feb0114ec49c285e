"""Memory of reading does not grow with the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

_MEASURE = """
import sys, tracemalloc
from pathlib import Path
import pyarrow as pa
from ratchet.pairs.assemble import assemble
from ratchet.pairs.source import read_source
from ratchet.plan.data import Source

for path in map(Path, sys.argv[1:]):
    out = path.with_suffix("")
    out.mkdir()
    source = Source(path=str(path), max_rows=50)
    tracemalloc.start()
    read = assemble(read_source(source), out, source).read
    print(read, (tracemalloc.get_traced_memory()[1] + pa.default_memory_pool().max_memory()) / 2**20)
    tracemalloc.stop()
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, form: str) -> None:
    """Counted where it is allocated: what the system holds for a process depends on what else runs."""
    paths = [tmp_path / f"{rows}.{form}" for rows in (280, 1120)]
    for path in paths:
        values = [{"prompt": f"p{i}", "chosen": "c" * 60_000, "rejected": f"r{i}"} for i in range(int(path.stem))]
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(values), path, row_group_size=50)
        elif form == "json":
            path.write_text(json.dumps(values))
        else:
            path.write_text("".join(json.dumps(value) + "\n" for value in values))
    command = [sys.executable, "-c", _MEASURE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert done[::2] == ["280", "1120"]
    small, large = map(float, done[1::2])
    assert large - small < 24, f"{small} and {large} MiB: 48 MiB more of text may not cost 24 MiB"
