"""What a plan and its suites need of pods: files on the volume, in the image or carried along, keys, a Ray."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ratchet.kubernetes.house import shared_mounts
from ratchet.kubernetes.names import IMAGE_PARTS
from ratchet.kubernetes.ray_parts import RayPart, environment, ray_container
from ratchet.pipeline.named import Named, key_variables, named_files
from ratchet.plan.document import SET, Document, Problem, dotted
from ratchet.plan.load import planned_suites
from ratchet.plan.naming import TEMPLATE
from ratchet.plan.schema import Plan


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
