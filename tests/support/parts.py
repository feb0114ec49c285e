"""Divides tiers: which part of a long one each file of tests is in, and which files one process runs."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path

SECONDS = Path(__file__).with_name("seconds.json")
"""Seconds that a file's long tests took when they were last timed, on 2 cores; any other file counts by its tests."""
A_RUN, A_CASE = 60.0, 5.0
"""What a long test counts that was not timed: seconds of a whole run, and of a case that starts no Ray."""

SHARED = ("session", "token_head", "whole_run")
"""Fixtures that start a Ray, or run a whole plan, for the tests of several files."""
ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def group_of(file: str) -> str:
    """Return the name that files have in common whose tests take the same shared fixture; of any other file its own."""
    path = ROOT / file
    found = re.search(rf"\b({'|'.join(SHARED)}): \w", path.read_text(encoding="utf-8") if path.is_file() else "")
    return found[1] if found else file


def lengths(tests: Mapping[str, int]) -> dict[str, float]:
    """Return how long each file takes, in seconds, from the number of its tests and what was timed."""
    timed: dict[str, float] = json.loads(SECONDS.read_text(encoding="utf-8"))
    runs = ("_ray.py", "_slow.py", "_agent.py", "_stop.py", "_ends.py", "_ways.py")
    each = {file: A_RUN if file.endswith(runs) else A_CASE for file in tests}
    return {file: timed.get(file, each[file] * count) for file, count in tests.items()}


def parts_of(seconds: Mapping[str, float], parts: int) -> dict[str, int]:
    """Return the part of each file, from 1: the longest first, each into the part that is shortest so far.

    Two calls with the same files give the same parts, whatever their order.
    """
    ends = [0.0] * parts
    found = {}
    for file in sorted(seconds, key=lambda file: (-seconds[file], file)):
        part = ends.index(min(ends))
        ends[part] += seconds[file]
        found[file] = part + 1
    return found


def read_part(text: str) -> tuple[int, int]:
    """Return (part, parts) of a text such as `2/6`. Raises ValueError for another."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise ValueError(f"{text!r} is no part: write 1/6 to 6/6")
    return part, parts
