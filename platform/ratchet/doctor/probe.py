"""What a process finds out of the machine that it runs on. Runs here and as a Ray task; imports no Ray."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ratchet.doctor.facts import Gpu, Machine, Storage
from ratchet.store.files import free_bytes
from ratchet.store.record import versions

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  where Ray puts its object store
_ASK_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
_ASK_TORCH = "import torch; print(torch.version.cuda or '', torch.cuda.device_count(), sep=',')"
_SECONDS = 60
MARK = ".ratchet-doctor"


def machine(storage: Path) -> Machine:
    """Return what can be seen of this machine."""
    cuda, devices = _torch()
    return Machine(
        name=platform.node(),
        versions=versions(),
        gpus=parse_smi(_output(_ASK_SMI)),
        cuda=cuda,
        cuda_devices=devices,
        shared_memory=shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.is_dir() else 0,
        open_files=_open_files(),
        free_storage=free_bytes(storage) if _writable(storage) else None,
        free_temporary=free_bytes(Path(tempfile.gettempdir())),
    )


def clock() -> float:
    """Return the time of this machine's clock, in seconds since 1970."""
    return time.time()


def meet(storage: Path, token: str, name: str) -> Storage:
    """Look for the driver's marker in the storage folder, and leave one of this node's."""
    try:
        seen = mark(storage, token, "driver").read_text(encoding="utf-8") == token
    except FileNotFoundError:
        seen = False
    except OSError as error:
        return Storage(False, False, f"{type(error).__name__}: {error.strerror}")
    try:
        mark(storage, token, name).write_text(token, encoding="utf-8")
    except OSError as error:
        return Storage(seen, False, f"{type(error).__name__}: {error.strerror}")
    return Storage(seen, False)


def remove_markers(storage: Path, token: str) -> None:
    """Take away the markers of one look."""
    for path in storage.glob(f"{MARK}-{token}-*"):
        path.unlink(missing_ok=True)


def mark(storage: Path, token: str, name: str) -> Path:
    """Return where a marker lies: `name` is `driver`, or a node's."""
    return storage / f"{MARK}-{token}-{name}"


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """Return the GPUs in the answer of nvidia-smi; its memory is in MiB. Lines that tell of no GPU are passed over."""
    found = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[1].isdigit():
            found.append(Gpu(parts[0], int(parts[1]) << 20, parts[2]))
    return tuple(found)


def _torch() -> tuple[str | None, int]:
    """Ask torch in a process of its own: one that has looked at a GPU holds some of its memory."""
    cuda, _, devices = _output((sys.executable, "-c", _ASK_TORCH)).strip().rpartition("\n")[2].partition(",")
    return cuda or None, int(devices) if devices.isdigit() else 0


def _output(command: tuple[str, ...]) -> str:
    """Return what a command says; nothing where it is not there, fails or hangs, as it does on a machine without."""
    # Ray hides the GPUs from a task that asked for none.
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False, env=environment, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _open_files() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def _writable(storage: Path) -> bool:
    folder = storage
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    # The storage need not exist yet: a run makes it where its parent lets it.
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
