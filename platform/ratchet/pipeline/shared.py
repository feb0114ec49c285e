"""Steps that lie in the store, where every run that has them finds them: those of a sweep's trials."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from ratchet.store.files import storage_errors


def link(folder: Path, home: Path) -> None:
    """Make `folder` a link to `home`, which is made if need be; a link that leads elsewhere is replaced.

    The link is relative, so that the storage may move. Raises StorageError.
    """
    target = Path(os.path.relpath(home, folder.parent))
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    with storage_errors(folder):
        home.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.is_symlink() or folder.readlink() != target:
            aside.symlink_to(target)
            aside.replace(folder)


def drop_checkpoints(home: Path) -> None:
    """Remove the checkpoints of a finished step, whose model is there: a checkpoint is several models large."""
    with storage_errors(home):
        shutil.rmtree(home / "checkpoints", ignore_errors=True)
