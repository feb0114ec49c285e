"""`ratchet k8s`: write manifests for a plan, and say what is wrong with manifests."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ratchet.commands.arguments import add_plan
from ratchet.errors import PlanError
from ratchet.kubernetes.check import Against, check_objects, holding, read_objects
from ratchet.kubernetes.manifests import parse_manifests, to_yaml
from ratchet.kubernetes.render import RenderOptions, overlays, render_overlay
from ratchet.kubernetes.schema import BUILT_IN, CEL, read_crds
from ratchet.plan.document import fail
from ratchet.plan.outline import either
from ratchet.plan.reading import LARGEST_FILE
from ratchet.store.files import write_text

_STDIN = "-"


def k8s_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ratchet k8s`."""
    commands = parser.add_subparsers(dest="k8s_command", required=True, metavar="COMMAND")
    make = commands.add_parser("render", help="write the manifests of an overlay for a plan")
    add_plan(make)
    make.add_argument("--overlay", required=True, metavar="NAME", help="which overlay, such as toy, gpu, gpus or spot")
    make.add_argument(
        "--k8s", type=Path, default=Path("k8s"), metavar="FOLDER", help="where overlays/ is (default: k8s)"
    )
    make.add_argument("--space", type=Path, metavar="FILE", help="the space of a sweep, for overlay sweep")
    make.add_argument("--name", help="name of the job; the plan's where it is left out")
    make.add_argument("--image", metavar="IMAGE:TAG", help="image of all pods; the overlay's where it is left out")
    make.add_argument("--namespace", metavar="NAME", help="namespace of all objects")
    make.add_argument("--gpus-per-node", type=_whole, metavar="N", help="GPUs that one node has")
    make.add_argument("--workers-per-node", type=_whole, metavar="N", help="most workers of one pod")
    make.add_argument(
        "--memory-per-worker", metavar="SIZE", help="memory of a pod for each of its workers, such as 64Gi"
    )
    _add_gates(make)
    make.add_argument("--out", type=Path, metavar="FILE", help="file to write; standard output where it is left out")
    look = commands.add_parser("check", help="say what is wrong with manifests")
    look.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a file, a kustomization, a folder, or - for stdin"
    )
    look.add_argument("--crds", type=Path, metavar="FOLDER", help="KubeRay's CRDs; RATCHET_CRDS counts too")
    _add_gates(look)
    look.add_argument("--kubernetes", metavar="VERSION", help="check Kubernetes' own kinds too, such as of 1.35")
    look.add_argument(
        "--root", type=Path, default=Path(), metavar="FOLDER", help="where the image's plans are (default: here)"
    )


def _add_gates(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gates",
        nargs="+",
        default=[],
        metavar="NAME",
        help="feature gates that are on in the operator, such as RayCronJob for overlay cron",
    )


def k8s_command(arguments: argparse.Namespace) -> int:
    """Write manifests, or what is wrong with them. Raises PlanError for either command."""
    return _render(arguments) if arguments.k8s_command == "render" else _check(arguments)


def _render(arguments: argparse.Namespace) -> int:
    known = overlays(arguments.k8s)
    if arguments.overlay not in known:
        raise PlanError(f"no overlay is named {arguments.overlay}; there are {either(list(known))}")
    text = to_yaml(
        render_overlay(
            RenderOptions(
                folder=known[arguments.overlay],
                plan=arguments.plan,
                overrides=tuple(arguments.overrides),
                space=arguments.space,
                name=arguments.name,
                image=arguments.image,
                namespace=arguments.namespace,
                gpus_per_node=arguments.gpus_per_node,
                workers_per_node=arguments.workers_per_node,
                memory_per_worker=arguments.memory_per_worker,
            )
        )
    )
    # Read back as `check` reads it, so that nothing is written which that refuses.
    fail(check_objects(parse_manifests(text, "the manifests"), Against(gates=tuple(arguments.gates))))
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        write_text(arguments.out, text)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    folder = arguments.crds or os.environ.get("RATCHET_CRDS")
    if arguments.kubernetes and not BUILT_IN:
        raise PlanError("--kubernetes needs kubernetes-validate", fix="pip install 'ratchet-align[k8s]'")
    against = Against(
        read_crds(Path(folder)) if folder else {}, arguments.kubernetes, arguments.root, tuple(arguments.gates)
    )
    files = [path for path in arguments.paths if str(path) != _STDIN]
    objects = read_objects(files)
    if len(files) < len(arguments.paths):
        # One more than is allowed, so that too much is seen to be that.
        objects += holding(parse_manifests(sys.stdin.read(LARGEST_FILE + 1), "<stdin>"), "<stdin>")
    fail(check_objects(objects, against))
    sys.stdout.write(f"{len(objects)} objects: rules of KubeRay v1.7.0 and of Ratchet kept\n")
    sys.stdout.write(f"schemas of KubeRay: {_schemas(bool(folder))}\n")
    sys.stdout.write(f"schemas of Kubernetes: {arguments.kubernetes or 'not checked (--kubernetes VERSION)'}\n")
    return 0


def _schemas(read: bool) -> str:
    if not read:
        return "not checked (--crds FOLDER)"
    return "checked" if CEL else "checked, but for their CEL rules (pip install 'ratchet-align[k8s]')"


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number
