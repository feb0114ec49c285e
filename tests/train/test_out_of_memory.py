"""A machine without memory: two lines with who held how much, and the status that fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from raised import raises
from ratchet.errors import ClusterError, TrainingError
from ratchet.pipeline.session import native_noise_to, plain_error
from ratchet.train.launch import _plain_errors
from ratchet.train.out_of_memory import memory_error
from ratchet.train.spec import TrainSpec
from train_bench import write_inputs
from train_ray_bench import spec_at

SAID = """\
1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.1, ID: 2b51) was \
{used}GB used / 23.54GB limit (0.95)
OOM kill reason: Memory usage 6168023040B exceeded threshold
Considered workers: [
Selected to kill: (Task: job ID=01000000, task name=f, required resources={{CPU: 1}}, pid=11368, \
actual memory used={worker}GB, worker ID=2990)
]
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/x. Consider provisioning \
more memory. Set max_restarts and max_task_retries. `RAY_memory_usage_threshold`"""
"""What Ray 2.60 says, its middle left out."""


def said(used: float, worker: float) -> str:
    return SAID.format(used=used, worker=worker)


def test_where_others_hold_the_memory_the_same_command_may_succeed_later() -> None:
    error = memory_error(said(23.4, 0.5), "step align", 1, 512)
    assert isinstance(error, ClusterError) and error.exit_code == 69
    assert str(error).splitlines() == [
        "step align: the machine ran out of memory: 23.4 of 23.5 GiB were used; this run's worker held 0.5 GiB, "
        "others 22.9 GiB",
        "  run again when the others need less, or elsewhere: it goes on from what was saved",
    ]


@pytest.mark.parametrize(
    ("workers", "held", "budget", "advice"),
    [
        (1, "worker held 11.9 GiB, others 10.5 GiB", 4096, "lower cluster.token_budget (it is 4,096 now: try 2,048)"),
        (2, "2 workers held 22.4 GiB, others 0.0 GiB", None, "lower cluster.token_budget, set cluster.gradient_chec"),
    ],
)
def test_where_the_run_holds_it_the_plan_is_to_change(workers: int, held: str, budget: int | None, advice: str) -> None:
    error = memory_error(said(22.4, 11.9), "", workers, budget)
    assert isinstance(error, TrainingError) and error.exit_code == 5
    assert held in error.what and error.fix.startswith(advice)
    assert "RAY_" not in str(error)


def test_another_error_is_none_of_memory() -> None:
    assert memory_error("the actor died", "", 1, None) is None


@pytest.mark.ray
def test_rays_own_text_goes_to_the_native_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from ray.exceptions import OutOfMemoryError

    spec: TrainSpec = spec_at(tmp_path / "run", write_inputs(tmp_path), workers=1)
    capfd.readouterr()
    with native_noise_to(tmp_path / "native.log"):
        with raises("cluster.memory", "0.5 GiB", "22.9 GiB"), _plain_errors(spec):
            raise OutOfMemoryError(said(23.4, 0.5))
        found = plain_error(OutOfMemoryError(said(22.0, 20.0)))
        assert isinstance(found, TrainingError) and "20.0 GiB" in found.what
    assert (tmp_path / "native.log").read_text().count("RAY_memory_usage_threshold") == 2
    assert capfd.readouterr().err == ""


@pytest.mark.ray
def test_how_often_workers_were_started_is_counted_and_not_supposed(tmp_path: Path) -> None:
    from ray.exceptions import RayActorError

    from ratchet.documents.events import Event, write_event

    spec = spec_at(tmp_path / "run", write_inputs(tmp_path), workers=1)
    write_event(tmp_path / "run", Event(code="group-began", what="one"))
    for times, words in ((1, "failed: "), (2, "failed, 2 times: ")):
        with (
            native_noise_to(tmp_path / "native.log"),
            raises("cluster.workers", words),
            _plain_errors(spec),
        ):
            for _ in range(times):
                write_event(tmp_path / "run", Event(code="group-went-on", what="more", step=3))
            raise RayActorError
