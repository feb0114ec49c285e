"""Workers that run out of memory, and an object store that is much too small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raised import raises
from ratchet.documents.events import events_of
from ratchet.pairs.assemble import assemble
from ratchet.pairs.flow import prepare_pairs
from ratchet.pairs.source import read_source
from ratchet.pipeline.session import ray_session
from ratchet.plan.cluster import Cluster, DeepSpeed, Ray
from ratchet.plan.data import Source
from ratchet.store.layout import Layout
from train_bench import write_inputs
from train_ray_bench import go, spec_at

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
STORE_MB = 80


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """A Ray with a small object store."""
    with ray_session(Cluster(workers=2, ray=Ray(num_cpus=3, object_store_mb=STORE_MB))):
        yield


@pytest.mark.parametrize("restarts", [0, 2])
def test_workers_out_of_memory_are_restarted_as_often_as_asked_and_then_told_what_to_set(
    narrow: None, tmp_path: Path, restarts: int
) -> None:
    """DeepSpeed is told to gather gradients in a buffer of 20 terabytes, which the system refuses each time."""
    greedy = DeepSpeed(zero=2, overrides={"zero_optimization": {"reduce_bucket_size": 5_000_000_000_000}})
    spec = spec_at(tmp_path / "run", write_inputs(tmp_path), workers=2, deepspeed=greedy)
    with raises("training.out-of-memory", *(["3 times"] if restarts else [])) as raised:
        go(spec, max_restarts=restarts)
    assert len([event for event in events_of(tmp_path / "run") if event.code == "group-began"]) == restarts + 1
    assert "allocate memory" in raised.value.what and "gave up waiting" not in raised.value.what
    assert "cluster.token_budget" in raised.value.fix
    assert not list((tmp_path / "run/checkpoints").glob("step-*"))


def test_an_object_store_of_a_tenth_of_the_data_gives_the_same_pairs(narrow: None, tmp_path: Path) -> None:
    """The pairs are those of one process that has no object store at all."""
    text = "word " * 4000
    with (tmp_path / "x.jsonl").open("w") as file:
        for row in range(22_000):
            file.write(json.dumps({"prompt": f"p{row}", "chosen": f"{row} {text}", "rejected": f"{text} {row}"}) + "\n")
    assert (tmp_path / "x.jsonl").stat().st_size > 10 * (STORE_MB << 20)
    source = Source(path=str(tmp_path / "x.jsonl"), layout="pair", held_out=0.1)
    plain = tmp_path / "plain"
    plain.mkdir()
    counts = assemble(read_source(source), plain, source)
    _, folder = prepare_pairs("mine", source, Layout(tmp_path / "out"), None)
    assert counts.kept == 22_000
    for part in ("train", "heldout", "skipped"):
        mine, theirs = (pq.ParquetFile(one / f"{part}.parquet") for one in (folder, plain))
        assert mine.metadata.num_rows == theirs.metadata.num_rows
        for left, right in zip(mine.iter_batches(500), theirs.iter_batches(500), strict=True):
            assert left.equals(right)
