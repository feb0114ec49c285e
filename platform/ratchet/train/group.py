"""What a group of training workers has of Ray Train: its folder, its places on the cluster, and its trainer.

A thin Ray shell. Ray Train is loaded when a group begins, and not before.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ratchet.store.files import write_text


def torch_trainer() -> Any:
    """Return Ray's TorchTrainer without the actor that frees the places of a lost controller.

    A stage would wait for that actor's process when it begins, and up to a second when it ends. Places of a lost
    process are freed by `free_slots`, and Ray frees all of a job that ends.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class Trainer(TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            found = super()._create_default_callbacks()
            return [one for one in found if not isinstance(one, PlacementGroupCleanerCallback)]

    return Trainer


@contextlib.contextmanager
def scratch_folder(folder: Path, name: str, slots: Path | None) -> Iterator[Path]:
    """Give Ray Train a folder for its snapshots, which nothing reads; it goes at the end, and `slots` too."""
    for left in folder.glob(".ray-*"):  # of a driver that was killed
        shutil.rmtree(left, ignore_errors=True)
    scratch = folder / f".ray-{name}"
    scratch.mkdir(parents=True)
    try:
        yield scratch
    except BaseException as error:
        if slots is not None:
            try:
                free_slots(slots)  # a controller that was killed has freed none
            except Exception as other:
                # Where Ray is gone nothing can be removed, and nothing need be. What ended the training must be seen.
                error.add_note(f"the workers' places were not removed: {other}")
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if slots is not None:
            slots.unlink(missing_ok=True)


def told_group(workers: Path, slots: Path | None) -> Any:
    """Return a callback of Ray Train: it writes the workers' placement group into `slots` once they have it, and takes
    away what says that there are `workers` once they are gone.
    """
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback

    class Group(WorkerGroupCallback):  # type: ignore[misc]
        def after_worker_group_start(self, worker_group: Any) -> None:
            if slots is not None:
                group = worker_group.get_worker_group_state().placement_group_handle.placement_group
                write_text(slots, group.id.hex())

        def before_worker_group_shutdown(self, worker_group: Any) -> None:
            workers.unlink(missing_ok=True)

    return Group()


def free_slots(path: Path) -> None:
    """Remove the placement group that a lost process left, where `path` names one: Ray keeps it until the job ends.

    Its workers, if any are left, end with it.
    """
    try:
        name = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    if ray.is_initialized():  # else Ray would start one to ask
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(name))))
    path.unlink(missing_ok=True)
