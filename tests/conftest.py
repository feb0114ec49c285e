"""Fixtures that every tier shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def shared() -> Path:
    """The folder of real data beside the checkout; a test that needs it skips where it is absent."""
    folder = Path(os.environ.get("RATCHET_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set RATCHET_SHARED to the folder that holds data/")
    return folder
