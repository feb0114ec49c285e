"""Start the workers of one training step on Ray, and bring back what they made."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ratchet.documents.events import Event, events_of, read_events, write_event
from ratchet.errors import ClusterError, StoppedError, TrainingError, error_from
from ratchet.store import warned
from ratchet.store.machine import out_of_memory
from ratchet.train import faults
from ratchet.train.budget import goes_on, known_budget
from ratchet.train.driver_loop import NodeWatch, Told, live_nodes, refuse_stopped, watched
from ratchet.train.group import scratch_folder, told_group, torch_trainer
from ratchet.train.notice import WORKERS, write_notice
from ratchet.train.out_of_memory import OUT_OF_MEMORY, keep_text, memory_error, smaller_passes
from ratchet.train.spec import TrainSpec
from ratchet.train.worker import ray_worker, rehearsing_worker

_NEVER = 1e9
Worker = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a training step came to.

    `counts` are what the ledger proved; `metrics` the last step's; `rehearsal` what one before the step saw, and
    `first` what the check of step 1 saw, or None; `published` the step whose weights became the model, and how far
    they were from the engine's in nats; `scored` what the workers scored with that model (`train.owed`), or None;
    `events` what happened to the step (`documents.events`); `token_budget` what a forward pass computed at most,
    `unshared` why tokens were not shared, of all pairs or of some (None: they could be); `peak_memory_mb` the largest
    worker's peak; `seconds` of a rehearsal, set-up, training, publishing and scoring on the workers, in all, and of
    starting: what is left of it, for processes to begin and end and for groups of workers that ended before.
    """

    steps: int
    counts: Mapping[str, Any]
    metrics: Mapping[str, Any]
    rehearsal: Mapping[str, Any] | None
    first: Mapping[str, Any] | None
    published: Mapping[str, Any]
    scored: Mapping[str, Any] | None
    resumed_from: int
    attempt: str
    events: tuple[Event, ...]
    workers: int
    token_budget: int
    unshared: str | None
    peak_memory_mb: float
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return dataclasses.asdict(self)


def train_result(found: Mapping[str, Any], began: float) -> TrainResult:
    """Return what workers found as a TrainResult; `began` is the monotonic clock's reading when they were asked for."""
    whole = time.monotonic() - began
    seconds = {"starting": whole - sum(found["seconds"].values()), **found["seconds"], "all": whole}
    return TrainResult(**{**found, "events": read_events(found["events"]), "seconds": seconds})


def train(
    spec: TrainSpec,
    *,
    cpus_per_worker: float,
    gpus_per_worker: float,
    max_restarts: int,
    slots: Path | None = None,
    stop: Callable[[], str | None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,
    worker: Worker = ray_worker,
) -> TrainResult:
    """Train one step on the Ray that is running, and return its result; the model lies in its folder.

    `slots` is a file that names the placement group of the workers as long as they are there: `free_slots`
    lets it go where this process is lost, which Ray does not. `stop` says why training should stop, if it should;
    `say` gets a line for people when something happened to the step.

    A lost worker starts the group again from the newest good checkpoint, `max_restarts` times; one that ran out of
    memory once more, with half as many tokens in a pass, where these were found by trying; a node that is taken
    away with notice, or room for more workers, after a checkpoint, any number of times. Ray's
    own snapshot of a run is not trusted: each group has a run name and folder of its own, which goes
    at the end. `worker` is what each worker runs. Raises the workers' RatchetError, StoppedError, or ClusterError where
    workers kept failing.
    """
    clock, spec = time.monotonic(), spec.absolute()
    folder = Path(spec.folder)
    each = {"CPU": cpus_per_worker, **({"GPU": gpus_per_worker} if gpus_per_worker else {})}
    watch, tell = NodeWatch(spec, each), Told(spec, say)
    while True:
        write_notice(folder, None)
        # A driver that was killed may have left it, and its workers would be taken for these.
        (folder / WORKERS).unlink(missing_ok=True)
        try:
            with _plain_errors(spec):
                refuse_stopped(spec, stop())
                fitted: Future[Mapping[str, Any]] = Future()
                # In a thread of its own, because Ray Train would take the signals of the main one. A daemon, because
                # workers that never get room are not waited for.
                arguments = (fitted, spec, each, max_restarts, slots, worker)
                threading.Thread(target=_fit, args=arguments, name="ratchet-train", daemon=True).start()
                outcome = watched(spec, fitted, watch, stop, tell)
        except (ClusterError, TrainingError) as error:
            if error.code not in OUT_OF_MEMORY or not goes_on(spec, error.what):
                raise
            tell.news()
            continue
        if "ended" not in outcome:
            break
        go_on_or_stop(spec, outcome["ended"])
        tell.news()
        watch.regrouped(outcome["ended"]["kind"], outcome["ended"]["workers"], live_nodes())
    if "error" in outcome:
        raise error_from(outcome["error"])
    return train_result(outcome["result"], clock)


class _EnoughKnown(Exception):  # noqa: N818  no error
    """Workers ended because the first updates were made that somebody wanted to see."""


def first_updates(spec: TrainSpec, worker: Worker, **options: Any) -> None:
    """Let `worker`, a function around `ray_worker`, train a step in its folder until what it is asked is known.

    `options` are those of `train`, which raises the same; a worker that is lost is not replaced.
    """
    with contextlib.suppress(_EnoughKnown):
        train(spec, worker=worker, max_restarts=0, **options)


def rehearse_on_workers(spec: TrainSpec, **options: Any) -> None:
    """Let the workers of a step rehearse it, and train nothing. `options` are those of `train`; it raises the same."""
    with contextlib.suppress(_EnoughKnown):
        train(spec, worker=rehearsing_worker, max_restarts=spec.cluster.max_restarts, **options)


def go_on_or_stop(spec: TrainSpec, ended: Mapping[str, Any]) -> None:
    """Return where other workers go on; raise where the step was dropped or stopped."""
    if ended["kind"] == "known":
        raise _EnoughKnown
    what = f"ended after step {ended['step']}, as it was told to"
    if ended["kind"] == "drop":
        raise TrainingError(what, where=f"step {spec.step}", fix=ended["why"])
    said = f"training ended after step {ended['step']}: {ended['why']}"
    write_event(Path(spec.folder), Event(code="group-ended", what=said, step=ended["step"]))
    if ended["kind"] == "stop":
        raise StoppedError(
            f"{ended['why']}: stopped after step {ended['step']}, which is saved",
            where=f"step {spec.step}",
            fix="run again: it goes on from there",
            code="stopped.at-checkpoint",
        )


def _fit(
    fitted: Future[Mapping[str, Any]],
    spec: TrainSpec,
    each: Mapping[str, float],
    max_restarts: int,
    slots: Path | None,
    worker: Worker,
) -> None:
    """Run one Ray Train run to its end, and put what its workers returned into `fitted`."""
    try:
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig

        name = f"{spec.step.replace('.', '-')}-{uuid.uuid4().hex[:8]}"
        with scratch_folder(Path(spec.folder), name, slots) as scratch:
            cluster = spec.cluster
            fewest, most = cluster.fewest_workers, cluster.most_workers
            trainer = torch_trainer()(
                worker,
                train_loop_config={
                    "spec": spec,
                    "threads": max(1, int(each["CPU"])),
                    "faults": faults.asked_for(),
                    "warnings": warned.destination(),
                },
                torch_config=TorchConfig(
                    backend="nccl" if "GPU" in each else "gloo", timeout_s=cluster.collective_timeout
                ),
                scaling_config=ScalingConfig(
                    num_workers=most if fewest == most else (fewest, most),
                    use_gpu="GPU" in each,
                    resources_per_worker=dict(each),
                    # Ray would grow by killing the workers in the middle of a step; here they end at a checkpoint.
                    elastic_resize_monitor_interval_s=_NEVER,
                ),
                run_config=RunConfig(
                    name=name,
                    storage_path=str(scratch),
                    failure_config=FailureConfig(max_failures=max_restarts),
                    logging_config=LoggingConfig(log_level="ERROR"),
                    callbacks=[told_group(Path(spec.folder) / WORKERS, slots)],
                ),
            )
            value = trainer.fit().return_value
    except BaseException as error:  # whatever ends this thread: the main one waits for word of it
        fitted.set_exception(error)
    else:
        fitted.set_result(value)


@contextlib.contextmanager
def _plain_errors(spec: TrainSpec) -> Iterator[None]:
    """Turn what Ray raises after the last restart into a ClusterError that says why."""
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    before = len(events_of(Path(spec.folder)))
    try:
        yield
    except (TrainingFailedError, RayError) as error:
        keep_text(said := str(_first(error)))
        wall = memory_error(said, f"step {spec.step}", spec.cluster.most_workers, known_budget(spec))
        if wall is not None:
            raise wall from error
        why = _root(error)
        new = events_of(Path(spec.folder))[before:]
        times = sum(event.code in {"group-began", "group-went-on"} for event in new)
        what = f"the training workers failed{f', {times} times' if times > 1 else ''}: {why}"
        # Memory that one process asks for and does not get is the plan's affair: another call would ask for it again.
        if out_of_memory(why):
            raise TrainingError(
                what,
                where=f"step {spec.step}",
                fix=f"{smaller_passes(known_budget(spec))}, set cluster.gradient_checkpointing, or raise "
                "cluster.deepspeed.zero",
                code="training.out-of-memory",
            ) from error
        raise ClusterError(
            what,
            where=f"step {spec.step}",
            fix="look at Ray's worker logs; running again goes on from the last checkpoint",
            code="cluster.workers",
        ) from error


def _first(error: Exception) -> Any:
    """Return the first worker's failure, or what else there is."""
    failures = getattr(error, "worker_failures", None) or {}
    return next((failures[rank] for rank in sorted(failures)), getattr(error, "controller_failure", error))


def _root(error: Exception) -> str:
    """The last line of the first worker's failure, which names the cause."""
    first = _first(error)
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    return f"{type(first).__name__}: {lines[-1] if lines else 'no message'}"
