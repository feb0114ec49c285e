"""Scores made by the workers that trained a model: those of a pass over the published folder, to the bit."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from killed import run_killed
from ratchet.model.folder import digest_model
from ratchet.model.forward import PairScorer
from ratchet.model.load import load_model
from ratchet.plan.training import Lora
from ratchet.reference.models import TRAINER, Passes, ScoreJob, ScoringModel
from ratchet.reference.pool import Pool
from ratchet.reference.score import score_jobs, scored_pairs
from ratchet.reference.store import Logps, block_paths, read_all
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import leased
from ratchet.store.made import lease_key, made_folder
from ratchet.store.record import finished_record, read_record
from ratchet.track.progress import SCORING
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from ratchet.train.loop import Parts
from ratchet.train.notice import Notice
from ratchet.train.objective import Data
from ratchet.train.owed import score_owed
from ratchet.train.publish import WEIGHTS, Published
from ratchet.train.spec import MODEL, Owed, TrainSpec
from train_bench import CPU, Pairs, spec_of, tiny_model, train_whole, write_inputs

pytestmark = pytest.mark.heavy
T = TypeVar("T")
PASSES = Passes(token_budget=96)
LORA = Lora(rank=4, alpha=8, targets=("q_proj", "v_proj"))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet.reference.store.BLOCK", 8)


def jobs_of(inputs: Mapping[str, Any]) -> tuple[ScoreJob, ...]:
    """All held-out pairs, some pairs to train on, and all of them: the last has the second's scores."""
    folder = Path(inputs["tokens"][0]).parent
    rows = tuple(range(1, 20, 2))
    return (ScoreJob("t", folder, "heldout"), ScoreJob("t", folder, "train", rows), ScoreJob("u", folder, "train"))


def owing(folder: Path, inputs: Mapping[str, Any], **changes: Any) -> TrainSpec:
    """A step that owes its run scores; its store lies beside it."""
    (folder / "step").mkdir(parents=True)
    owed = Owed(Layout(folder / "root"), jobs_of(inputs), PASSES, actors=1)
    return spec_of(folder / "step", owed=owed, **inputs, **changes)


def model_of_step(spec: TrainSpec) -> ScoringModel:
    folder = Path(spec.folder) / MODEL
    return ScoringModel(folder, digest_model(folder), spec.dtype)


def scores_in(spec: TrainSpec, layout: Layout) -> list[Logps | None]:
    """The finished scores that a store has of what a step's model owes."""
    assert spec.owed is not None
    places = [made_folder(layout, scored_pairs(model_of_step(spec), job, TRAINER)) for job in spec.owed.jobs]
    return [read_all(place) if read_record(place) is not None else None for place in places]


def usual(spec: TrainSpec, layout: Layout) -> list[bool]:
    """Score by a usual pass, and return of what nothing had to be computed."""
    assert spec.owed is not None
    work = [(model_of_step(spec), job) for job in spec.owed.jobs]
    return [one.reused for one in score_jobs(work, layout, Pool(1, 0, PASSES))]


def assert_same_as_a_usual_pass(spec: TrainSpec, beside: Path) -> None:
    """Assert that the step's scores are there, and those of a pass that loads the published folder."""
    assert spec.owed is not None
    usual(spec, Layout(beside))
    for mine, theirs in zip(scores_in(spec, spec.owed.layout), scores_in(spec, Layout(beside)), strict=True):
        assert mine is not None and theirs is not None and len(mine.chosen)
        for field in dataclasses.fields(Logps):
            np.testing.assert_array_equal(getattr(mine, field.name), getattr(theirs, field.name))


WAYS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "bfloat16 with masters": (torch.bfloat16, {"dtype": "bfloat16", "keep_masters": True}),
    "float32": (torch.float32, {}),
    "lora": (torch.float32, {"lora": LORA}),
    "lora in bfloat16": (torch.bfloat16, {"dtype": "bfloat16", "lora": LORA}),
}


@pytest.mark.parametrize("way", sorted(WAYS))
def test_the_trained_model_scores_as_its_folder_does(tmp_path: Path, way: str) -> None:
    dtype, changes = WAYS[way]
    (tmp_path / "inputs").mkdir()
    spec = owing(tmp_path, write_inputs(tmp_path / "inputs", dtype), reference_noise=1.0, **changes)
    outcome = train_whole(spec, Alone(), CPU, TorchEngine)
    assert outcome["scored"] == {**outcome["scored"], "pairs": 9 + 10 + 22, "why_not": None}
    assert_same_as_a_usual_pass(spec, tmp_path / "beside")
    assert spec.owed is not None and usual(spec, spec.owed.layout) == [True, True, True]
    job = spec.owed.jobs[0]
    record = finished_record(made_folder(spec.owed.layout, scored_pairs(model_of_step(spec), job, TRAINER)))
    assert record.facts["in_training"] and record.facts["start_seconds"] == 0
    assert outcome["scored"]["fingerprints"][0] == record.fingerprint == fingerprint(record.identity)


class Together(Alone):
    """One of two workers that are threads of this process, and exchange what they know as processes do."""

    def __init__(self, rank: int, place: threading.Barrier, values: list[Any]) -> None:
        self.rank, self.world, self.place, self.values = rank, 2, place, values

    def gather(self, value: T) -> list[T]:
        self.values[self.rank] = value
        self.place.wait()
        found = list(self.values)
        self.place.wait()
        return found


def parts_of(spec: TrainSpec, communicator: Alone, told: Callable[[], Notice | None] = lambda: None) -> Parts:
    """What is left of a worker after its last step: an engine, and its word to the others."""
    engine, table = TorchEngine(spec, PairScorer(tiny_model()), CPU), Pairs(22)
    checkpoints = Checkpoints(Path(spec.folder), Alone(), 1)
    return Parts(engine, Data(table, None), None, 96, communicator, checkpoints, None, None, told)


def published(folder: Path, inputs: Mapping[str, Any], **changes: Any) -> TrainSpec:
    """A step that is trained and published, and owes its run scores that nobody made."""
    spec = owing(folder, inputs, **changes)
    train_whole(dataclasses.replace(spec, owed=None), Alone(), CPU, TorchEngine)
    return spec


def made(spec: TrainSpec) -> Published:
    """What publishing gave worker 0."""
    folder = Path(spec.folder) / MODEL
    return Published({WEIGHTS: digest_model(folder)}, load_model(folder, spec.dtype))


def scored_alone(spec: TrainSpec, **told: Any) -> dict[str, Any]:
    found = score_owed(spec, parts_of(spec, Alone(), **told), made(spec))
    assert found is not None
    return found


def test_two_workers_score_a_block_each(tmp_path: Path, inputs: dict[str, Any]) -> None:
    spec, place, values = published(tmp_path, inputs), threading.Barrier(2), [None, None]
    found: list[Any] = [None, None]
    parts = [parts_of(spec, Together(rank, place, values)) for rank in range(2)]
    models = [made(spec), Published(made(spec).facts, None)]

    def work(rank: int) -> None:
        found[rank] = score_owed(spec, parts[rank], models[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found[0] == found[1] and (found[0]["pairs"], found[0]["why_not"]) == (9 + 10 + 22, None)
    assert_same_as_a_usual_pass(spec, tmp_path / "beside")
    for one in parts:  # both took part
        assert isinstance(one.engine, TorchEngine) and not any(map(torch.numel, one.engine.scorer.parameters()))


@pytest.mark.parametrize("block", [0, 1])
def test_a_kill_leaves_a_model_and_a_pass_for_others(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    spec = owing(tmp_path, inputs)
    assert spec.owed is not None
    monkeypatch.setenv("RATCHET_FAULT", f"score:kill@{block}")
    monkeypatch.setenv("RATCHET_FAULT_ONCE", str(tmp_path / "acted"))
    assert run_killed(lambda: train_whole(spec, Alone(), CPU, TorchEngine)) == signal.SIGKILL
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "root/store/logps").rglob("*.parquet")}
    assert digest_model(Path(spec.folder) / MODEL) and len(left) == block
    again = train_whole(spec, Alone(), CPU, TorchEngine)
    assert again["resumed_from"] == 12 and again["scored"]["pairs"] == 0
    assert "had begun" in again["scored"]["why_not"]
    assert usual(spec, spec.owed.layout) == [False, False, False]
    assert left == {path: path.stat().st_mtime_ns for path in left}  # what was scored is not scored again
    assert_same_as_a_usual_pass(spec, tmp_path / "beside")


def test_what_another_process_is_at_is_not_waited_for(tmp_path: Path, inputs: dict[str, Any]) -> None:
    spec = published(tmp_path, inputs)
    assert spec.owed is not None
    scores = scored_pairs(model_of_step(spec), spec.owed.jobs[0], TRAINER)
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        assert spec.owed is not None
        with leased(spec.owed.layout.lease(lease_key(scores)), what="these scores"):
            taken.set()
            over.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    taken.wait(60)
    try:
        found = scored_alone(spec)
    finally:
        over.set()
        other.join()
    assert found["pairs"] == 0 and f"process {os.getpid()}" in found["why_not"]
    assert usual(spec, spec.owed.layout) == [False, False, False]


def test_a_word_to_stop_ends_it_between_two_blocks(tmp_path: Path, inputs: dict[str, Any]) -> None:
    spec = published(tmp_path, inputs)
    words = iter([None, Notice("grow", "there is room"), None, Notice("stop", "asked to stop by SIGTERM")])
    found = scored_alone(spec, told=lambda: next(words))
    assert (found["pairs"], found["why_not"]) == (0, "asked to stop by SIGTERM")
    assert spec.owed is not None
    first = made_folder(spec.owed.layout, scored_pairs(model_of_step(spec), spec.owed.jobs[0], TRAINER))
    assert len(block_paths(first)) == 2 and not list(first.glob("*.begun"))
    assert usual(spec, spec.owed.layout) == [False, False, False]
    assert_same_as_a_usual_pass(spec, tmp_path / "beside")


def test_a_wider_pool_is_not_kept_out(tmp_path: Path, inputs: dict[str, Any]) -> None:
    spec = published(tmp_path, inputs)
    assert spec.owed is not None
    found = scored_alone(dataclasses.replace(spec, owed=dataclasses.replace(spec.owed, actors=3)))
    assert found["why_not"] == "3 processes may score (cluster.score_actors), and 1 trained"
    (job, *_) = spec.owed.jobs
    (tmp_path / "step" / SCORING).unlink()
    few = dataclasses.replace(spec.owed, jobs=(dataclasses.replace(job, rows=(1, 2)),), actors=3)
    assert scored_alone(dataclasses.replace(spec, owed=few))["pairs"] == 2  # one block: one process


def test_an_error_ends_no_step_and_is_left_to_the_usual_pass(tmp_path: Path, inputs: dict[str, Any]) -> None:
    spec = published(tmp_path, inputs)
    assert spec.owed is not None
    broken, full = (made(spec) for _ in range(2))
    broken.model.lm_head.weight.data.fill_(float("nan"))
    full.model.model.layers[0].register_forward_pre_hook(_no_memory)
    for model, why in ((broken, "cannot be scored"), (full, "out of memory: CUDA out of memory. Tried 2 GiB")):
        (tmp_path / "step" / SCORING).unlink(missing_ok=True)
        found = score_owed(spec, parts_of(spec, Alone()), model)
        assert found is not None and found["pairs"] == 0 and why in found["why_not"]
    assert not [*(tmp_path / "root").rglob("block-*")]
    assert usual(spec, spec.owed.layout) == [False, False, False]


def _no_memory(*_: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nand more")


def test_a_released_engine_holds_nothing(tmp_path: Path, inputs: dict[str, Any]) -> None:
    engine = TorchEngine(spec_of(tmp_path, dtype="bfloat16"), PairScorer(tiny_model(dtype=torch.bfloat16)), CPU)
    engine.release()
    held = [*engine.scorer.parameters(), *engine.masters, engine.gradient, *engine.sums, *engine.trained]
    assert sum(tensor.numel() for tensor in held) == 0 and not engine.optimizer.state_dict()["state"]
