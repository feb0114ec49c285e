"""Train one step in this process: one worker, without Ray and DeepSpeed. For a debugger, and a first run in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ratchet.errors import TrainingError
from ratchet.store.machine import out_of_memory
from ratchet.train import loop
from ratchet.train.budget import goes_on, known_budget
from ratchet.train.communicate import Alone
from ratchet.train.driver_loop import Told
from ratchet.train.engine import TorchEngine
from ratchet.train.launch import TrainResult, go_on_or_stop, train_result
from ratchet.train.notice import Ended, Notice
from ratchet.train.out_of_memory import smaller_passes
from ratchet.train.rehearsal import rehearse
from ratchet.train.spec import TrainSpec
from ratchet.train.worker import begin_step, ended_of, finish_step, noting_failures


def train_here(
    spec: TrainSpec,
    *,
    stop: Callable[[], str | None] = lambda: None,
    say: Callable[[str], None] = lambda line: None,
) -> TrainResult:
    """Train one step and return its result; the model lies in its folder, the same that one worker on a Ray makes.

    It goes on from the newest good checkpoint, which may be a Ray worker's. `stop` says after each update why training
    should stop, if it should; `say` gets a line for people when something happened to the step. Raises RatchetError,
    StoppedError among them. A fault of another kind is raised as it is, for the debugger, but for a lack of memory.
    """
    clock, spec = time.monotonic(), spec.absolute()
    news = Told(spec, say)

    def told() -> Notice | None:
        news.news()
        why = stop()
        return Notice("stop", why) if why is not None else None

    device = _device(spec)
    try:
        while True:
            try:
                with noting_failures(spec, Alone()):
                    rehearsed = rehearse(spec, Alone(), device, TorchEngine)
                    step = begin_step(spec, Alone(), device, TorchEngine, told)
                    with step.books:
                        trained = loop.run(spec, step.parts, step.resumed)
                    found = finish_step(spec, step, trained, rehearsed)
                break
            except Ended as end:
                go_on_or_stop(spec, ended_of(end, 1))
                raise  # `told` gives no notice on which others go on
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(f"{type(error).__name__}: {error}"):
                    raise
                if not goes_on(spec, "memory ran out"):
                    raise _no_memory(spec, error) from error
    finally:
        news.news()
    return train_result(found, clock)


def rehearse_here(spec: TrainSpec) -> None:
    """Rehearse a step in this process, and train nothing. Raises ModelError, StorageError."""
    spec = spec.absolute()
    try:
        rehearse(spec, Alone(), _device(spec), TorchEngine)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(f"{type(error).__name__}: {error}"):
            raise
        raise _no_memory(spec, error) from error


def _device(spec: TrainSpec) -> torch.device:
    # A number is needed: CUDA makes the device of a pass the current one.
    return torch.device("cuda", torch.cuda.current_device()) if spec.cluster.gpus_per_worker else torch.device("cpu")


def _no_memory(spec: TrainSpec, error: BaseException) -> TrainingError:
    return TrainingError(
        f"out of memory: {error}",
        where=f"step {spec.step}",
        fix=f"{smaller_passes(known_budget(spec))}, set cluster.gradient_checkpointing, or divide the "
        "model among workers (cluster.deepspeed.zero, without --here)",
        code="training.out-of-memory",
    )
