"""The door to Ray: attach to a cluster, and run something on every node of it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ratchet.doctor import probe
from ratchet.doctor.facts import Machine, NodeFacts, Skew, Storage
from ratchet.errors import ClusterError
from ratchet.pipeline.ray_start import check_port

_SECONDS = 120.0
"""How long a node has to answer: the first task on it starts a worker process, which imports Ratchet."""
_ROUNDS = 3


@contextlib.contextmanager
def attached(address: str) -> Iterator[str | None]:
    """Attach to the Ray at `address` and yield the URL of its dashboard, if it has one. Raises ClusterError."""
    import ray

    check_port(address)
    try:
        context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises RuntimeError, ValueError, ConnectionError and its own
        ray.shutdown()
        raise ClusterError(
            f"the Ray at {address} does not take us: {(str(error).strip().splitlines() or [type(error).__name__])[0]}",
            where="address",
            fix="check the address; for a cluster with token authentication set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH",
        ) from error
    url = getattr(context, "dashboard_url", None)
    try:
        yield f"http://{url}" if url and "://" not in url else url or None
    finally:
        ray.shutdown()


def inspect(storage: Path | None) -> list[NodeFacts]:
    """Return what every living node of the attached cluster is, and whether it sees `storage` as the driver does.

    What is written below `storage` for that goes again.
    """
    import ray

    listed = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    ids = list(listed)
    machines = _everywhere(ids, probe.machine, storage or Path())
    # Only where something ran: each other node would be waited for again.
    shared = _meet([one for one in ids if isinstance(machines[one], Machine)], storage) if storage else {}
    skews = _skews([one for one in ids if isinstance(machines[one], Machine)])
    found = []
    for one in ids:
        node, machine = listed[one], machines[one]
        there = machine if isinstance(machine, Machine) else None
        found.append(
            NodeFacts(
                name=node.get("NodeName") or one[:8],
                address=node["NodeManagerAddress"],
                resources=dict(node["Resources"]),
                metrics_port=int(node.get("MetricsExportPort") or 0),
                machine=there,
                skew=skews.get(one),
                storage=shared.get(one),
                error="" if there else str(machine),
            )
        )
    return found


def _everywhere(ids: Sequence[str], function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Run a function once on each node; what raised there, or did not answer in time, comes back as its words."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Without a CPU: a full cluster must answer too. Without a retry: what ended the first try is the finding.
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        one: remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(one, soft=False)).remote(*arguments)
        for one in ids
    }
    ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_SECONDS) if asked else ([], [])
    found: dict[str, Any] = {}
    for one, reference in asked.items():
        if reference not in ready:
            ray.cancel(reference, force=True)
            found[one] = f"no answer within {_SECONDS:g} s"
            continue
        try:
            found[one] = ray.get(reference)
        except ray.exceptions.RayError as error:
            found[one] = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return found


def _skews(ids: Sequence[str]) -> dict[str, Skew]:
    """Bound each node's clock by the round trip to it: the narrowest of a few."""
    found: dict[str, Skew] = {}
    for one in ids:
        # The first round is slow, and the narrowest bounds count.
        for _ in range(_ROUNDS):
            before = time.time()
            # One node at a time: waiting for others would widen the bounds.
            there = _everywhere([one], probe.clock)[one]
            after = time.time()
            if isinstance(there, float):
                bounds = Skew(there - after, there - before)
                old = found.get(one)
                found[one] = bounds if old is None else Skew(max(old.low, bounds.low), min(old.high, bounds.high))
    return found


def _meet(ids: Sequence[str], storage: Path) -> dict[str, Storage]:
    token, made = uuid.uuid4().hex, _missing(storage)
    try:
        storage.mkdir(parents=True, exist_ok=True)
        probe.mark(storage, token, "driver").write_text(token, encoding="utf-8")
        return {one: _meets(one, storage, token) for one in ids}
    except OSError as error:
        return {one: Storage(False, False, f"the driver cannot write there: {error.strerror}") for one in ids}
    finally:
        with contextlib.suppress(OSError):
            probe.remove_markers(storage, token)
        _everywhere(ids, probe.remove_markers, storage, token)
        # The innermost first, and only what this look made: the storage may be anybody's.
        for folder in made:
            with contextlib.suppress(OSError):  # it was never made, or another process has put something there
                folder.rmdir()


def _meets(one: str, storage: Path, token: str) -> Storage:
    said = _everywhere([one], probe.meet, storage, token, one)[one]
    there = probe.mark(storage, token, one)
    said = said if isinstance(said, Storage) else Storage(False, False, str(said))
    return dataclasses.replace(said, ours_sees_it=there.exists() and there.read_text(encoding="utf-8") == token)


def _missing(folder: Path) -> list[Path]:
    """Return the folders that making `folder` makes, the innermost first."""
    return [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
