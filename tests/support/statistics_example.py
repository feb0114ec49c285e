"""Names of made-up items."""

from __future__ import annotations


def names(count: int) -> list[str]:
    return [f"item {index}" for index in range(count)]
