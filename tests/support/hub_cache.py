"""A model in the hub's cache of this machine, as `huggingface_hub` lays it out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, name: str, folder: Path, commit: str = COMMIT, branch: str | None = None) -> Path:
    """Put a copy of `folder` into the cache as a commit of the model `name`; `branch` then leads to it."""
    home = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / commit, dirs_exist_ok=True)
    if branch is not None:
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / branch).write_text(commit)
    return home / "snapshots" / commit


def use_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let the hub's library look in `cache`, and at nothing else."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
