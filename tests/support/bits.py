"""Damage: single bits of files."""

from __future__ import annotations

from pathlib import Path


def flip(path: Path, byte: int, bit: int = 0) -> None:
    """Change one bit of a file, in its place."""
    with path.open("r+b") as file:
        file.seek(byte)
        old = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([old ^ 1 << bit]))
