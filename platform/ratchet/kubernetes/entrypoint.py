"""What a job's entrypoint runs: which plan, with which values, and where the plan is."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from ratchet.errors import PlanError
from ratchet.kubernetes.house import mounts_of
from ratchet.kubernetes.manifests import at, mapping, mappings, name_of, object_kind
from ratchet.kubernetes.names import IMAGE_FOLDER
from ratchet.kubernetes.ray_parts import RayPart
from ratchet.plan import explain, override
from ratchet.plan.document import Document, fail
from ratchet.plan.load import own_problems, read_plan
from ratchet.plan.reading import parse
from ratchet.plan.schema import Plan

VERBS = {"run": 1, "score": 1, "sweep": 2}
"""Commands of Ratchet that a job may run, and how many files each takes."""


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
