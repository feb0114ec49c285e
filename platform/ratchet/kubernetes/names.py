"""What Kubernetes takes for namespaces, folders, images and sizes, and which of them are sane."""

from __future__ import annotations

import posixpath
import re
from pathlib import PurePosixPath

from ratchet.kubernetes.manifests import quantity

IMAGE_FOLDER = "/opt/ratchet"
"""The image's working folder, which has `IMAGE_PARTS` of the repository."""
IMAGE_PARTS = ("eval", "jobs", "tune_spaces")
MOST = {"cpu": 4096.0, "memory": 64.0 * 1024**4}
"""More CPUs and bytes than any machine has that one can rent: what is above is a slip."""
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_HOST = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:[0-9]{1,5})?"
_NAME = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(rf"({_HOST}/)?{_NAME}(/{_NAME})*(:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(@sha256:[0-9a-f]{{64}})?")
_SYSTEM = tuple(f"/{name}" for name in "bin boot dev etc lib lib32 lib64 proc root run sbin sys tmp usr".split())  # noqa: SIM905
_SYSTEM_ITSELF = ("/home", "/opt", "/var")


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


def size_fault(kind: str, value: object) -> str:
    """Return what is wrong with an amount of `cpu` or `memory`, the unit or byte: nothing, or a sentence."""
    found = quantity(value)
    return f"{kind} {value} is more than any machine has" if found is not None and found > MOST[kind] else ""
