"""What the tests of vLLM share: whether it is here, and pairs of the story model's tokens."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ratchet.pairs.table import SCHEMA, TokenTable, open_table

needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="no vLLM here; `make test-vllm` sets it up"),
]


def write_pairs(path: Path, count: int, seed: int = 0, longest: int = 60) -> TokenTable:
    """Write a token file of `count` pairs, some of them near twins, and open it."""
    random = np.random.default_rng(seed)

    def draw(least: int, most: int) -> list[int]:
        return random.integers(3, 512, int(random.integers(least, most))).tolist()  # type: ignore[no-any-return]

    rows = []
    for i in range(count):
        prompt, chosen = [1, *draw(3, longest)], draw(1, longest)
        rejected = [*chosen[:-1], (chosen[-1] + 1) % 512] if i % 3 == 0 else draw(1, longest)
        rows.append((f"{seed:08x}{i:08x}", f"prompt-{i}", prompt, chosen, rejected, 0.0, None))
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(pa.record_batch([list(column) for column in zip(*rows, strict=True)], schema=SCHEMA))
    return open_table([path], [1.0], 0)
