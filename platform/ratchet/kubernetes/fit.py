"""What a plan needs of pods, and whether pods have it: number, size, files and keys; and which plan a job runs."""

from __future__ import annotations

import dataclasses
import math
import posixpath
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ratchet.errors import PlanError
from ratchet.kubernetes.forms import IMAGE_FOLDER, IMAGE_PARTS
from ratchet.kubernetes.manifests import at, mapping, mappings, name_of, object_kind
from ratchet.kubernetes.ray_parts import RayPart, environment, mounts_of, ray_container, shared_mounts
from ratchet.pipeline.paths import Named, key_variables, named_files
from ratchet.plan import explain, override
from ratchet.plan.base import is_url
from ratchet.plan.cluster import Cluster
from ratchet.plan.document import SET, Document, Problem, dotted, fail
from ratchet.plan.load import own_problems, planned_suites, read_plan
from ratchet.plan.naming import TEMPLATE
from ratchet.plan.reading import parse
from ratchet.plan.schema import Plan

SPARE_CPUS = 1
"""CPUs of each pod beyond its workers': reading, cutting and moving data happen beside them."""
VERBS = {"run": 1, "score": 1, "sweep": 2}
"""Commands of Ratchet that a job may run, and how many files each takes."""


@dataclasses.dataclass(frozen=True)
class Pods:
    """Pods of one group: how many at least and at most, and what each has. `workers` is how many it holds."""

    fewest: int
    most: int
    workers: int
    cpus: int
    gpus: int


@dataclasses.dataclass(frozen=True)
class Room:
    """What there is: so many pods, at least and at most, with so many CPUs and GPUs each."""

    fewest: int
    most: int
    cpus: float
    gpus: float


def place_workers(cluster: Cluster, *, gpus_per_node: int, workers_per_node: int | None) -> Pods:
    """Divide the workers of a plan among pods, as evenly as they go.

    Where workers have GPUs, a pod holds as many as fit into `gpus_per_node`. `workers_per_node` lowers that;
    without GPUs it alone decides, and None puts all workers into one pod. Raises PlanError where a worker, or a
    vLLM engine, does not fit into a node.
    """
    fit = _limit(cluster, gpus_per_node, workers_per_node)
    engine = cluster.gpus_per_actor
    engines = int(gpus_per_node // engine) if engine else fit
    if not engines:
        raise PlanError(
            f"an engine needs {engine:g} GPUs of one node, and a node has {gpus_per_node}",
            where="cluster.tensor_parallel",
            fix="larger nodes (--gpus-per-node), or a smaller tensor_parallel",
            code="plan.no-room",
        )
    nodes = max(math.ceil(cluster.most_workers / fit), math.ceil(cluster.score_actors / engines))
    workers, actors = math.ceil(cluster.most_workers / nodes), math.ceil(cluster.score_actors / nodes)
    # A scoring process takes one CPU, also where its engine has GPUs.
    cpus = math.ceil(max(workers * cluster.cpus_per_worker, actors)) + SPARE_CPUS
    gpus = math.ceil(max(workers * cluster.gpus_per_worker, actors * engine))
    in_pod = int(gpus // engine) if engine else cpus
    needed = max(math.ceil(cluster.fewest_workers / workers), math.ceil(cluster.score_actors / min(in_pod, cpus)))
    return Pods(min(nodes, needed), nodes, workers, cpus, gpus)


def _limit(cluster: Cluster, gpus_per_node: int, workers_per_node: int | None) -> int:
    if not cluster.gpus_per_worker:
        return workers_per_node or cluster.most_workers
    fit = int(gpus_per_node // cluster.gpus_per_worker)
    if not fit:
        raise PlanError(
            f"a worker needs {cluster.gpus_per_worker:g} GPUs, and a node has {gpus_per_node}",
            where="cluster.gpus_per_worker",
            fix="larger nodes (--gpus-per-node), or fewer GPUs for each worker",
            code="plan.no-room",
        )
    return min(fit, workers_per_node or fit)


def lacks(cluster: Cluster, rooms: list[Room]) -> Iterator[str]:
    """Yield what a plan does not find in the pods of a Ray cluster, and what it would leave unused."""
    needs = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    for size, workers in (("fewest", cluster.fewest_workers), ("most", cluster.most_workers)):
        there = sum(getattr(room, size) * _holds(room, needs) for room in rooms)
        if there < workers:
            yield (
                f"the plan has {workers} workers of {needs['CPU']:g} CPUs and {needs['GPU']:g} GPUs, "
                f"and the {'smallest' if size == 'fewest' else 'largest'} number of pods holds {there}"
            )
            return
    engine = cluster.gpus_per_actor
    if engine and sum(room.fewest * int(room.gpus // engine) for room in rooms) < cluster.score_actors:
        yield f"the plan scores with {cluster.score_actors} processes of {engine:g} GPUs, and the pods do not hold them"
    if sum(room.fewest * room.cpus for room in rooms) < cluster.score_actors:
        yield f"the plan scores with {cluster.score_actors} processes, and the pods have fewer CPUs"
    if not engine and any(room.gpus and room.most for room in rooms):
        yield "the pods have GPUs, and the plan uses none: set cluster.gpus_per_worker"


def _holds(room: Room, needs: dict[str, float]) -> int:
    """Return how many workers a pod holds."""
    # Ray rounds a pod's CPUs up.
    by_cpu = math.ceil(room.cpus) // needs["CPU"]
    return int(min(by_cpu, room.gpus // needs["GPU"]) if needs["GPU"] else by_cpu)


@dataclasses.dataclass(frozen=True)
class Command:
    """`ratchet <verb> <files> <flags> --set <overrides>`, in words."""

    verb: str
    files: tuple[str, ...]
    overrides: tuple[str, ...]
    flags: tuple[str, ...]

    def line(self) -> str:
        """Return it as one line of shell."""
        sets = [word for one in self.overrides for word in ("--set", one)]
        return shlex.join(["ratchet", self.verb, *self.files, *self.flags, *sets])


def read_command(line: str) -> Command | None:
    """Return the command of Ratchet in an entrypoint; None where it is another's. Raises ValueError for open quotes."""
    words = shlex.split(line)
    if words[:1] != ["ratchet"] or len(words) < 2 or words[1] not in VERBS:
        return None
    files: list[str] = []
    overrides: list[str] = []
    flags: list[str] = []
    rest = iter(words[2:])
    for word in rest:
        if word == "--set":
            overrides.append(next(rest, ""))
        elif word.startswith("--set="):
            overrides.append(word.removeprefix("--set="))
        else:
            (flags if word.startswith("-") else files).append(word)
    return Command(words[1], tuple(files), tuple(overrides), tuple(flags))


def planned(command: Command, head: RayPart, objects: Sequence[Document], root: Path) -> Plan:
    """Return the plan of a command: from a ConfigMap that the head mounts, else from the image's copy of `root`.

    Suites that it names are not read. Raises PlanError where the plan is in neither, or is wrong.
    """
    if not command.files:
        raise PlanError(f"`ratchet {command.verb}` names no plan")
    name = command.files[0]
    # A ConfigMap lies over the image's folder, so it comes first: it is what the pod sees.
    text = mounted_file(str(Path(IMAGE_FOLDER, name)), head, objects)
    if text is None and Path(name).is_absolute():
        raise PlanError(
            f"{name}: no ConfigMap here is mounted there, and the image has plans below {IMAGE_FOLDER} alone"
        )
    if text is None:
        document = read_plan(root / name, command.overrides)
    else:
        document = override.apply(parse(text, name), command.overrides)
    fail(own_problems(document))
    plan, problems = explain.validate(Plan, document)
    fail(problems)
    if plan is None:
        raise PlanError(f"{name}: is no plan")
    return plan


def mounted_file(path: str, pod: RayPart, objects: Sequence[Document]) -> str | None:
    """Return the text that a pod sees at `path`, where that is a file of a ConfigMap among the objects."""
    maps = {name_of(one): mapping(one.data, "data") for one in objects if object_kind(one) == "ConfigMap"}
    volumes = {str(volume.get("name")): volume for volume in mappings(pod.data, "volumes")}
    for mount in mounts_of(pod):
        files = maps.get(str(at(volumes.get(str(mount.get("name"))), "configMap", "name")))
        if files is None:
            continue
        folder = str(mount.get("mountPath"))
        key = str(mount.get("subPath")) if path == folder else path.removeprefix(f"{folder}/")
        if (path == folder or path.startswith(f"{folder}/")) and key in files:
            return str(files[key])
    return None


def templates(plan: Plan) -> list[str]:
    """Return the chat templates that a plan and its suites name relative to the current folder."""
    return list(dict.fromkeys(one.text for one in named_files(plan) if _is_carried(one)))


def unmet(document: Document, plan: Plan, pods: Sequence[RayPart], checkout: Path) -> Iterator[Problem]:
    """Yield what pods would not find of what a plan and its suites name, each with its line.

    `checkout` is the folder of which the image is made.
    """
    if plan.cluster.ray.elsewhere:
        what = "a job runs on the Ray of its own pods: leave it out"
        yield document.problem(("cluster", "ray", "address"), what)
    folders = sorted(folder for folder, _ in shared_mounts(pods[0]))
    for one in named_files(plan):
        if what := _template_fault(one.text) if _is_carried(one) else _file_fault(one, folders, checkout):
            yield _problem(document, plan, one, what)
    for one in key_variables(plan):
        if not all(_has(pod, one.text) for pod in pods):
            yield _problem(document, plan, one, f"no pod has {one.text}: {_keys(pods[0])}")


def _is_carried(one: Named) -> bool:
    return one.path[-1] == TEMPLATE and not one.text.startswith(("/", "~"))


def _template_fault(text: str) -> str:
    here, path = Path.cwd().resolve(), Path(text)
    if ".." in path.parts or not path.resolve().is_relative_to(here):
        return f"{text} must lie below the current folder, to lie there in the pods too"
    if not path.is_file():
        return f"there is no file {text} here, to go along in the ConfigMap"
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return f"{text} is no UTF-8 text"
    return ""


def _file_fault(one: Named, folders: Sequence[str], checkout: Path) -> str:
    if is_url(one.text):
        return ""
    path = PurePosixPath(posixpath.normpath(one.text))
    if any(path.is_relative_to(folder) for folder in folders):
        return ""
    if one.suite is not None and path.parts[0] in IMAGE_PARTS and _same(Path(path), checkout / path):
        return ""
    return f"{one.text} is not on the volume of the pods: put it there, and write a path below {' or '.join(folders)}"


def _same(here: Path, of_image: Path) -> bool:
    """Tell whether the image has a file, and not another than the one that is meant here."""
    return of_image.exists() and (not here.exists() or here.samefile(of_image))


def _has(pod: RayPart, variable: str) -> bool:
    container = ray_container(pod)
    return environment(container, variable) is not None or bool(container.data.get("envFrom"))


def _keys(pod: RayPart) -> str:
    """Say which variables come from Secrets, and how another does."""
    there = [str(one.data["name"]) for one in ray_container(pod).parts("env") if "valueFrom" in one.data]
    return f"take one that is there ({', '.join(there) or 'none'}), or add it to the overlay's pods by secretKeyRef"


def _problem(document: Document, plan: Plan, one: Named, what: str) -> Problem:
    """Return a problem of the plan's or a suite's key; of a suite's key that the plan sets, at the plan's line."""
    if one.suite is None:
        return document.problem(one.path, what)
    found = one.suite.document.problem(one.path, what)
    if found.place.file != SET:
        return found
    n = [suite.name for suite in planned_suites(plan)].index(one.suite.name)
    return document.problem(("evaluate", n), f"{one.suite.name}: {dotted(one.path)}: {what}")
