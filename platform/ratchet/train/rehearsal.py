"""Before the first step: everything that publishing needs is tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ratchet.errors import StorageError
from ratchet.model.rehearse import try_saving
from ratchet.store.files import free_bytes
from ratchet.train.masters import rounds
from ratchet.train.spec import TrainSpec

ROOM = 1.05
"""Free space that publishing asks for, in sizes of what it writes: disks and file systems keep a little back."""


def rehearse(spec: TrainSpec, model: Any) -> None:
    """Try to publish a plain model as it was loaded, but for its weights. Raises ModelError, StorageError."""
    try_saving(model, Path(spec.model), trust_remote_code=spec.trust_remote_code, chat_template=spec.chat_template)
    masters = 4 if spec.keep_masters and rounds(spec.dtype) else 0
    size = sum(weight.numel() * (weight.element_size() + masters) for weight in model.parameters())
    check_room(Path(spec.folder), size)


def check_room(folder: Path, size: int) -> None:
    """Raise StorageError where the disk has no room for what publishing will write, `size` bytes."""
    if (room := free_bytes(folder)) < ROOM * size:
        raise StorageError(
            f"{_amount(room)} free, and publishing will ask for {_amount(ROOM * size)}",
            where=str(folder),
            fix="free some space, or set cluster.storage to a larger disk, and run again",
        )


def _amount(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
