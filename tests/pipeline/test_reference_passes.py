"""Which engine a plan gets, by what it asks for and what is installed; what scores are known by."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raised import raises
from ratchet.pipeline import reference_passes, training
from ratchet.pipeline.context import Gate
from ratchet.plan.cluster import Cluster
from ratchet.plan.schema import ReferenceScores
from ratchet.reference.models import TRAINER, Adapter, EngineChoice, ScoreJob, ScoringModel, read_adapter, servable
from ratchet.reference.pool import deadly
from ratchet.reference.score import scored_pairs
from ratchet.reference.store import holds
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from vllm_bench import write_pairs


def run_that_asks(engine: Any, tensor_parallel: int = 1, *, here: bool = False) -> Any:
    cluster = Cluster(gpus_per_worker=1.0, tensor_parallel=tensor_parallel)
    return SimpleNamespace(plan=SimpleNamespace(reference=ReferenceScores(engine=engine), cluster=cluster), here=here)


@pytest.mark.parametrize(
    ("asked", "installed", "found"),
    [
        ("trainer", "0.32.0", None),
        ("auto", None, None),
        ("auto", "0.32.0", "vllm 0.32.0"),
        ("vllm", "0.32.0", "vllm 0.32.0"),
    ],
)
def test_the_engine_is_what_is_asked_for_and_there(
    asked: Any, installed: str | None, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_passes.vllm, "version", lambda: installed)
    choice = reference_passes.foreign_engine(run_that_asks(asked))
    assert (choice.label if choice else None) == found
    assert reference_passes.foreign_engine(run_that_asks(asked, here=True)) is None


def test_vllm_that_is_not_installed_is_an_error_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_passes.vllm, "version", lambda: None)
    with raises("plan.no-engine", "vLLM") as raised:
        reference_passes.foreign_engine(run_that_asks("vllm"))
    assert raised.value.where == "reference.engine" and "install" in raised.value.fix


def test_scores_are_known_by_engine_version_gpus_precision_quantisation_and_adapter() -> None:
    model = ScoringModel(Path("model"), "weights", "bfloat16")
    adapted = dataclasses.replace(model, adapter=Adapter(Path("a"), Path("model"), 8, ("q_proj",)))
    vllm, job = EngineChoice("vllm", "0.32.0"), ScoreJob("tokens", Path("tokens"), "train")
    identities = [
        scored_pairs(model, job, TRAINER).identity,
        scored_pairs(model, job, vllm).identity,
        scored_pairs(model, job, dataclasses.replace(vllm, version="0.31.0")).identity,
        scored_pairs(model, job, dataclasses.replace(vllm, tensor_parallel=4)).identity,
        scored_pairs(model, job, dataclasses.replace(vllm, quantisation="fp8")).identity,
        scored_pairs(dataclasses.replace(model, dtype="float32"), job, vllm).identity,
        scored_pairs(adapted, job, vllm).identity,
    ]
    assert len({fingerprint(identity) for identity in identities}) == len(identities)
    assert identities[3]["engine"] == "vllm 0.32.0 on 4 GPUs"


def test_a_step_goes_on_only_with_the_engine_it_was_begun_with(tmp_path: Path) -> None:
    run = cast(Any, SimpleNamespace(layout=Layout(tmp_path), plan=SimpleNamespace(name="tiny")))
    step = cast(Any, SimpleNamespace(name="align.1"))
    vllm = Gate(EngineChoice("vllm", "0.32.0"), None)
    for _ in range(2):
        training._hold_to(run, step, vllm)
    with raises("run.other-plan") as raised:
        training._hold_to(run, step, Gate(TRAINER, None))
    assert "--fresh" in raised.value.fix


def test_a_job_holds_the_pairs_of_its_rows(tmp_path: Path) -> None:
    table = write_pairs(tmp_path / "train.arrow", 9)
    whole, part = ScoreJob("t", tmp_path, "train"), ScoreJob("t", tmp_path, "train", (2, 5))
    ids = ["a stranger", table.pair_id(5), table.pair_id(8)]
    assert holds(whole, ids).tolist() == [False, True, True]
    assert holds(part, ids).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("targets", "can"), [(["q_proj", "v_proj"], True), (["q_proj", "lm_head"], False), (["embed_tokens"], False)]
)
def test_adapters_on_the_head_or_the_embeddings_are_not_served(tmp_path: Path, targets: list[str], can: bool) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8, "target_modules": targets}))
    adapter = read_adapter(tmp_path, Path("base"))
    assert servable(adapter) is can and (adapter.rank, adapter.base) == (8, Path("base"))
    (tmp_path / "adapter_config.json").write_text("{}")
    with raises("corrupt.adapter"):
        read_adapter(tmp_path, Path("base"))


@pytest.mark.parametrize(("gpus", "parallel", "each"), [(0.5, 1, 0.5), (1.0, 4, 4.0), (2.0, 1, 2.0), (0.5, 2, 2.0)])
def test_an_engine_over_several_gpus_counts_them_all(gpus: float, parallel: int, each: float) -> None:
    assert Cluster(gpus_per_worker=gpus, tensor_parallel=parallel).gpus_per_actor == each


def test_a_block_that_kills_its_processes_names_its_pairs() -> None:
    error = deadly([f"pair-{i}" for i in range(20)], Path("store/logps/x"), 2)
    assert "pair-0, " in error.what and "and 12 more" in error.what and "2 processes" in error.what
