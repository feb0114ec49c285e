"""What the nodes of a cluster are like, and like each other, and whether a plan fits them: from facts to findings.

Thresholds are this module's, and stand beside their reasons.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ratchet.doctor.facts import Finding, Machine, NodeFacts, Versions, ok, problem, warning
from ratchet.errors import some
from ratchet.pipeline.session import holds_worker, needs, shortages
from ratchet.pipeline.sizes import bytes_written, stored_parameters, weight_bytes
from ratchet.plan.cluster import Cluster
from ratchet.plan.schema import Plan
from ratchet.store.files import bytes_text

_MUST_AGREE = ("python", "ray", "ratchet", "torch")
_SHOULD_AGREE = ("transformers", "tokenizers", "deepspeed", "peft", "numpy", "pyarrow", "vllm")
_SKEW_WARNING, _SKEW_PROBLEM = 1.0, 60.0
"""Seconds. Records are ordered by the second; TLS and tokens of clouds fail at minutes."""
_FEW_FILES = 65_536
"""Ray's own advice: each worker process and each connection takes handles."""
_TOO_FEW_FILES = 4_096
_LITTLE_SHARED_MEMORY = 1 << 30
"""NCCL exchanges between the processes of one machine through it; Docker gives 64 MiB."""
_LITTLE_DISK, _TOO_LITTLE_DISK = 10 << 30, 1 << 30
"""Where the plan's own need is not known: checkpoints of a small model, Ray's logs and spilled objects."""


@dataclasses.dataclass(frozen=True)
class Advisory:
    """A hole. `fixed_in` is the first version without it."""

    id: str
    package: str
    fixed_in: str
    what: str


ADVISORIES = (
    Advisory("CVE-2025-62593", "ray", "2.52.0", "a page in a browser beside it runs code through the dashboard"),
    Advisory("CVE-2026-27482", "ray", "2.54.0", "a page in a browser deletes jobs and applications"),
    Advisory("CVE-2025-32434", "torch", "2.6.0", "torch.load runs code of a file even with weights_only"),
    Advisory("GHSA-63cw-57p8-fm3p", "torch", "2.10.0", "torch.load with weights_only corrupts memory"),
    Advisory("CVE-2026-5241", "transformers", "5.3.0", "a model's config.json runs code without trust_remote_code"),
    Advisory("CVE-2026-4372", "transformers", "5.3.0", "a model's config.json runs code without trust_remote_code"),
)
"""Versions with known holes. No full list, and as of November 2026: it holds what a run of Ratchet comes to meet.

Sources are the advisories themselves: `https://www.cve.org/CVERecord?id=<CVE>`, `https://github.com/advisories/<GHSA>`.
No version mends CVE-2023-48022 (anyone who reaches a Ray without authentication runs code on it): the checks
`authentication` and `dashboard` look for it.
"""


def answering_machines(nodes: Sequence[NodeFacts]) -> list[tuple[str, Machine]]:
    """Return the machines that answered, by their node's name."""
    return [(node.name, node.machine) for node in nodes if node.machine is not None]


def nodes_answer(nodes: Sequence[NodeFacts]) -> Finding:
    """Whether something of Ratchet runs on every node."""
    silent = [f"{node.name} ({node.error})" for node in nodes if node.machine is None]
    if silent:
        return problem(
            "nodes", f"nothing runs on {some(silent)}", "install the same Ratchet on every node: one image for all"
        )
    return ok("nodes", f"{len(nodes)} of {len(nodes)} answer: {some([node.name for node in nodes])}")


def same_versions(client: Versions, nodes: Sequence[NodeFacts]) -> Finding:
    """Whether client and nodes run the same Python, Ray, Ratchet and torch, and the other libraries."""
    by_place = [("the driver", client), *((name, machine.versions) for name, machine in answering_machines(nodes))]
    for level, libraries in ((problem, _MUST_AGREE), (warning, _SHOULD_AGREE)):
        found = (_differing(one, [(at, have.get(one, "none")) for at, have in by_place]) for one in libraries)
        differing = [told for told in found if told]
        if differing:
            return level("versions", "; ".join(differing), "use one image, or one constraints file, everywhere")
    return ok("versions", f"the same everywhere: ray {client.get('ray', '–')}, torch {client.get('torch', '–')}")


def known_holes(found: Sequence[tuple[str, Versions]]) -> Finding:
    """Whether some place runs a version with a known hole. `found` is place and versions."""
    told = {
        f"{one.package} {versions[one.package]} at {place}: {one.id} ({one.what}; fixed in {one.fixed_in})"
        for place, versions in found
        for package in versions
        for one in holes(package, versions[package])
    }
    if told:
        return problem("known holes", "; ".join(sorted(told)), "install these versions or later, everywhere")
    return ok("known holes", "none of the table in docs/security.md")


def storage(path: str, nodes: Sequence[NodeFacts]) -> Finding:
    """Whether the nodes and the driver see one storage folder."""
    lost, asked = [], [node for node in nodes if node.storage is not None]
    if not asked:
        return warning("storage", f"{path} could not be looked at: no node answers", "see the check `nodes`")
    for node in asked:
        if (seen := node.storage) is not None and not (seen.sees_ours and seen.ours_sees_it):
            what = "does not see the driver's files" if not seen.sees_ours else "writes what the driver does not see"
            lost.append(f"{node.name} {what}{f' ({seen.error})' if seen.error else ''}")
    if lost:
        return problem(
            "storage",
            f"{path} is not one folder for all: {some(lost)}",
            "set cluster.storage to a folder on a disk that all nodes mount under one path (NFS, ReadWriteMany)",
        )
    return ok("storage", f"{path} is the same folder for the driver and {_nodes(len(asked))}")


def clocks(nodes: Sequence[NodeFacts]) -> Finding:
    """Whether the nodes' clocks agree with the driver's, as far as the round trip lets one say."""
    off = {node.name: node.skew.certain for node in nodes if node.skew is not None}
    far = [f"{name} by at least {seconds:.1f} s" for name, seconds in off.items() if seconds > _SKEW_WARNING]
    if far:
        level = problem if max(off.values()) > _SKEW_PROBLEM else warning
        return level("clocks", f"off the driver's: {some(far)}", "let every node keep time by NTP (chrony)")
    return ok("clocks", f"{_nodes(len(off))} agree with the driver's within {_SKEW_WARNING:g} s")


def gpus(nodes: Sequence[NodeFacts], wanted: bool) -> Finding:
    """Whether GPUs can be used, and are alike. `wanted` says that the plan asks for GPUs."""
    having = [(name, machine) for name, machine in answering_machines(nodes) if machine.gpus or machine.cuda_devices]
    if not having:
        if wanted:
            return problem(
                "GPUs", "the plan wants GPUs and no node has one", "set gpus_per_worker to 0, or add GPU nodes"
            )
        return ok("GPUs", "there are none, and none is asked for")
    dead = [
        f"{name} ({machine.gpus[0].model})" for name, machine in having if machine.gpus and not machine.cuda_devices
    ]
    if dead:
        do = "install torch's CUDA build (docs/install.md), for a CUDA that the driver knows"
        return (problem if wanted else warning)("GPUs", f"torch uses none of the GPUs of {some(dead)}", do)
    found = [(name, gpu) for name, machine in having for gpu in machine.gpus]
    unlike = (
        _differing("driver", [(name, gpu.driver) for name, gpu in found]),
        _differing("GPU", [(name, gpu.model) for name, gpu in found]),
        _differing("CUDA of torch", [(name, machine.cuda) for name, machine in having if machine.cuda]),
    )
    differing = [told for told in unlike if told]
    if differing:
        return warning(
            "GPUs", "; ".join(differing), "train on nodes that are alike: the slowest decides, and rounding may differ"
        )
    count = sum(len(machine.gpus) or machine.cuda_devices for _, machine in having)
    return ok("GPUs", f"{count} on {_nodes(len(having))}, alike: {some(sorted({gpu.model for _, gpu in found}))}")


def shared_memory(nodes: Sequence[NodeFacts], gpus_wanted: bool) -> Finding:
    """Whether /dev/shm holds the object store, and what NCCL exchanges."""
    small = []
    for node in nodes:
        if node.machine is not None:
            store = int(node.resources.get("object_store_memory", 0))
            least = max(store, _LITTLE_SHARED_MEMORY if gpus_wanted else 0)
            if node.machine.shared_memory < least:
                small.append(f"{node.name} has {bytes_text(node.machine.shared_memory)} of {bytes_text(least)}")
    if small:
        return (problem if gpus_wanted else warning)(
            "shared memory (/dev/shm)",
            f"too small: {some(small)}",
            "give containers more: docker --shm-size, in Kubernetes an emptyDir of medium Memory at /dev/shm",
        )
    return ok("shared memory (/dev/shm)", "holds the object store of every node")


def open_files(nodes: Sequence[NodeFacts]) -> Finding:
    """Whether processes may open enough files and connections."""
    few = {name: machine.open_files for name, machine in answering_machines(nodes) if machine.open_files < _FEW_FILES}
    if few:
        level = problem if min(few.values()) < _TOO_FEW_FILES else warning
        told = some([f"{name} allows {count:,}" for name, count in few.items()])
        return level("file handles", told, f"raise the limit before `ray start`: ulimit -n {_FEW_FILES}")
    return ok("file handles", f"every node allows {_FEW_FILES:,} or more")


def disks(nodes: Sequence[NodeFacts], needed: int | None) -> Finding:
    """Whether storage and temporary folders have room. `needed` is what the plan's checkpoints take, in bytes."""
    told, bad = [], False
    for name, machine in answering_machines(nodes):
        if machine.free_storage is None:
            do = "set cluster.storage to a folder that you may write to"
            return problem("disk", f"{name} cannot write to the storage folder", do)
        for what, free, least in (
            ("storage", machine.free_storage, max(needed, _TOO_LITTLE_DISK) if needed else _LITTLE_DISK),
            ("temporary folder", machine.free_temporary, _LITTLE_DISK),
        ):
            if free < least:
                told.append(f"{what} of {name}: {bytes_text(free, down=True)} free of {bytes_text(least)}")
                bad |= free < _TOO_LITTLE_DISK or (what == "storage" and needed is not None)
    if told:
        do = "free some space, or choose another cluster.storage and --temp-dir"
        return (problem if bad else warning)("disk", some(told), do)
    return ok("disk", "there is room in the storage and temporary folders of every node")


def enough_nodes(cluster: Cluster, nodes: Sequence[NodeFacts]) -> Finding:
    """Whether CPUs and GPUs are there: for the fewest workers that the plan allows, and for the most."""
    have = {kind: sum(node.resources.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
    do = "lower cluster.workers, cluster.score_actors or what each of them takes, or add nodes"
    if short := shortages(cluster, cluster.fewest_workers, have):
        return problem("room for the plan", _short(short), do)
    if not holds_worker(cluster, [node.resources for node in nodes]):
        cpus, gpus = cluster.cpus_per_worker, cluster.gpus_per_worker
        told = f"a worker takes {cpus:g} CPUs and {gpus:g} GPUs, and no node has as many"
        return problem("room for the plan", told, "lower cluster.cpus_per_worker or cluster.gpus_per_worker")
    if short := shortages(cluster, cluster.most_workers, have):
        return warning("room for the plan", f"not for all {cluster.most_workers} workers: {_short(short)}", do)
    told = ", ".join(f"{need:g} of {have[kind]:g} {kind}s" for kind, need in needs(cluster).items() if need)
    return ok("room for the plan", f"it takes {told}")


def object_store(cluster: Cluster, nodes: Sequence[NodeFacts]) -> Finding:
    """Whether each node's object store is as large as the plan would make that of a local Ray."""
    least = cluster.ray.object_store_mb << 20
    small = [node.name for node in nodes if 0 < node.resources.get("object_store_memory", 0.0) < least]
    if small:
        return warning(
            "object store",
            f"smaller than the plan's {cluster.ray.object_store_mb} MiB on {', '.join(small)}: objects go to the disk",
            "start these nodes with a larger --object-store-memory",
        )
    return ok("object store", f"{cluster.ray.object_store_mb} MiB or more on every node")


def largest_step(plan: Plan) -> int | None:
    """Return the bytes that a step of a plan writes at most; None where the model is not here. Raises ModelError."""
    if plan.model.path is None:
        return None
    dtype = plan.model.dtype
    weights = weight_bytes(stored_parameters(Path(plan.model.path)), dtype)
    return max(bytes_written(stage, weights, dtype) for stage in plan.stages.values()) or None


def _differing(what: str, values: Iterable[tuple[str, str]]) -> str:
    """Return which places have which value of `what`, given (place, value); nothing where all have one."""
    places: dict[str, list[str]] = defaultdict(list)
    for place, value in dict.fromkeys(values):
        places[value].append(place)
    told = ", ".join(f"{value} ({some(names)})" for value, names in sorted(places.items()))
    return f"{what} {told}" if len(places) > 1 else ""


def _short(lacking: Mapping[str, tuple[float, float]]) -> str:
    return ", ".join(f"{need:g} {kind}s, and there are {there:g}" for kind, (need, there) in lacking.items())


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"


def holes(package: str, version: str) -> list[Advisory]:
    """Return the known holes of a package's version."""
    return [one for one in ADVISORIES if one.package == package and _numbers(version) < _numbers(one.fixed_in)]


def _numbers(version: str) -> tuple[tuple[int, ...], bool]:
    """Return a version as something that sorts: its numbers, and whether it is the release and not before it."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else [0]
    # 2.10 and 2.10.0 are one version.
    while numbers and numbers[-1] == 0:
        numbers.pop()
    before = re.match(r"\.?(?:a|b|rc|dev)", version[found.end() :] if found else "")
    return tuple(numbers), before is None
