"""Single bits of every kind of file in a store are changed, at random: no number that comes out of it is another one.

A change is harmless (the same numbers), mended (what it touched is not found, and made again) or told (an error of
ours). Files are read as a run reads them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from bits import flip
from ratchet.errors import CorruptError, RatchetError
from ratchet.evaluate.harness.data import copy_faults
from ratchet.evaluate.harness.requests import Rows, kept_rows
from ratchet.evaluate.results import read_result
from ratchet.pairs.table import open_table
from ratchet.pipeline.step_folder import step_faults, unchanged
from ratchet.reference.store import block_fault, block_paths, read_block, read_logps
from ratchet.serving.journal import Journal, UnitJournal
from ratchet.serving.requests import CompletionRequest, answer_key
from ratchet.store.files import read_sealed
from ratchet.store.layout import Layout
from ratchet.store.record import checked, read_record, sound_record
from ratchet.track.jsonl import read_metrics
from ratchet.train.data import join_reference
from ratchet.tune.trial import read_end
from store_example import DOCS, IDS, requests, write_store

MADE_AGAIN = "made again"
MASTERS = "masters/masters.safetensors"


def pairs(layout: Layout) -> Any:
    folder = layout.pairs("p")
    if (record := sound_record(folder)) is None:
        return MADE_AGAIN
    return record, [pq.read_table(checked(folder / f"{side}.parquet")).to_pylist() for side in ("train", "heldout")]


def tokens(layout: Layout) -> Any:
    found = [(pair.pair_id, *map(bytes, (pair.prompt, pair.chosen, pair.rejected))) for pair in
             open_table([layout.tokens("t") / "train.arrow"], [1.0], 0)]  # fmt: skip
    return MADE_AGAIN if sound_record(layout.tokens("t")) is None else found


def logps(layout: Layout) -> Any:
    folder = layout.logps("l")
    chosen, rejected = join_reference(IDS, [folder])
    counts = read_logps([folder], IDS).chosen_tokens
    return chosen.tobytes(), rejected.tobytes(), counts.tobytes()


def blocks(layout: Layout) -> Any:
    """What a pass that goes on finds: each block, or none of its number."""
    return {path.name: read_block(path) for path in block_paths(layout.logps("l")) if not block_fault(path)}


def model(layout: Layout) -> Any:
    folder = layout.made("models", "m")
    return MADE_AGAIN if sound_record(folder) is None else (folder / "model.safetensors").read_bytes()


def result(layout: Layout) -> Any:
    return MADE_AGAIN if sound_record(layout.made("scores", "r")) is None else read_result(layout.made("scores", "r"))


def answers(layout: Layout) -> Any:
    with UnitJournal(layout.answers("a")) as journal:
        keys = [f"u{number}" for number in range(6)]
        return {key: journal.find(key) for key in keys if key in journal}


def judgments(layout: Layout) -> Any:
    with Journal(layout.judgments("j")) as journal:
        keys = [answer_key("judge", CompletionRequest((number,))) for number in range(6)]
        return {key: journal.find(key) for key in keys if key in journal}


def built(layout: Layout) -> Any:
    calls: list[int] = []

    def build() -> Rows:
        calls.append(1)
        return requests()

    found = kept_rows(layout.store / "requests/task-k.requests", "k", DOCS, build)
    return MADE_AGAIN if calls else found


def step(layout: Layout) -> Any:
    folder = layout.step("plan", "align")
    if step_faults(folder):
        return MADE_AGAIN
    files = [(folder / name).read_bytes() for name in ("model/model.safetensors", "identity.json", MASTERS)]
    return files, read_record(folder)


def metrics(layout: Layout) -> Any:
    path = layout.step("plan", "align") / "metrics.jsonl"
    return read_metrics(path) if unchanged(path) else MADE_AGAIN


def order(layout: Layout) -> Any:
    return read_sealed(layout.order("plan", "align"))


def trial(layout: Layout) -> Any:
    return read_end(layout.trials("s").run("t1")) or MADE_AGAIN


def data(layout: Layout) -> Any:
    folder = layout.store / "datasets/d"
    return MADE_AGAIN if copy_faults(folder) else (folder / "test.arrow").read_bytes()


KINDS: dict[str, tuple[str, Callable[[Layout], Any]]] = {
    "pairs": ("store/pairs/p/*", pairs),
    "tokens": ("store/tokens/t/*", tokens),
    "scores": ("store/logps/l/*", logps),
    "blocks of a pass cut short": ("store/logps/l/block*", blocks),
    "start model": ("store/models/m/*", model),
    "results": ("store/scores/r/*", result),
    "answers": ("store/answers/*", answers),
    "judgments": ("store/judgments/*", judgments),
    "requests": ("store/requests/*", built),
    "step": ("runs/plan/steps/align/**/*", step),
    "masters": (f"runs/plan/steps/align/{MASTERS}", step),
    "metrics": ("runs/plan/steps/align/metrics.jsonl", metrics),
    "copies of data": ("store/datasets/d/*", data),
    "order": ("runs/plan/orders/*", order),
    "trial": ("sweeps/s/trials/t1/trial.json", trial),
}


def same_or_part(found: Any, before: Any) -> bool:
    """Whether what was found is what was there, or a part of it (the rest is made again)."""
    if isinstance(before, dict):
        return isinstance(found, dict) and all(key in before and before[key] == value for key, value in found.items())
    return bool(found == before)


def try_flips(layout: Layout, kind: str, count: int, seed: int) -> Counter[str]:
    """Change `count` bits, one at a time, and count what came of it. Raises AssertionError for another number."""
    pattern, read = KINDS[kind]
    files = [path for path in sorted(layout.root.glob(pattern)) if path.is_file()]
    before, draw, seen = read(layout), random.Random(seed), Counter[str]()
    for _ in range(count):
        path = draw.choice(files)
        whole = path.read_bytes()
        byte, bit = draw.randrange(len(whole)), draw.randrange(8)
        flip(path, byte, bit)
        try:
            found = read(layout)
        except RatchetError as error:
            assert isinstance(error, CorruptError), error
            seen["told"] += 1
        else:
            assert found == MADE_AGAIN or same_or_part(found, before), f"{path}: byte {byte}, bit {bit}"
            seen["harmless" if found == before else "made again"] += 1
        path.write_bytes(whole)
    assert read(layout) == before
    return seen


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_no_changed_bit_changes_a_number_unseen(layout: Layout, kind: str) -> None:
    seen = try_flips(layout, kind, 40, seed=0)
    assert seen["told"] + seen["made again"] > 0


@pytest.mark.slow
def test_of_a_thousand_changed_bits_none_changes_a_number_unseen(layout: Layout) -> None:
    share = -(-1000 // len(KINDS))
    counts = {kind: try_flips(layout, kind, share, seed=1) for kind in KINDS}
    assert sum(seen.total() for seen in counts.values()) >= 1000
