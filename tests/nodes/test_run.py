"""A plan on a head and two worker hosts by `ray job submit`: the same results as on one machine, from both hosts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import transformers

from nodes import ADDRESSES, HEAD, WORKERS, Nodes, needs_nodes
from nodes_run import done, lines, losses, record, scores, settings, step_folder, weights, write_plan
from whole_run import ratchet

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(1800), needs_nodes]
ZEROS = (2, 3)
BOTH = {ADDRESSES[worker] for worker in WORKERS}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def jobs(cluster: Nodes, storage: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What Ray says of a run with ZeRO 2, and of one with ZeRO 3 that finds the pairs and their scores made."""
    plan, found = write_plan(tmp_path_factory.mktemp("sent") / "plan"), {}
    for zero in ZEROS:
        changes = settings(storage, f"name=zero{zero}", f"cluster.deepspeed.zero={zero}")
        found[zero] = done(cluster, cluster.submit(plan, *changes, name=f"zero{zero}"))
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of the same plan run on a Ray of this machine."""
    folder = tmp_path_factory.mktemp("alone")
    plan = write_plan(folder / "plan")
    found = ratchet(plan.parent, "run", plan.name, *settings(folder / "out"), seconds=900)
    assert found.returncode == 0, found.stderr
    return folder / "out"


def test_drivers_run_on_the_head_and_end_well(jobs: dict[int, dict[str, Any]]) -> None:
    for info in jobs.values():
        assert (info["status"], info["driver_exit_code"]) == ("SUCCEEDED", 0)
        assert info["driver_info"]["node_ip_address"] == ADDRESSES[HEAD]


def test_both_hosts_train_and_score(cluster: Nodes, jobs: dict[int, dict[str, Any]], storage: Path) -> None:
    """By Ray's own record of which actors ran where."""
    for info in jobs.values():
        actors = cluster.actors(info["job_id"])
        assert sorted(host for kind, host in actors if kind == "RayTrainWorker") == sorted(BOTH)
        # Of the start model alone, whose few blocks one of them may take.
        assert set() < {host for kind, host in actors if "BlockScorer" in kind} <= BOTH
    made = [json.loads(path.read_text())["facts"] for path in storage.glob("store/logps/*/record.json")]
    assert {bool(one.get("in_training")) for one in made} == {True, False}, "its workers score a trained model, on both"


def test_each_pair_is_trained_on_once(jobs: dict[int, dict[str, Any]], storage: Path) -> None:
    for zero in ZEROS:
        folder = step_folder(storage, f"zero{zero}")
        counts = record(folder)["counts"]
        rows = [row for line in lines(folder, "ledger.jsonl") for row in line["rows"]]
        assert sorted(rows) == list(range(counts["pairs"]))
        assert counts["steps"] == len(losses(folder)) == math.ceil(len(rows) / 8)


def test_results_are_those_of_one_machine(jobs: dict[int, dict[str, Any]], storage: Path, alone: Path) -> None:
    here, two, three = (step_folder(*of) for of in ((alone, "base"), (storage, "zero2"), (storage, "zero3")))
    assert losses(two) == losses(here) and weights(two) == weights(here)
    assert losses(three) == pytest.approx(losses(here), rel=1e-6)
    assert lines(three, "ledger.jsonl") == lines(two, "ledger.jsonl") == lines(here, "ledger.jsonl")
    [expected] = scores(alone, "base")
    assert {one["value"] for one in expected if one["value"] is not None} - {0.0, 1.0}  # numbers that could differ
    assert scores(storage, "zero2") == [expected]
    [third] = scores(storage, "zero3")
    # A margin is a difference of sums of some 50 nats, which float32 rounds by 4e-6.
    assert [one["value"] for one in third] == pytest.approx([one["value"] for one in expected], rel=1e-6, abs=4e-6)


def test_models_load_again(jobs: dict[int, dict[str, Any]], storage: Path) -> None:
    for zero in ZEROS:
        folder = step_folder(storage, f"zero{zero}") / "model"
        model, told = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(told.values()) and all(one.isfinite().all() for one in model.parameters())


def test_every_process_of_the_cluster_has_the_token(cluster: Nodes, jobs: dict[int, dict[str, Any]]) -> None:
    seen = 0
    for pid in cluster.pids(HEAD, *WORKERS):
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().removesuffix(b"\0").split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if all(b"=" in one for one in variables):  # else Ray has written the process's title over the first of them
            seen += 1
            assert {b"RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={cluster.token}".encode()} <= set(variables)
    assert seen >= 7  # GCS, three raylets, three that started them
    assert json.loads(cluster.ask("/api/authentication_mode", token=None)[1])["authentication_mode"] == "token"
