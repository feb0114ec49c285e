"""What Kubernetes and KubeRay take for names, folders, images, sizes and schedules, and which of them are sane."""

from __future__ import annotations

import posixpath
import re
from pathlib import PurePosixPath
from typing import Any

IMAGE_FOLDER = "/opt/ratchet"
"""The image's working folder, which has `IMAGE_PARTS` of the repository."""
IMAGE_PARTS = ("eval", "jobs", "tune_spaces")
MOST = {"cpu": 4096.0, "memory": 64.0 * 1024**4}
"""More CPUs and bytes than any machine has that one can rent: what is above is a slip."""
LONGEST_NAMES = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
"""Characters that a name may have: KubeRay makes longer ones of it, which Kubernetes allows 63 of."""
_CRON = (
    ("minute", 0, 59, ""),
    ("hour", 0, 23, ""),
    ("day", 1, 31, ""),
    ("month", 1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    ("weekday", 0, 6, "sun mon tue wed thu fri sat"),
)
"""Fields of a schedule: what each is, its lowest and highest number, and the names of these, from the lowest on."""
_DAILY = {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_HOST = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:[0-9]{1,5})?"
_NAME = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(rf"({_HOST}/)?{_NAME}(/{_NAME})*(:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(@sha256:[0-9a-f]{{64}})?")
_SYSTEM = tuple(f"/{name}" for name in "bin boot dev etc lib lib32 lib64 proc root run sbin sys tmp usr".split())  # noqa: SIM905
_SYSTEM_ITSELF = ("/home", "/opt", "/var")


def name_fault(name: str, longest: int) -> str:
    """Return what is wrong with the name of an object of KubeRay: nothing, or a sentence."""
    if len(name) > longest:
        return f"{name!r} has {len(name)} characters, and KubeRay allows {longest}"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        return f"{name!r}: lower-case letters, digits and hyphens, a letter first and no hyphen last"
    return ""


def label_fault(name: object) -> str:
    """Return what is wrong with a DNS-1123 label, as which namespaces are named: nothing, or a sentence."""
    if isinstance(name, str) and re.fullmatch(_LABEL, name):
        return ""
    return f"{name!r}: at most 63 lower-case letters, digits and hyphens, no hyphen first or last"


def image_form_fault(image: str) -> str:
    """Return what is wrong with the form of an image's name: nothing, or a sentence."""
    return "" if _IMAGE.fullmatch(image) else f"{image!r} is no image: write registry/name:tag, the name in lower case"


def folder_fault(path: object) -> str:
    """Return what is wrong with the folder of a mount: nothing, or a sentence."""
    if not isinstance(path, str) or not re.fullmatch(r"(/[\w.@+-]+)+", path, re.ASCII):
        return f"{path!r}: from the root, of letters, digits and any of `.@+-_`, and not the root itself"
    if posixpath.normpath(path) != path:
        return f"{path!r} goes back on its way: write {posixpath.normpath(path)}"
    return ""


def volume_fault(path: object) -> str:
    """Return what is wrong with the folder of a volume, which hides what is there: nothing, or a sentence."""
    if what := folder_fault(path):
        return what
    folder = PurePosixPath(str(path))
    if any(folder.is_relative_to(one) for one in (*_SYSTEM, IMAGE_FOLDER)) or str(folder) in _SYSTEM_ITSELF:
        return f"{path!r} would hide what the image has there: take a folder such as /mnt/store"
    return ""


def quantity(value: Any) -> float | None:
    """Return a quantity of Kubernetes, such as `500m` or `8Gi`, in units or bytes; None where it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?", str(value), re.ASCII)
    if match is None or isinstance(value, bool):
        return None
    scale = {None: 1.0, "m": 1e-3} | {unit: 1e3 ** (n + 1) for n, unit in enumerate("kMGTP")}
    scale |= {f"{unit}i": 1024.0 ** (n + 1) for n, unit in enumerate("KMGTP")}
    return float(match[1]) * scale[match[2]]


def size_fault(kind: str, value: object) -> str:
    """Return what is wrong with an amount of `cpu` or `memory`, the unit or byte: nothing, or a sentence."""
    found = quantity(value)
    return f"{kind} {value} is more than any machine has" if found is not None and found > MOST[kind] else ""


def cron_fault(schedule: str) -> str:
    """Return what is wrong with a schedule of five fields, or of one word: nothing, or a sentence."""
    if schedule in _DAILY or re.fullmatch(r"@every ((\d+(\.\d*)?|\.\d+)(h|ms|us|ns|m|s))+", schedule):
        return ""
    fields = schedule.split()
    if len(fields) != len(_CRON):
        return f"{schedule!r} has {len(fields)} fields, and five are needed: minute hour day month weekday"
    faults = (_field_fault(text, *field) for text, field in zip(fields, _CRON, strict=True))
    return next((what for what in faults if what), "")


def _field_fault(text: str, what: str, low: int, high: int, names: str) -> str:
    numbers = {name: number for number, name in enumerate(names.split(), low)}
    for piece in text.split(","):
        match = re.fullmatch(r"(?:\*|\?|(\w{1,9})(?:-(\w{1,9}))?)(?:/[1-9]\d*)?", piece, re.ASCII)
        words = [word.lower() for word in match.groups() if word] if match else [""]
        ends = [int(word) if word.isdigit() else numbers.get(word, -1) for word in words]
        if not all(low <= end <= high for end in ends):
            return f"{piece!r} is no {what} ({low} to {high})"
        if ends != sorted(ends):
            return f"{piece!r} begins after its end"
    return ""
